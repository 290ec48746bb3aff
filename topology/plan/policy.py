"""How updates are scheduled into versions, resolved."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

PolicyKind = Literal["synchronous", "buffered", "asynchronous", "tiered", "fedat"]


class StalenessPlan(Struct, frozen=True, kw_only=True):
    """s(τ) of an update that is τ versions old; see `coordinator.policies.staleness` for the formulas."""

    kind: Literal["constant", "polynomial", "hinge"] = "constant"
    exponent: float = 0.5  # polynomial
    a: float = 10.0  # hinge
    b: float = 4.0


class SelectionPlan(Struct, frozen=True, kw_only=True):
    """Who is given a task next; see `coordinator.policies.selection` for the rules."""

    kind: str = "random"  # or a plug-in's
    min_share: float = 0.5  # of an equal share of the tasks; 0: no floor
    charge_min: float = 0.2  # availability
    exploration: float = 0.9  # oort: ε of the first round
    penalty: float = 2.0  # oort: α
    window: int = 20  # oort: versions between two looks of the pacer
    candidates: int = 0  # power_of_choice: d; 0: twice as many as are chosen
    probe_samples: int = 256  # power_of_choice: of each candidate's own
    probe_deadline_s: float | None = None  # power_of_choice; None: as long as a task may take


class PolicyPlan(Struct, frozen=True, kw_only=True):
    """One schedule. Fields that another kind reads are at their defaults and mean nothing."""

    kind: PolicyKind = "synchronous"
    server_lr: float = 1.0
    selection: SelectionPlan = field(default_factory=SelectionPlan)
    # With `deadline_auto` the ceiling of what each device is given, or else what everybody is given.
    deadline_s: float = 60.0
    deadline_auto: bool = False
    deadline_floor_s: float = 5.0
    staleness: StalenessPlan = field(default_factory=StalenessPlan)
    max_staleness: int | None = None  # versions; older updates are discarded
    # synchronous, tiered and fedat
    cohort: int
    over_select: float = 1.0
    quorum: float = 1.0
    carry_over: bool = False
    # buffered and asynchronous
    concurrency: int = 1
    buffer: int = 1
    mixing: float = 1.0
    # tiered and fedat
    tiers: int = 1
