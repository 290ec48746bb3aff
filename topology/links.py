"""A link as written, resolved to the two shapes of a plan."""

from __future__ import annotations

import math

from topology.fields import QueueLimit
from topology.plan import Link, Shape
from topology.profiles import LINKS
from topology.schema import LinkSpec

QUEUE_DEFAULT_S = 0.2  # of the link's rate: what home routers and mobile links are commonly found to buffer
# A full frame of 1514 bytes in transmission and one waiting; a shaper with less drops every second packet of
# a burst.
QUEUE_BYTES_MIN = 2 * 1514


def resolve_link(spec: LinkSpec) -> Link:
    """The profile's numbers with the file's own on top."""
    profile = LINKS[spec.profile or "unshaped"]
    own = spec.model_fields_set - {"profile"}
    name = spec.profile if spec.profile and not own else "custom"
    return Link(
        name=name, up=_resolve(spec, profile.up, spec.up), down=_resolve(spec, profile.down, spec.down)
    )


def _resolve(spec: LinkSpec, default: Shape, rate_bit_s: int | None) -> Shape:
    rate = rate_bit_s if rate_bit_s is not None else default.rate_bit_s
    return Shape(
        rate_bit_s=rate,
        delay_s=spec.delay if spec.delay is not None else default.delay_s,
        jitter_s=spec.jitter if spec.jitter is not None else default.jitter_s,
        loss=spec.loss if spec.loss is not None else default.loss,
        queue_bytes=_queue_bytes(spec.queue, rate),
    )


def _queue_bytes(queue: QueueLimit | None, rate_bit_s: int | None) -> int | None:
    if rate_bit_s is None:
        return None
    if queue is None:
        return max(QUEUE_BYTES_MIN, math.ceil(rate_bit_s / 8 * QUEUE_DEFAULT_S))
    if queue.size_bytes is not None:
        return queue.size_bytes
    return math.ceil(rate_bit_s / 8 * (queue.duration_s or 0.0))
