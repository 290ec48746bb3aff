"""What the service's loop shows to other threads: one whole picture at a time, made only while somebody asks.

The loop looks at the board once a second (`look`). A request marks it as wanted and waits for the next picture, at most
`PATIENCE_S`; whoever asks more often gets the same one again, so no number of requests costs the loop more than one
picture a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from msgspec import Struct

from coordinator.picture import Picture
from coordinator.status.tally import Tally

PATIENCE_S = 2.0  # two looks of the loop
FRESH_S = 1.0  # how old a picture is shown again without asking
WANTED_S = (
    30.0  # a picture is made with every look for so long after a request: a scraper never waits for its own
)
SILENCE_S_MAX = 60.0  # the loop looks once a second; a merge of a large cohort keeps it for some


class Snapshot(Struct, frozen=True):
    picture: Picture
    tally: Tally
    taken: float  # of the board's clock


class Board:
    def __init__(self, mono: Callable[[], float] = time.monotonic) -> None:
        self._mono = mono
        self._news = threading.Condition()
        self._latest: Snapshot | None = None
        self._wanted_until = float("-inf")
        self._looked = mono()
        self._trouble = ""

    def look(self, take: Callable[[], tuple[Picture, Tally]], trouble: str = "") -> None:
        """The loop's sign of life. `trouble`: what keeps the run from going on, if anything does."""
        now = self._mono()
        with self._news:
            self._looked, self._trouble = now, trouble
            if now > self._wanted_until or (
                self._latest is not None and now < self._latest.taken + FRESH_S / 2
            ):
                return
            self._latest = Snapshot(*take(), now)
            self._news.notify_all()

    def latest(self) -> Snapshot | None:
        """The picture of now, give or take a second; None when the loop gives none."""
        with self._news:
            self._wanted_until = self._mono() + WANTED_S
            self._news.wait_for(self._is_fresh, PATIENCE_S)
            return self._latest

    def _is_fresh(self) -> bool:
        return self._latest is not None and self.age_s(self._latest) <= FRESH_S

    def age_s(self, snapshot: Snapshot) -> float:
        return max(0.0, self._mono() - snapshot.taken)

    def illness(self) -> str:
        """What is wrong with the loop; empty when it goes on."""
        with self._news:
            silence_s = self._mono() - self._looked
            if silence_s > SILENCE_S_MAX:
                return f"the coordinator's loop has shown no sign of life for {silence_s:.0f} s"
            return self._trouble
