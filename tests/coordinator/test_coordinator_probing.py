"""power_of_choice: losses are asked for before a round, waited for boundedly, and go the way of everything durable."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from coordinator_world import Habits, World, make_config, memory_journal
from test_coordinator_stories import Stage, of, recorded, sent

from coordinator import actions as a
from coordinator import events as e
from coordinator import run
from coordinator.core import CoordinatorCore
from coordinator.policies.selection import AgentView, Fleet, make_selection
from coordinator.policies.selection.floor import ProbingFloor
from coordinator.recovery import restore_state
from coordinator.state import RunPhase
from topology.plan import SelectionPlan
from wire import messages as m

PLAN = SelectionPlan(kind="power_of_choice", candidates=4, probe_samples=50, probe_deadline_s=12.0)
LOSSES = {"d-0": 0.5, "d-1": 2.0, "d-2": 1.0, "d-3": 3.0}


def stage_of(agents: int = 4, **policy: Any) -> Stage:
    return Stage(make_config(agents, policy={"cohort": 2, "deadline_s": 30.0, "selection": PLAN, **policy}))


def everybody(stage: Stage, samples: int = 100) -> list[a.Action]:
    return [action for name in stage.config.agents for action in stage.hello(name, samples=samples)]


def probes(actions: list[a.Action]) -> dict[str, a.SendTask]:
    return {task.agent: task for task in of(actions, a.SendTask) if task.probe}


def answer(stage: Stage, name: str, loss: float | None = None) -> list[a.Action]:
    assert stage.core.state.probe is not None
    said = LOSSES[name] if loss is None else loss
    return stage.say(name, m.Probed(task=stage.core.state.probe.task, loss=said, samples=50))


def cohort(stage: Stage) -> list[str]:
    assert stage.core.state.round is not None
    return stage.core.state.round.cohort


# --- the story --------------------------------------------------------------------------------------------------------


def test_the_two_with_the_highest_loss_of_four_are_chosen() -> None:
    stage = stage_of()
    asked = probes(everybody(stage))
    assert asked.keys() == LOSSES.keys()
    assert {(task.probe, task.version, task.round) for task in asked.values()} == {(50, 0, 1)}
    assert stage.core.state.phase is RunPhase.PROBING
    for name in ("d-0", "d-1", "d-2"):
        assert not of(answer(stage, name), a.SendTask)
    opened = answer(stage, "d-3")
    assert cohort(stage) == ["d-3", "d-1"]
    assert [task.agent for task in of(opened, a.SendTask)] == ["d-3", "d-1"]
    assert not sent(stage.done, m.Cancel)


def test_every_answer_is_recorded_with_its_bytes_and_durable() -> None:
    stage = stage_of()
    everybody(stage)
    done = answer(stage, "d-1")
    (line,) = recorded(done, "loss_probed")
    message = m.Probed(task=line["task"], loss=2.0, samples=50)
    assert (line["loss"], line["bytes"]) == (2.0, len(m.encode(message)))
    (memo,) = of(done, a.JournalMemo)
    assert memo.key == "loss/d-1"
    assert not of(answer(stage, "d-1"), a.JournalMemo)  # a repetition is no news, and no fault
    assert not of(stage.done, a.Refused)


def test_who_has_not_answered_by_the_deadline_is_passed_over_and_told() -> None:
    stage = stage_of()
    everybody(stage)
    answer(stage, "d-0")
    answer(stage, "d-2")
    assert stage.core.state.round is None
    closed = stage.wait(12.0)
    assert cohort(stage) == ["d-2", "d-0"]
    assert {x.agent for x in of(closed, a.Send) if isinstance(x.message, m.Cancel)} == {"d-1", "d-3"}
    (line,) = recorded(closed, "losses_known")
    assert (line["known"], line["silent"]) == (2, ["d-1", "d-3"])


def test_without_any_answer_the_round_begins_with_whom_it_needs() -> None:
    stage = stage_of(quorum=1.0)
    everybody(stage)
    stage.wait(12.0)
    assert len(cohort(stage)) == 2


def test_who_was_away_for_longer_than_the_grace_is_not_waited_for() -> None:
    stage = stage_of()
    everybody(stage)
    for name in ("d-0", "d-1", "d-2"):
        answer(stage, name)
    stage.offline("d-3")
    stage.wait(stage.config.drop_after_s - 0.5)
    assert stage.core.state.round is None
    stage.wait(1.0)
    assert cohort(stage) == ["d-1", "d-2"]


def test_a_failure_and_a_loss_that_is_no_number_end_the_wait_for_it() -> None:
    stage = stage_of()
    everybody(stage)
    assert stage.core.state.probe is not None
    stage.say("d-0", m.Failed(task=stage.core.state.probe.task, reason="no memory"))
    refused = answer(stage, "d-3", float("nan"))
    assert [x.reason for x in of(refused, a.Refused)] == ["not_finite"]
    answer(stage, "d-1")
    answer(stage, "d-2")
    assert cohort(stage) == ["d-1", "d-2"]


def test_a_lie_is_clipped() -> None:
    stage = stage_of()
    everybody(stage)
    answer(stage, "d-1", 1e300)
    probed = stage.core.state.agents["d-1"].probed
    assert probed is not None
    assert probed.loss == 1e6


def test_a_lost_message_is_asked_for_again_and_work_is_a_sign() -> None:
    stage = stage_of()
    everybody(stage)
    assert stage.core.state.probe is not None
    stage.wait(6.0)
    stage.say("d-1", m.Progress(task=stage.core.state.probe.task, phase="training", done=0, total=1))
    again = probes(stage.wait(5.0))
    assert again.keys() == {"d-0", "d-2", "d-3"}
    assert not of(stage.done, a.Refused)


def test_a_device_that_came_back_with_nothing_is_asked_again() -> None:
    stage = stage_of()
    everybody(stage)
    stage.offline("d-2")
    assert probes(stage.hello("d-2", "b2")).keys() == {"d-2"}
    assert stage.core.state.probe is not None
    assert not probes(stage.hello("d-2", "b2", task=stage.core.state.probe.task))


def test_an_old_probe_is_taken_out_of_a_hand() -> None:
    stage = stage_of()
    everybody(stage)
    assert stage.core.state.probe is not None
    old = stage.core.state.probe.task
    for name in LOSSES:
        answer(stage, name)
    assert [x.task for x in sent(stage.hello("d-0", "b1", task=old), m.Cancel)] == [old]


def test_the_end_of_the_run_ends_a_probe() -> None:
    stage = stage_of()
    everybody(stage)
    stage.core._turn.begin(0, stage.now)
    run.finish(stage.core._turn, "failed")
    stage.core.validate()
    assert stage.core.state.probe is None


# --- the choice -------------------------------------------------------------------------------------------------------


def test_candidates_come_in_proportion_to_their_samples() -> None:
    selection = make_selection(SelectionPlan(kind="power_of_choice", candidates=1))
    assert isinstance(selection, ProbingFloor)
    seen = [AgentView(name="large", samples=900), AgentView(name="small", samples=100)]
    drawn = Counter(selection.candidates(seen, 1, Fleet(2), Random(seed))[0] for seed in range(2000))
    assert 0.87 < drawn["large"] / 2000 < 0.93


def test_a_starved_device_comes_first_and_is_not_asked() -> None:
    selection = make_selection(PLAN)
    assert isinstance(selection, ProbingFloor)
    seen = [AgentView(name=f"d-{i}", samples=10, loss=float(i)) for i in range(4)]
    seen.append(AgentView(name="starved", samples=10, passed_over=99, loss=0.0))
    assert "starved" not in selection.candidates(seen, 2, Fleet(5), Random(1))
    assert selection.choose(seen, 2, Fleet(5), Random(1)) == ["starved", "d-3"]


# --- restarts ---------------------------------------------------------------------------------------------------------


def restarted(stage: Stage) -> Stage:
    """Another life, from what the first had written down."""
    journal = memory_journal("r")
    with journal.transaction():
        for action in of(stage.done, a.JournalAction):
            journal.apply(action)
    again = Stage.__new__(Stage)
    again.config, again.now, again.done, again.hold = stage.config, stage.now + 10.0, [], False
    again.core = CoordinatorCore(stage.config, restore_state(journal, stage.config))
    again.feed(e.Started(resumed=True))
    again.feed(e.Connected())
    return again


def test_a_restart_asks_only_those_whose_loss_it_does_not_have() -> None:
    """In the middle of a probe: the journal has two answers, the candidates are drawn again alike."""
    stage = stage_of(6)
    everybody(stage)
    assert stage.core.state.probe is not None
    first = stage.core.state.probe.candidates
    answer(stage, first[0], 1.0)
    answer(stage, first[2], 2.0)
    again = restarted(stage)
    everybody(again)
    assert again.core.state.probe is not None
    assert again.core.state.probe.candidates == first
    assert probes(again.done).keys() == {first[1], first[3]}
    answer(again, first[1], 0.5)
    answer(again, first[3], 0.6)
    assert cohort(again) == [first[2], first[0]]


@pytest.mark.parametrize("seed", range(6))
def test_no_update_is_lost_and_every_probe_ends(seed: int) -> None:
    habits = Habits(kill=0.15, loses_disk=0.5, fail=0.1, crash=0.02, duplicate=0.1, lose=0.02)
    world = World(
        make_config(6, rounds=5, policy={"cohort": 3, "quorum": 0.5, "selection": PLAN}), seed, habits
    )
    world.run()
    world.check_books()
    events = Counter(event for _, event, _ in world.records)
    assert events["loss_probed"] > 5
    assert events["losses_known"] <= events["losses_wanted"]
