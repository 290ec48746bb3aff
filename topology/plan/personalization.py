"""Models of the devices' own and tests on their own data, resolved."""

from __future__ import annotations

from msgspec import Struct


class PersonalPlan(Struct, frozen=True, kw_only=True):
    """One kind of `learning.personal`. `head` None: the last layer. `steps` None: as many as a task's own."""

    kind: str
    head: tuple[str, ...] | None = None
    steps: int | None = None
    proximal: float = 0.1  # ditto's λ


class EvaluationPlan(Struct, frozen=True, kw_only=True):
    """`local`: on the devices' own test data; `drift`: norms and cosines of the merged updates."""

    local: bool = False
    drift: bool = False
