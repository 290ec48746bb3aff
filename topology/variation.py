"""What a varying link is at each moment: a pure function of the plan's shape and the time since the run was ready."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from topology.plan import Link, RandomWalk, Shape, Sine, Step, Steps, Variation, Varied

RATE_BIT_S_MIN = 1_000  # tc refuses less; nobody models a link that slow
LOSS_MAX = 0.99
NEVER = math.inf


class _Part(Protocol):
    """One variation, played. `at_s` may go back; then it is played again from the start."""

    def apply(self, shape: Shape, at_s: float) -> Shape: ...

    def next_s(self, at_s: float) -> float:
        """When the numbers may change next, after `at_s`."""
        ...


class _Steps:
    def __init__(self, spec: Steps) -> None:
        self._spec = spec
        self._times = [step.at_s for step in spec.steps]
        self._in_force: list[dict[str, Any]] = []
        numbers: dict[str, Any] = {}
        for step in spec.steps:
            numbers = numbers | _numbers(step)
            self._in_force.append(numbers)

    def apply(self, shape: Shape, at_s: float) -> Shape:
        index = bisect_right(self._times, self._within(at_s)) - 1
        return shape if index < 0 else msgspec.structs.replace(shape, **self._in_force[index])

    def next_s(self, at_s: float) -> float:
        within, repeat_s = self._within(at_s), self._spec.repeat_s
        index = bisect_right(self._times, within)
        if index < len(self._times):
            return at_s + self._times[index] - within
        return at_s + repeat_s - within if repeat_s else NEVER

    def _within(self, at_s: float) -> float:
        """A cycle begins with the link's own numbers until its first step."""
        return at_s % self._spec.repeat_s if self._spec.repeat_s else at_s


def _numbers(step: Step) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.structs.asdict(step)
    del found["at_s"]
    return {name: value for name, value in found.items() if value is not None}


class _Sine:
    def __init__(self, spec: Sine) -> None:
        self._spec = spec

    def apply(self, shape: Shape, at_s: float) -> Shape:
        spec = self._spec
        held_s = math.floor(at_s / spec.every_s + 1e-9) * spec.every_s
        factor = 1 + spec.amplitude * math.sin(2 * math.pi * (held_s / spec.period_s + spec.phase))
        return scaled(shape, spec.of, factor)

    def next_s(self, at_s: float) -> float:
        return (math.floor(at_s / self._spec.every_s + 1e-9) + 1) * self._spec.every_s


class _RandomWalk:
    def __init__(self, spec: RandomWalk) -> None:
        self._spec = spec
        self._low, self._high = math.log(spec.low), math.log(spec.high)
        self._restart()

    def _restart(self) -> None:
        self._rng = random.Random(self._spec.seed)
        self._taken, self._log_factor = 0, 0.0

    def apply(self, shape: Shape, at_s: float) -> Shape:
        wanted = math.floor(at_s / self._spec.every_s + 1e-9)
        if wanted < self._taken:
            self._restart()
        while self._taken < wanted:
            self._taken += 1
            self._log_factor = self._reflected(self._log_factor + self._rng.gauss(0.0, self._spec.step))
        return scaled(shape, self._spec.of, math.exp(self._log_factor))

    def _reflected(self, value: float) -> float:
        """Back into [low, high] as often as it takes: a triangle wave of the unbounded walk."""
        span = self._high - self._low
        within = (value - self._low) % (2 * span)
        return self._low + min(within, 2 * span - within)

    def next_s(self, at_s: float) -> float:
        return (math.floor(at_s / self._spec.every_s + 1e-9) + 1) * self._spec.every_s


def scaled(shape: Shape, what: Varied, factor: float) -> Shape:
    if what == "rate":
        rate = None if shape.rate_bit_s is None else max(RATE_BIT_S_MIN, round(shape.rate_bit_s * factor))
        return msgspec.structs.replace(shape, rate_bit_s=rate)
    if what == "delay":
        return msgspec.structs.replace(shape, delay_s=shape.delay_s * factor)
    return msgspec.structs.replace(shape, loss=min(LOSS_MAX, shape.loss * factor))


_PLAYERS: Mapping[type[Variation], Callable[[Any], _Part]] = {
    Steps: _Steps,
    Sine: _Sine,
    RandomWalk: _RandomWalk,
}


class Course:
    """Both directions of one link over time, `at_s` counted from the moment the run was ready.

    A shape that comes out has no `vary` of its own; its queue follows its rate where it was asked for as time.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._parts = {way: [_PLAYERS[type(spec)](spec) for spec in shape.vary] for way, shape in _ways(link)}

    @property
    def varies(self) -> bool:
        return any(self._parts.values())

    def at(self, at_s: float) -> Link:
        shapes = {way: self._shape(way, shape, at_s) for way, shape in _ways(self._link)}
        return Link(name=self._link.name, up=shapes["up"], down=shapes["down"])

    def next_s(self, at_s: float) -> float:
        """When to look again; infinite when nothing changes any more."""
        return min((part.next_s(at_s) for parts in self._parts.values() for part in parts), default=NEVER)

    def _shape(self, way: str, shape: Shape, at_s: float) -> Shape:
        found = msgspec.structs.replace(shape, vary=())
        for part in self._parts[way]:
            found = part.apply(found, at_s)
        return with_queue(found)


def trace_files(links: Iterable[Link]) -> list[str]:
    """The files that these links' traces came from, each once."""
    parts = (part for link in links for _, shape in _ways(link) for part in shape.vary)
    return list(dict.fromkeys(part.source for part in parts if isinstance(part, Steps) and part.source))


def still(link: Link) -> Link:
    """The link's own numbers, without what varies them: what is measured before a run."""
    up, down = (msgspec.structs.replace(shape, vary=()) for _, shape in _ways(link))
    return Link(name=link.name, up=up, down=down)


def with_queue(shape: Shape) -> Shape:
    """The bytes that a queue asked for as time holds at the shape's rate."""
    if shape.queue_s is None or shape.rate_bit_s is None:
        return shape
    size = max(QUEUE_BYTES_MIN, math.ceil(shape.rate_bit_s / 8 * shape.queue_s))
    return msgspec.structs.replace(shape, queue_bytes=size)


# A full frame of 1514 bytes in transmission and one waiting; a shaper with less drops every second packet of
# a burst.
QUEUE_BYTES_MIN = 2 * 1514


def _ways(link: Link) -> tuple[tuple[str, Shape], tuple[str, Shape]]:
    return ("up", link.up), ("down", link.down)
