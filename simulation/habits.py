"""How bad a simulated world is. Probabilities per occasion, rates per virtual second, durations in seconds."""

from __future__ import annotations

from msgspec import Struct

from topology.plan import MergePlan, PolicyPlan, SelectionPlan, StalenessPlan


class Habits(Struct, frozen=True, kw_only=True):
    # The network. MQTT over TCP promises more than this; what survives this survives that.
    latency_s: tuple[float, float] = (0.005, 0.2)
    lose: float = 0.0  # of a message, after the broker has confirmed it
    duplicate: float = 0.0
    reorder: float = 0.0  # overtaken by up to two seconds
    echo: float = 0.0  # a copy arrives again up to a minute later
    flap_rate: float = 0.0  # of one agent's connection
    broker_rate: float = 0.0  # the broker restarts and remembers nothing
    # Agents.
    train_s: tuple[float, float] = (0.5, 12.0)
    kill_rate: float = 0.0  # of one agent
    aimed: float = 0.0  # of the acks: the agent is killed while its ack is on the way
    power_share: float = 0.5  # of the kills: what was not made durable is gone
    disk_loss: float = 0.0  # of the kills: a new disk
    cut_rate: float = 0.0  # the power goes in the middle of one of the next disk operations
    heal_s: tuple[float, float] = (0.5, 25.0)
    full_rate: float = 0.0  # the disk is full for a while
    fail: float = 0.0  # of a training
    # The coordinator.
    crash: float = 0.0  # per turn: somewhere between its actions
    calm_at_s: float = 50.0  # every scenario ends healed; the last rounds show that nothing is left behind


# A run without faults takes about 60 virtual seconds; the rates make several faults per device in that time.
WORLDS: dict[str, Habits] = {
    "kind": Habits(),
    "lossy": Habits(echo=0.02, lose=0.05, duplicate=0.15, reorder=0.15, flap_rate=0.03),
    "amnesiac": Habits(duplicate=0.1, flap_rate=0.03, broker_rate=0.06, lose=0.01),
    "deadly": Habits(echo=0.05, kill_rate=0.03, cut_rate=0.05, disk_loss=0.15, full_rate=0.02, fail=0.1),
    "replaced": Habits(echo=0.4, aimed=0.6, kill_rate=0.02, disk_loss=0.9, heal_s=(0.2, 3.0), train_s=(0.5, 6.0)),
    "crashing": Habits(crash=0.05, duplicate=0.1, reorder=0.05),
    "harsh": Habits(
        echo=0.02, lose=0.02, duplicate=0.1, reorder=0.1, flap_rate=0.015, broker_rate=0.015, kill_rate=0.015,
        cut_rate=0.02, disk_loss=0.1, full_rate=0.01, fail=0.05, crash=0.02,
    ),
}  # fmt: skip


# Schedules that the seeds take turns through; the cohort of a synchronous round varies with the seed on top.
SCHEDULES: dict[str, PolicyPlan] = {
    "synchronous": PolicyPlan(cohort=2, deadline_s=40.0, quorum=0.5),
    "carrying": PolicyPlan(
        cohort=3, deadline_s=12.0, quorum=0.3, carry_over=True, max_staleness=4,
        staleness=StalenessPlan(kind="polynomial"),
    ),
    "buffered": PolicyPlan(
        kind="buffered", cohort=4, concurrency=3, buffer=3, deadline_s=40.0, deadline_auto=True, deadline_floor_s=15.0,
        staleness=StalenessPlan(kind="polynomial"), max_staleness=3, server_lr=1.5,
    ),
    "asynchronous": PolicyPlan(
        kind="asynchronous", cohort=4, concurrency=3, mixing=0.6, deadline_s=30.0,
        staleness=StalenessPlan(kind="hinge", a=1.0, b=1.0),
    ),
    "tiered": PolicyPlan(kind="tiered", cohort=2, tiers=2, deadline_s=40.0, deadline_auto=True, quorum=0.5),
    "scaffold": PolicyPlan(cohort=3, over_select=1.4, deadline_s=40.0, quorum=0.5),
    "fedat": PolicyPlan(
        kind="fedat", cohort=2, tiers=2, deadline_s=30.0, staleness=StalenessPlan(kind="polynomial"), max_staleness=6,
    ),
    "probing": PolicyPlan(
        cohort=2, deadline_s=40.0, quorum=0.5,
        selection=SelectionPlan(kind="power_of_choice", candidates=3, probe_deadline_s=8.0),
    ),
}  # fmt: skip
VERSIONS = {
    "synchronous": 5, "carrying": 6, "buffered": 6, "asynchronous": 14, "tiered": 6, "scaffold": 6, "probing": 5,
    "fedat": 12,
}  # fmt: skip
CONTROLS = ("fp16", "none", "int8")


TURNS = (
    "synchronous",
    "buffered",
    "scaffold",
    "carrying",
    "synchronous",
    "asynchronous",
    "tiered",
    "buffered",
    "probing",
    "fedat",
)


def schedule_of(seed: int) -> str:
    """The default most often. Ten turns and seven worlds: every pair comes up."""
    return TURNS[seed % len(TURNS)]


def merge_of(seed: int, schedule: str) -> MergePlan:
    """Control variates in every codec; every other schedule takes the plain mean."""
    if schedule != "scaffold":
        return MergePlan()
    return MergePlan(kind="scaffold", control=CONTROLS[seed // len(TURNS) % len(CONTROLS)])


def world_of(seed: int) -> str:
    """Seeds take turns through the worlds."""
    names = list(WORLDS)
    return names[seed % len(names)]
