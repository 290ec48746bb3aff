"""What the broker says of itself in $SYS: kept, recorded now and then, and its drop counter watched."""

from __future__ import annotations

EVERY_S = 5.0  # mosquitto's sys_interval here
FIGURES = ("dropped", "received_bytes", "sent_bytes")


class BrokerSamples:
    def __init__(self) -> None:
        self._figures: dict[str, int] = {}
        self._recorded = float("-inf")
        self._fresh = False

    def note(self, name: str, payload: bytes) -> int:
        """Take a figure; returns by how much the drop counter moved, 0 for any other news."""
        try:
            value = int(payload[:32])
        except ValueError:
            return 0
        before = self._figures.get(name, 0)
        self._figures[name] = value
        self._fresh = True
        # A broker that restarted counts from zero again.
        return max(0, value - before) if name == "dropped" else 0

    def due(self, now: float) -> dict[str, int] | None:
        # All three or none: a figure that has not come yet is not zero.
        if not self._fresh or len(self._figures) < len(FIGURES) or now < self._recorded + EVERY_S:
            return None
        self._recorded, self._fresh = now, False
        return {name: self._figures[name] for name in FIGURES}
