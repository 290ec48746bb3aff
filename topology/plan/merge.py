"""How updates become the next version, resolved."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

MergeKind = Literal["fedavg"]


class MergePlan(Struct, frozen=True, kw_only=True):
    kind: MergeKind = "fedavg"
