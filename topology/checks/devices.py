"""Links, fleet and cohort."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

from topology.checks.registry import Problem, check
from topology.errors import Path
from topology.link_spec import LinkKeys
from topology.links import QUEUE_BYTES_MIN, Way, resolve_link, where, written
from topology.plan import Shape, Steps
from topology.schema import DEVICES_MAX, Topology

NO_RATE = ("a queue needs a rate to wait for", "add `up` and `down`")


@check("devices", "links")
def links_make_sense(topology: Topology) -> Iterator[Problem]:
    for group, spec in topology.devices.items():
        link, path = resolve_link(spec.link), ("devices", group, "link")
        found = [
            Problem((*path, *problem.path), problem.message, problem.hint)
            for way, shape in (("up", link.up), ("down", link.down))
            for problem in direction_problems(spec.link, cast(Way, way), shape)
        ]
        if spec.link.queue is not None and link.up.rate_bit_s is None and link.down.rate_bit_s is None:
            found.append(Problem((*path, "queue"), *NO_RATE))
        seen: set[Path] = set()
        for problem in found:  # what is written once for both directions is wrong once
            if problem.path not in seen:
                seen.add(problem.path)
                yield problem


def direction_problems(spec: LinkKeys, way: Way, shape: Shape) -> Iterator[Problem]:
    """What does not fit in one direction; paths are below the link's own."""
    if shape.jitter_s > shape.delay_s:
        yield Problem(
            where(spec, way, "jitter"),
            f"larger than the delay of {shape.delay_s * 1000:g} ms",
            "packets cannot arrive early",
        )
    if shape.reorder > 0 and shape.delay_s == 0:
        yield Problem(
            where(spec, way, "reorder"),
            "packets can overtake only those that are delayed",
            "add a `delay`",
        )
    yield from _queue_problems(spec, way, shape)
    yield from _vary_problems(spec, way, shape)


def _queue_problems(spec: LinkKeys, way: Way, shape: Shape) -> Iterator[Problem]:
    path = where(spec, way, "queue")
    queue = written(spec, way, "queue")
    if queue is None:
        return
    if shape.rate_bit_s is None:
        if len(path) > 1:
            yield Problem(path, *NO_RATE)
        return
    size = queue.size_bytes
    if size is None:
        size = math.ceil(shape.rate_bit_s / 8 * queue.duration_s)
    if size < QUEUE_BYTES_MIN:
        yield Problem(
            path,
            f"is {size} bytes at {shape.rate_bit_s} bit/s, less than two full frames",
            f"at least {QUEUE_BYTES_MIN} bytes",
        )


def _vary_problems(spec: LinkKeys, way: Way, shape: Shape) -> Iterator[Problem]:
    """Scaling nothing, and losses that are told twice."""
    path = where(spec, way, "vary")
    for part in shape.vary:
        if isinstance(part, Steps):
            if shape.bursts is not None and any(step.loss is not None for step in part.steps):
                yield Problem(path, "sets the loss of a link that loses in bursts", "write one of them")
            continue
        if part.of == "loss" and shape.bursts is not None:
            yield Problem(path, "scales the loss of a link that loses in bursts", "write one of them")
        base = {"rate": shape.rate_bit_s, "delay": shape.delay_s, "loss": shape.loss}[part.of]
        if not base:
            yield Problem(path, f"scales the {part.of}, and there is none", f"give the link a {part.of}")


@check("devices")
def fleet_is_bounded(topology: Topology) -> Iterator[Problem]:
    count = sum(spec.count for spec in topology.devices.values())
    if count > DEVICES_MAX:
        yield Problem(("devices",), f"{count} devices in all, at most {DEVICES_MAX} are allowed", value=count)
