"""Counters of this boot, counted from the lines of the coordinator's own history as they are written.

What a scraper sees is thereby what the record says. A counter that begins anew after a restart is what every reader of
Prometheus' format expects.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from msgspec import Struct, field


class Tally(Struct):
    events: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)  # closed tasks, by their state
    lapses: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    update_bytes: int = 0  # of complete updates
    payload_bytes: int = 0  # of all their chunks, resends and headers included
    loss: float | None = None  # of the version evaluated last
    broker: dict[str, int] = field(default_factory=dict)

    def note(self, event: str, fields: dict[str, Any]) -> None:
        self.events[event] += 1
        match event:
            case "task_closed":
                self.outcomes[fields["state"]] += 1
            case "lapse":
                self.lapses[fields["what"]] += 1
            case "message_refused":
                self.refused += fields["count"]
            case "update_received":
                self.update_bytes += fields["bytes"]
                self.payload_bytes += fields["payload_bytes"]
            case "evaluated":
                self.loss = fields["loss"]
            case "broker_sample":
                self.broker = dict(fields)

    def copy(self) -> Tally:
        return Tally(
            Counter(self.events),
            Counter(self.outcomes),
            Counter(self.lapses),
            self.refused,
            self.update_bytes,
            self.payload_bytes,
            self.loss,
            dict(self.broker),
        )
