"""Random interleavings of kills, losses, duplicates and crashes; every run must end, with its books in order.

A failing seed replays with: pytest tests/coordinator/test_coordinator_random.py -k 'seed_<N>'
"""

from __future__ import annotations

import pytest
from coordinator_world import Habits, World, make_config

from coordinator import actions as a
from coordinator import events as e
from coordinator.core import CoordinatorCore
from topology.plan import SelectionPlan
from wire import messages as m

HARSH = Habits(
    kill=0.15, loses_disk=0.5, duplicate=0.1, lose=0.03, fail=0.05, defect=0.05, forget_broker=0.03, crash=0.02
)  # fmt: skip
CRASHY = Habits(crash=0.05)
CAREFUL = Habits(kill=0.1, duplicate=0.2, crash=0.05, defect=0.1)
POLICY = {"cohort": 4, "over_select": 1.3, "quorum": 0.6}


def play(seed: int, habits: Habits, **changes: object) -> World:
    world = World(make_config(6, **{"rounds": 4, "policy": POLICY, **changes}), seed, habits)
    world.run()
    world.check_books()
    return world


@pytest.mark.parametrize("seed", range(30), ids=lambda seed: f"seed_{seed}")
def test_a_harsh_world_loses_nothing(seed: int) -> None:
    play(seed, HARSH)


@pytest.mark.parametrize("seed", range(15), ids=lambda seed: f"seed_{seed}")
def test_a_crashing_coordinator_loses_nothing(seed: int) -> None:
    world = play(seed, CRASHY)
    assert len(world.journal.db.execute("SELECT version FROM versions").fetchall()) == 5


SCHEDULES: dict[str, dict[str, object]] = {
    "carry_over": {**POLICY, "carry_over": True, "deadline_s": 8.0},
    "buffered": {"kind": "buffered", "concurrency": 5, "buffer": 3, "max_staleness": 4},
    "asynchronous": {"kind": "asynchronous", "concurrency": 4, "mixing": 0.5},
    "tiered": {"kind": "tiered", "tiers": 2, "cohort": 3, "quorum": 0.6},
    "fedat": {"kind": "fedat", "tiers": 2, "cohort": 3, "max_staleness": 6},
    "probing": {
        **POLICY,
        "selection": SelectionPlan(kind="power_of_choice", candidates=5, probe_deadline_s=10.0),
    },
    "automatic": {**POLICY, "deadline_auto": True, "deadline_floor_s": 2.0},
}


@pytest.mark.parametrize("seed", range(12), ids=lambda seed: f"seed_{seed}")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_keeps_its_books_in_a_harsh_world(schedule: str, seed: int) -> None:
    play(seed, HARSH, policy=SCHEDULES[schedule], rounds=8)


def test_a_kind_world_merges_every_target_and_cancels_the_rest() -> None:
    world = play(1, Habits())
    states = [fields["state"] for _, name, fields in world.records if name == "task_closed"]
    assert states.count("merged") == 4 * 4
    assert set(states) == {"merged", "cancelled"}


def test_the_target_ends_the_run_with_no_task_begun_in_vain() -> None:
    world = play(3, Habits(), rounds=9, stop_at_accuracy=0.2)
    finished = [fields for _, name, fields in world.records if name == "run_finished"]
    assert finished == [{"reason": "target", "version": 2, "accuracy": 0.2}]
    opened = [fields["round"] for _, name, fields in world.records if name == "round_opened"]
    assert opened == [1, 2]


# --- the checkers catch what they are for ------------------------------------------------------------------------


class SendsFirst(World):
    """Mutant of the service: lets actions out before the commit they speak of has returned."""

    def crash(self, actions: list[a.Action]) -> None:
        for action in actions:
            if isinstance(action, a.Send):
                self.execute(action)
        super().crash([])


class AcksTooSoon(CoordinatorCore):
    """Mutant: takes the received bytes for journalled ones."""

    def handle(self, event: e.Event, now: float) -> list[a.Action]:
        actions = super().handle(event, now)
        if any(isinstance(x, a.JournalUpdate) for x in actions) and isinstance(event, e.UpdateReceived):
            actions.append(a.Send(agent=event.agent, message=m.Ack(task=event.task, sha256=event.sha256)))
        return actions


class ForgetsItsJournal(CoordinatorCore):
    """Mutant: says an update is late, and writes nothing down."""

    def handle(self, event: e.Event, now: float) -> list[a.Action]:
        actions = super().handle(event, now)
        return [x for x in actions if not (isinstance(x, a.JournalClose) and x.outcome)]


class MergesAgain(CoordinatorCore):
    """Mutant: puts the first update of every version after the first into it once more."""

    seen: a.MergeItem | None = None

    def handle(self, event: e.Event, now: float) -> list[a.Action]:
        actions = super().handle(event, now)
        for index, action in enumerate(actions):
            if isinstance(action, a.CommitVersion):
                again = (self.seen,) if self.seen is not None else ()
                self.seen = action.updates[0]
                actions[index] = a.CommitVersion(
                    version=action.version,
                    round=action.round,
                    server_lr=action.server_lr,
                    updates=(*action.updates, *again),
                )
        return actions


MUTANTS = [(SendsFirst, AcksTooSoon), (World, ForgetsItsJournal), (World, MergesAgain)]


@pytest.mark.parametrize(("world_type", "core_type"), MUTANTS, ids=lambda kind: kind.__name__)
def test_a_mutant_is_caught_within_twenty_seeds(
    world_type: type[World], core_type: type[CoordinatorCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world_type, "core_type", core_type)
    for seed in range(20):
        try:
            world = world_type(make_config(6, rounds=4, policy=POLICY), seed, CAREFUL)
            world.run()
            world.check_books()
        except Exception:  # noqa: BLE001 - caught is caught: an assertion, or the journal's own constraints
            return
    pytest.fail(f"{core_type.__name__} went unnoticed")


def test_the_same_seeds_are_quiet_without_a_mutant() -> None:
    for seed in range(20):
        play(seed, CAREFUL)
