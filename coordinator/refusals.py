"""Messages that made no sense: all counted, recorded at a bounded rate, with their sender."""

from __future__ import annotations

from msgspec import Struct

EVERY_S = 1.0  # one history line per sender and reason in a second: a flood costs its sender, not our disk
# Senders are bounded by the broker's accounts; this bounds what a broken broker could invent.
KEYS_MAX = 1_024


class Refusal(Struct, frozen=True):
    """Fields of a `message_refused`."""

    agent: str
    topic: str
    reason: str
    bytes: int
    count: int


class RefusalLog:
    def __init__(self) -> None:
        self.total = 0
        self._due: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], Refusal] = {}

    def note(self, agent: str, topic: str, reason: str, size: int, now: float) -> Refusal | None:
        """Count one; returns what to record now, if anything. The rest comes out of `flush`."""
        self.total += 1
        key = (agent, reason)
        if key not in self._due and len(self._due) >= KEYS_MAX:
            key = ("(others)", reason[:32])
        held = self._held.get(key)
        count = 1 + (held.count if held else 0)
        refusal = Refusal(key[0], topic[:200], reason, size, count)
        if now < self._due.get(key, now):
            self._held[key] = refusal
            return None
        self._held.pop(key, None)
        self._due[key] = now + EVERY_S
        return refusal

    def flush(self, now: float, *, everything: bool = False) -> list[Refusal]:
        """What was held back and is due; `everything` at the end of a run."""
        due = [key for key in self._held if everything or now >= self._due.get(key, now)]
        for key in [key for key, moment in self._due.items() if now >= moment and key not in self._held]:
            del self._due[key]
        for key in due:
            self._due[key] = now + EVERY_S
        return [self._held.pop(key) for key in due]
