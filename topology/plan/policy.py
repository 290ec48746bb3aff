"""How rounds are scheduled and merged, resolved."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class PolicyPlan(Struct, frozen=True, kw_only=True):
    kind: Literal["synchronous"] = "synchronous"
    cohort: int
    over_select: float = 1.0
    deadline_s: float = 60.0
    quorum: float = 1.0
    server_lr: float = 1.0
