"""Links, fleet and cohort."""

from __future__ import annotations

from collections.abc import Iterator

from topology.checks.registry import Problem, check
from topology.errors import Path
from topology.links import QUEUE_BYTES_MIN, resolve_link
from topology.schema import DEVICES_MAX, Topology


@check("devices", "links")
def links_make_sense(topology: Topology) -> Iterator[Problem]:
    for group, spec in topology.devices.items():
        path: Path = ("devices", group, "link")
        link = resolve_link(spec.link)
        slowest_delay_s = min(link.up.delay_s, link.down.delay_s)
        if max(link.up.jitter_s, link.down.jitter_s) > slowest_delay_s:
            yield Problem(
                (*path, "jitter"),
                f"larger than the delay of {slowest_delay_s * 1000:g} ms",
                "packets cannot arrive early",
            )
        queue = spec.link.queue
        if queue is not None and link.up.rate_bit_s is None and link.down.rate_bit_s is None:
            yield Problem((*path, "queue"), "a queue needs a rate to wait for", "add `up` and `down`")
        for shape in (link.up, link.down) if queue is not None else ():
            if shape.queue_bytes is not None and shape.queue_bytes < QUEUE_BYTES_MIN:
                yield Problem(
                    (*path, "queue"),
                    f"is {shape.queue_bytes} bytes at {shape.rate_bit_s} bit/s, less than two full frames",
                    f"at least {QUEUE_BYTES_MIN} bytes",
                )
                break


@check("devices")
def fleet_is_bounded(topology: Topology) -> Iterator[Problem]:
    count = sum(spec.count for spec in topology.devices.values())
    if count > DEVICES_MAX:
        yield Problem(("devices",), f"{count} devices in all, at most {DEVICES_MAX} are allowed", value=count)
