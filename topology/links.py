"""A link as written, resolved to the two shapes of a plan."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from topology.link_random import mean_loss
from topology.link_spec import DirectionKeys, DirectionSpec, LinkKeys, LossSpec, VarySpec
from topology.plan import Bursts, Link, RandomWalk, Shape, Sine, Step, Steps, Variation
from topology.profiles import LINKS
from topology.schema import LinkSpec
from topology.traces import STEP_S_MIN
from topology.variation import QUEUE_BYTES_MIN, with_queue

__all__ = [
    "QUEUE_BYTES_MIN",
    "QUEUE_DEFAULT_S",
    "Way",
    "overlay",
    "resolve_direction",
    "resolve_link",
    "where",
    "written",
]

Way = Literal["up", "down"]
QUEUE_DEFAULT_S = 0.2  # of the link's rate: what home routers and mobile links are commonly found to buffer
SINE_STEPS = 20  # of one period, when the file does not say


def resolve_link(spec: LinkSpec, seed: str = "") -> Link:
    """The profile's numbers with the file's own on top. `seed` names the random walks of this device's link."""
    profile = LINKS[spec.profile or "unshaped"]
    own = spec.model_fields_set - {"profile"}
    name = spec.profile if spec.profile and not own else "custom"
    return Link(
        name=name,
        up=resolve_direction(spec, "up", profile.up, f"{seed}/up"),
        down=resolve_direction(spec, "down", profile.down, f"{seed}/down"),
    )


def resolve_direction(spec: LinkKeys, way: Way, base: Shape, seed: str = "") -> Shape:
    """One direction: its own keys, then the link's, then `base`."""
    own = spec.up if way == "up" else spec.down

    def pick(name: str) -> Any:
        return written(spec, way, name)

    numbers: dict[str, Any] = {}
    if own is not None and own.rate is not None:
        numbers["rate_bit_s"] = own.rate
    for name, key in (("delay", "delay_s"), *((n, n) for n in ("reorder", "duplicate", "corrupt"))):
        if pick(name) is not None:
            numbers[key] = pick(name)
    if (jitter := pick("jitter")) is not None:
        numbers |= {"jitter_s": jitter.deviation, "jitter_kind": jitter.kind}
    if (loss := pick("loss")) is not None:
        numbers |= _loss(loss)
    if (vary := pick("vary")) is not None:
        numbers["vary"] = _variations(vary, seed)
    shape = msgspec.structs.replace(base, **numbers)
    return _with_own_queue(shape, pick("queue"))


def overlay(before: LinkSpec, given: LinkSpec) -> LinkSpec:
    """What was written, with what is given now on top, key by key also within `up` and `down`. A number given for both
    directions replaces those that one direction had of its own.
    """
    keys = {key: getattr(before, key) for key in before.model_fields_set}
    for key in given.model_fields_set:
        value, old = getattr(given, key), keys.get(key)
        if isinstance(value, DirectionSpec) and isinstance(old, DirectionSpec):
            value = old.model_copy(update={name: getattr(value, name) for name in value.model_fields_set})
        keys[key] = value
    for way in {"up", "down"} & set(before.model_fields_set):
        own = given.up if way == "up" else given.down
        of_one = own.model_fields_set if own is not None else frozenset()
        hidden = (given.model_fields_set - {"up", "down"}) - of_one
        if keys[way] is not None:
            keys[way] = keys[way].model_copy(update=dict.fromkeys(hidden & set(DirectionKeys.model_fields)))
    return LinkSpec.model_construct(_fields_set=set(keys), **keys)


def _loss(spec: LossSpec) -> dict[str, Any]:
    if spec.p is None or spec.r is None:
        return {"loss": spec.random, "bursts": None}
    bursts = Bursts(p=spec.p, r=spec.r, bad=spec.bad, good=spec.good)
    return {"loss": mean_loss(bursts), "bursts": bursts}


def _with_own_queue(shape: Shape, queue: Any) -> Shape:
    """Bytes as written; a time as the bytes it is at the link's rate, at least two frames unless it was written."""
    if shape.rate_bit_s is None:
        return shape
    if queue is not None and queue.size_bytes is not None:
        return msgspec.structs.replace(shape, queue_bytes=queue.size_bytes, queue_s=None)
    wanted_s = QUEUE_DEFAULT_S if queue is None else queue.duration_s
    return with_queue(msgspec.structs.replace(shape, queue_s=wanted_s))


def _variations(spec: VarySpec, seed: str) -> tuple[Variation, ...]:
    found: list[Variation] = []
    if spec.steps is not None:
        found.append(Steps(steps=tuple(_step(step) for step in spec.steps), repeat_s=spec.repeat or 0.0))
    if spec.trace is not None and spec.trace.steps is not None:
        found.append(spec.trace.steps)
    if (sine := spec.sine) is not None:
        every_s = sine.every or max(STEP_S_MIN, sine.period / SINE_STEPS)
        found.append(
            Sine(
                of=sine.of,
                amplitude=sine.amplitude,
                period_s=sine.period,
                every_s=every_s,
                phase=sine.phase,
            )
        )
    if (walk := spec.random_walk) is not None:
        found.append(
            RandomWalk(
                of=walk.of,
                step=walk.step,
                every_s=walk.every,
                low=walk.low,
                high=walk.high,
                seed=f"edgerig/{seed}/walk",
            )
        )
    return tuple(found)


def _step(spec: Any) -> Step:
    return Step(at_s=spec.at, rate_bit_s=spec.rate, delay_s=spec.delay, jitter_s=spec.jitter, loss=spec.loss)


def written(spec: LinkKeys, way: Way, key: str) -> Any:
    """What the file says for this direction, the direction's own first; None when it says nothing."""
    own = spec.up if way == "up" else spec.down
    value = getattr(own, key) if own is not None else None
    return value if value is not None else getattr(spec, key)


def where(spec: LinkKeys, way: Way, key: str) -> tuple[str, ...]:
    """The path below `link` of a key that holds in this direction."""
    own = spec.up if way == "up" else spec.down
    return (way, key) if own is not None and getattr(own, key) is not None else (key,)
