"""Links, fleet and cohort."""

from __future__ import annotations

import math
from collections.abc import Iterator

from topology.checks.registry import Problem, check
from topology.errors import Path
from topology.link_spec import LinkKeys
from topology.links import QUEUE_BYTES_MIN, Way, resolve_link, where, written
from topology.plan import Shape, Sine, Steps
from topology.schema import DEVICES_MAX, LinkSpec, Topology
from topology.variation import LOSS_MAX, RATE_BIT_S_MIN

# tc keeps a limit in 32 bits, and what waits there is the host's memory.
QUEUE_BYTES_MAX = 1 << 30
QUOTA_S_MIN = 0.001  # of one period: min_cfs_quota_period, which the daemon checks too
SLOWEST = f"at least {RATE_BIT_S_MIN} bit/s"
NO_RATE = ("a queue needs a rate to wait for", "add `up` and `down`")


@check("devices", "links")
def links_make_sense(topology: Topology) -> Iterator[Problem]:
    for group, spec in topology.devices.items():
        path: Path = ("devices", group, "link")
        yield from (problem._replace(path=(*path, *problem.path)) for problem in link_problems(spec.link))


def link_problems(spec: LinkSpec) -> Iterator[Problem]:
    """What does not fit in a link as written; paths are below its own. What is written for both directions is wrong
    once.
    """
    link = resolve_link(spec)
    found = [
        *direction_problems(spec, "up", link.up),
        *direction_problems(spec, "down", link.down),
    ]
    if spec.queue is not None and link.up.rate_bit_s is None and link.down.rate_bit_s is None:
        found.append(Problem(("queue",), *NO_RATE))
    yield from {problem.path: problem for problem in reversed(found)}.values()


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
    yield from _rate_problems(way, shape)
    yield from _loss_problems(spec, way, shape)
    yield from _queue_problems(spec, way, shape)
    yield from _vary_problems(spec, way, shape)


def _rate_problems(way: Way, shape: Shape) -> Iterator[Problem]:
    if shape.rate_bit_s is not None and shape.rate_bit_s < RATE_BIT_S_MIN:
        yield Problem((way,), f"{shape.rate_bit_s} bit/s is slower than a shaper goes", SLOWEST)


def _loss_problems(spec: LinkKeys, way: Way, shape: Shape) -> Iterator[Problem]:
    if shape.bursts is not None and not 0 < shape.loss <= LOSS_MAX:
        text = "these bursts lose nothing" if shape.loss == 0 else f"these bursts lose {shape.loss:.3%}"
        yield Problem(
            where(spec, way, "loss"), text, f"in the long run up to {LOSS_MAX:.0%}; see docs/links.md"
        )


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
    elif size > QUEUE_BYTES_MAX:
        yield Problem(
            path, f"is {size} bytes: more than a shaper can hold", f"at most {QUEUE_BYTES_MAX >> 20} MiB"
        )


def _vary_problems(spec: LinkKeys, way: Way, shape: Shape) -> Iterator[Problem]:
    """Scaling nothing, and losses that are told twice."""
    path = where(spec, way, "vary")
    for part in shape.vary:
        if isinstance(part, Steps):
            if shape.bursts is not None and any(step.loss is not None for step in part.steps):
                yield Problem(path, "sets the loss of a link that loses in bursts", "write one of them")
            yield from _step_problems(path, shape, part)
            continue
        if isinstance(part, Sine) and 2 * part.every_s >= part.period_s:
            text = f"is looked at every {part.every_s:g} s, and {part.period_s:g} s long: it would be another wave"
            yield Problem(path, text, "a period of more than twice `every`")
        if part.of == "loss" and shape.bursts is not None:
            yield Problem(path, "scales the loss of a link that loses in bursts", "write one of them")
        base = {"rate": shape.rate_bit_s, "delay": shape.delay_s, "loss": shape.loss}[part.of]
        if not base:
            yield Problem(path, f"scales the {part.of}, and there is none", f"give the link a {part.of}")


def _step_problems(path: Path, shape: Shape, steps: Steps) -> Iterator[Problem]:
    """Numbers that no link has; what a step leaves out stays as it was."""
    delay_s, jitter_s = shape.delay_s, shape.jitter_s
    for step in steps.steps:
        delay_s = delay_s if step.delay_s is None else step.delay_s
        jitter_s = jitter_s if step.jitter_s is None else step.jitter_s
        if step.rate_bit_s is not None and step.rate_bit_s < RATE_BIT_S_MIN:
            yield Problem(path, f"at {step.at_s:g} s the rate is slower than a shaper goes", SLOWEST)
            return
        if jitter_s > delay_s:
            text = f"at {step.at_s:g} s the jitter, {jitter_s * 1000:g} ms, is larger than the delay"
            yield Problem(path, text, "packets cannot arrive early")
            return


@check("devices", "resources")
def quotas_are_possible(topology: Topology) -> Iterator[Problem]:
    for group, spec in topology.devices.items():
        if (quota_s := spec.cpu_period * spec.cores) < QUOTA_S_MIN - 1e-9:
            yield Problem(
                ("devices", group, "cpu_period"),
                f"{spec.cores:g} cores are {quota_s * 1000:g} ms of it, and the kernel gives no less than 1 ms",
                f"at least {QUOTA_S_MIN / spec.cores * 1000:.0f} ms, or more `cpus`",
                value=f"{spec.cpu_period * 1000:g} ms",
            )


@check("devices")
def fleet_is_bounded(topology: Topology) -> Iterator[Problem]:
    count = sum(spec.count for spec in topology.devices.values())
    if count > DEVICES_MAX:
        yield Problem(("devices",), f"{count} devices in all, at most {DEVICES_MAX} are allowed", value=count)
