"""Virtual time: what happens next happens at once."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Clock:
    """Events in the order of their time, and of their making where times are equal: the same in every run."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._made = 0
        self.steps = 0

    def __call__(self) -> float:
        return self.now

    def at(self, moment: float, action: Callable[[], None]) -> None:
        self._made += 1
        heapq.heappush(self._heap, (max(moment, self.now), self._made, action))

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay_s, action)

    def step(self) -> bool:
        """Go to the next event and let it happen; False if there is none."""
        if not self._heap:
            return False
        self.now, _, action = heapq.heappop(self._heap)
        self.steps += 1
        action()
        return True
