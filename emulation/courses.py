"""Which links of a run vary, and what each is at the moment: bookkeeping only, the time comes in."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from topology.plan import Link, Shape
from topology.variation import Course, still


class Courses:
    """`now` is what a device's link is; before `start` everything holds still at its own numbers.

    Safe to call from two threads (bringing up, and the turn of hostd's loop).
    """

    def __init__(self, links: Mapping[str, Link]) -> None:
        self._began_s: float | None = None
        self._courses: dict[str, Course] = {}
        self._now: dict[str, Link] = {}
        self._next_s: dict[str, float] = {}
        self._held: set[str] = set()
        self._lock = threading.RLock()
        for device, link in links.items():
            self.follow(device, link)

    def start(self, now: float) -> None:
        self._began_s = now

    def at_s(self, now: float) -> float:
        """Seconds since the start; zero before it."""
        return now - self._began_s if self._began_s is not None else 0.0

    def now(self, device: str) -> Link:
        return self._now[device]

    @property
    def varying(self) -> bool:
        """Whether any link varies at all."""
        return bool(self._courses)

    def follow(self, device: str, link: Link) -> Link:
        """From now on the device's link is this one, with what it says of varying. What it is at first: its own
        numbers, until the next look.
        """
        with self._lock:
            course = Course(link)
            if course.varies:
                self._courses[device], self._next_s[device] = course, 0.0
            else:
                self._courses.pop(device, None)
                self._next_s.pop(device, None)
            self._now[device] = still(link)
            return self._now[device]

    def due(self, now: float) -> list[str]:
        """Devices whose links may be something else by now and are not held."""
        if self._began_s is None:
            return []
        at_s = self.at_s(now)
        with self._lock:
            return [
                device
                for device, next_s in self._next_s.items()
                if next_s <= at_s and device not in self._held
            ]

    def advance(self, device: str, now: float) -> Link | None:
        """What the device's link is from now on, or None where nothing of it has changed."""
        with self._lock:
            course = self._courses.get(device)
            if course is None or device in self._held:
                return None
            at_s = self.at_s(now)
            link, before = course.at(at_s), self._now[device]
            self._now[device] = link
            self._next_s[device] = course.next_s(at_s)
            return link if link != before else None

    @contextmanager
    def held(self, devices: Iterable[str]) -> Iterator[None]:
        """These links stay what they are, while they are measured."""
        names = set(devices)
        with self._lock:
            self._held |= names
        try:
            yield
        finally:
            with self._lock:
                self._held -= names


def varying(shape: Shape) -> dict[str, Any]:
    """What can vary, for the record."""
    return {
        "rate_bit_s": shape.rate_bit_s,
        "delay_s": round(shape.delay_s, 6),
        "jitter_s": round(shape.jitter_s, 6),
        "loss": round(shape.loss, 6),
    }
