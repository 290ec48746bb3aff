"""Clocks that jump: a restarted coordinator's monotonic clock begins anywhere, the wall clock goes where it likes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from coordinator_world import World, make_config

from coordinator import events as e
from coordinator.core import CoordinatorCore
from coordinator.recovery import restore_state
from coordinator.state import CoordinatorState

# Of the second life, whose machine was started again, or which is another machine.
BEGINS = pytest.mark.parametrize("begins", [0.0, 1e7], ids=["at-0", "far-ahead"])
SCHEDULES = pytest.mark.parametrize(
    "policy",
    [{"cohort": 3, "quorum": 0.6}, {"kind": "buffered", "buffer": 2}, {"cohort": 3, "carry_over": True}],
    ids=["synchronous", "buffered", "carry-over"],
)


class Cut(Exception):
    """The first life is over."""


class Watched(World):
    """Dies when `enough` says so of its state."""

    enough: Callable[[CoordinatorState], bool]

    def feed(self, event: e.Event) -> None:
        super().feed(event)
        if self.enough(self.core.state):
            raise Cut


def second_life(policy: dict[str, object], begins: float) -> tuple[World, CoordinatorCore]:
    """A core of the journal that the first left in its third round, with updates in and tasks under way."""
    world = Watched(make_config(4, rounds=6, policy=policy), 3)
    world.enough = lambda state: bool(
        state.version >= 2 and state.round and state.under_way and len(state.unended) > len(state.under_way)
    )
    with pytest.raises(Cut):
        world.run()
    core = CoordinatorCore(world.config, restore_state(world.journal, world.config))
    core.handle(e.Started(resumed=True), begins)
    core.validate()
    return world, core


@SCHEDULES
@BEGINS
def test_every_deadline_is_given_anew(policy: dict[str, object], begins: float) -> None:
    world, core = second_life(policy, begins)
    state, longest_s = core.state, core.policy.carry_s + world.config.policy.deadline_s
    assert state.round is not None
    assert state.round.deadline == begins + state.round.deadline_s
    assert state.under_way
    for task in state.under_way:
        assert begins < task.deadline <= begins + longest_s
        assert task.heard == task.since == begins
    assert begins < core.next_wakeup(begins) <= begins + longest_s


@SCHEDULES
@BEGINS
def test_staleness_counts_versions_and_knows_no_clock(policy: dict[str, object], begins: float) -> None:
    world, core = second_life(policy, begins)
    before = {task.id: task.version for task in world.core.state.unended.values()}
    kept = {task.id: task.version for task in core.state.unended.values()}
    assert kept
    assert kept.items() <= before.items()
    assert core.state.version == world.core.state.version


@BEGINS
def test_whom_it_waits_for_is_said_in_seconds_that_can_be(begins: float) -> None:
    _, core = second_life({"cohort": 3, "quorum": 0.6}, begins)
    for moment in (begins, begins + 5.0):
        for peer in core.picture(moment).waiting:
            assert 0.0 <= float(str(peer["since_s"])) <= 5.0
            assert 0.0 <= float(str(peer["until_s"])) <= 3_600.0
