"""What other threads hand to the service's loop: a queue bounded in items and in bytes that never blocks them."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from coordinator.events import Event

ITEMS_MAX = 50_000  # 2,000 agents with 25 small messages each while a commit takes its time
BYTES_MAX = 64 << 20  # twice the reassembly budget: every granted chunk and its duplicate


class Delivery(NamedTuple):
    """A message as it came from the broker."""

    topic: str
    payload: bytes
    retained: bool


class Inbox:
    """`put` from any thread, `take` from one. What does not fit is counted, and the counter is news."""

    def __init__(self, items_max: int = ITEMS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._items: deque[Event | Delivery] = deque()
        self._bytes = 0
        self._items_max, self._bytes_max = items_max, bytes_max
        self._ready = threading.Condition()
        self._overflowed = 0
        self._closed = False

    def put(self, item: Event | Delivery) -> bool:
        """Returns whether there was room. Our own results (events) always have room: they are few and counted."""
        size = len(item.payload) if isinstance(item, Delivery) else 0
        with self._ready:
            full = len(self._items) >= self._items_max or self._bytes + size > self._bytes_max
            if full and isinstance(item, Delivery):
                self._overflowed += 1
                return False
            self._items.append(item)
            self._bytes += size
            self._ready.notify()
            return True

    def take(self, timeout_s: float, items_max: int) -> list[Event | Delivery]:
        """Up to `items_max` items; waits for the first, at most `timeout_s`."""
        with self._ready:
            self._ready.wait_for(lambda: self._items or self._closed, max(timeout_s, 0.0))
            taken = [self._items.popleft() for _ in range(min(items_max, len(self._items)))]
            self._bytes -= sum(len(item.payload) for item in taken if isinstance(item, Delivery))
            return taken

    def waiting(self) -> bool:
        with self._ready:
            return bool(self._items) and not self._closed

    def overflowed(self) -> int:
        """How many were turned away since the last call."""
        with self._ready:
            count, self._overflowed = self._overflowed, 0
            return count

    def wake(self) -> None:
        """Never wait again: the service stops."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
