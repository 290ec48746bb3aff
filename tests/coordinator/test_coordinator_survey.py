"""Figures of the devices' own tests: what is believed, what is refused; and the survey at the end of a run."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from coordinator_world import Habits, World, make_config
from test_coordinator_stories import Stage, of, recorded, sent

from coordinator import actions as a
from coordinator import events as e
from coordinator.core import CoordinatorCore, fresh_state
from coordinator.inbound import Inbound
from coordinator.inbox import Delivery
from coordinator.state import RunPhase
from wire import messages as m

TRAIN = m.TrainSpec(local_epochs=1, batch_size=16, lr=0.1, evaluate=True)
GOOD = m.Measured(samples=20, loss=0.5, answers=20, correct=15)


def stage(**changes: Any) -> Stage:
    given = {"rounds": 1, "train": TRAIN, "test_samples": {f"d-{i}": 20 for i in range(3)}}
    found = Stage(**(given | changes))
    found.everybody()
    return found


def figures(version: int = 0, **changes: Any) -> m.LocalFigures:
    one = msgspec.structs.replace(GOOD, **changes)
    return m.LocalFigures(version=version, received=GOOD, personal=one)


def surveying(**changes: Any) -> Stage:
    """A run whose last version is there and evaluated."""
    found = stage(**changes)
    for name in found.config.agents:
        found.give(name)
    found.feed(e.Evaluated(version=1, accuracy=0.5, loss=1.0, samples=10))
    return found


def answer(found: Stage, agent: str, said: m.LocalFigures | None = None) -> list[a.Action]:
    return found.say(agent, m.Surveyed(task="survey-v1", figures=said or figures(1)))


# --- figures with an update


def test_figures_that_can_be_true_are_recorded_with_device_and_version() -> None:
    found = stage()
    done = found.offer("d-0", local=figures())
    assert recorded(done, "tested_locally") == [
        {
            "agent": "d-0",
            "task": found.task("d-0"),
            "round": 1,
            "version": 0,
            "received": {"samples": 20, "loss": 0.5, "answers": 20, "correct": 15},
            "personal": {"samples": 20, "loss": 0.5, "answers": 20, "correct": 15},
        }
    ]
    again = found.offer("d-0", local=figures())
    assert not recorded(again, "tested_locally"), "the same offer twice is said once"


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (figures(version=7), "figures_version"),
        (figures(samples=21, answers=21), "figures_samples"),
        (figures(samples=10_000, answers=10_000, correct=10_000), "figures_samples"),
        (figures(correct=21), "figures_counts"),
        (figures(answers=19), "figures_counts"),
        (figures(answers=0, correct=1), "figures_counts"),
        (figures(loss=float("nan")), "figures_loss"),
        (figures(loss=float("inf")), "figures_loss"),
        (figures(loss=-0.1), "figures_loss"),
    ],
)
def test_a_liar_is_a_counted_refusal_and_its_update_is_judged_by_its_content(
    lie: m.LocalFigures, reason: str
) -> None:
    found = stage()
    done = found.offer("d-0", local=lie)
    assert [(x.agent, x.kind, x.reason) for x in of(done, a.Refused)] == [("d-0", "offer", reason)]
    assert not recorded(done, "tested_locally")
    assert recorded(done, "update_offered")[0]["report"]["local"] is None
    assert of(done, a.SendGrant)


def test_figures_that_nobody_asked_for_are_refused() -> None:
    found = stage(train=msgspec.structs.replace(TRAIN, evaluate=False))
    assert [x.reason for x in of(found.offer("d-0", local=figures()), a.Refused)] == ["figures_not_asked"]


def test_without_a_table_of_the_data_the_number_of_tests_is_believed() -> None:
    found = stage(test_samples={})
    assert recorded(found.offer("d-0", local=figures(samples=21, answers=21)), "tested_locally")


@pytest.mark.parametrize(
    "field",
    [("samples", 0), ("samples", -1), ("loss", -1.0), ("loss", 1e10), ("correct", -1), ("answers", 1.5)],
)
def test_figures_out_of_bounds_are_no_message(field: tuple[str, Any]) -> None:
    refused: list[str] = []
    inbound = Inbound(
        "r", bytes_max=1, objects_max=1, defect_of=lambda _: "", refuse=lambda *r: refused.append(r[2])
    )
    said = {"samples": 20, "loss": 0.5, "answers": 20, "correct": 15} | dict([field])
    message = {"type": "surveyed", "v": 1, "task": "survey-v1", "figures": {"version": 1, "received": said}}
    payload = msgspec.msgpack.encode(message)
    assert inbound.take(Delivery("rig/r/up/d-0/surveyed", payload, retained=False), 0.0) is None
    assert refused == ["malformed"]


# --- the survey


def test_after_the_last_version_every_device_is_asked_and_then_the_run_is_over() -> None:
    found = surveying()
    assert found.core.state.phase is RunPhase.SURVEYING
    asked = of(found.done, a.SendTask, survey=True)
    assert [(x.agent, x.task, x.version) for x in asked] == [(f"d-{i}", "survey-v1", 1) for i in range(3)]
    assert not sent(found.done, m.Finish)
    for name in ("d-0", "d-1"):
        assert len(recorded(answer(found, name), "tested_locally")) == 1
    last = answer(found, "d-2")
    assert recorded(last, "tested_locally")[0]["round"] is None
    assert recorded(last, "run_finished")[0]["reason"] == "rounds"
    assert len(sent(last, m.Finish)) == 3


def test_without_local_tests_or_after_a_failure_there_is_no_survey() -> None:
    found = surveying(train=msgspec.structs.replace(TRAIN, evaluate=False))
    assert found.core.state.phase is RunPhase.FINISHING
    lost = Stage(rounds=1, train=TRAIN)
    lost.wait(200.0)
    assert lost.core.state.finish_reason == "failed"
    assert not of(lost.done, a.SendTask, survey=True)


def test_who_is_away_is_not_awaited_and_who_comes_back_in_time_is_asked() -> None:
    found = surveying()
    answer(found, "d-0")
    found.offline("d-1")
    found.offline("d-2")
    found.wait(2.0)
    back = found.hello("d-1", "b2")
    assert [x.agent for x in of(back, a.SendTask, survey=True)] == ["d-1"]
    answer(found, "d-1")
    found.wait(found.config.drop_after_s)
    assert found.core.state.phase is RunPhase.FINISHING


def test_a_survey_in_hand_is_neither_cancelled_nor_asked_for_again() -> None:
    found = surveying()
    back = found.hello("d-0", "b2", task="survey-v1")
    assert not sent(back, m.Cancel)
    assert not of(back, a.SendTask)
    assert not of(
        found.say("d-0", m.Progress(task="survey-v1", phase="training", done=1, total=2)), a.Refused
    )


def test_a_silent_device_is_asked_again_and_given_up_at_the_deadline() -> None:
    found = surveying()
    answer(found, "d-0")
    answer(found, "d-1")
    again = found.wait(found.config.nudge_s)
    assert [x.agent for x in of(again, a.SendTask, survey=True)] == ["d-2"]
    assert recorded(again, "waiting")[-1]["for"][0]["phase"] == "testing"
    seen = found.core.picture(found.now)
    assert seen.state == "surveying"
    assert seen.why.startswith("devices that test version 1, for 10 s, at most 50 s more")
    assert [one["agent"] for one in seen.waiting] == ["d-2"]
    found.wait(found.config.survey_wait_s)
    assert found.core.state.phase in (RunPhase.FINISHING, RunPhase.DONE)
    assert not recorded(answer(found, "d-2"), "run_finished"), "too late, and no harm"


def test_failures_lies_and_strangers_end_no_run() -> None:
    found = surveying()
    found.say("d-0", m.Failed(task="survey-v1", reason="not enough memory"))
    lie = answer(found, "d-1", figures(1, correct=21))
    assert [x.reason for x in of(lie, a.Refused)] == ["figures_counts"]
    other = found.say("d-2", m.Surveyed(task="survey-v0", figures=figures(1)))
    assert [x.reason for x in of(other, a.Refused)] == ["unknown_task"]
    done = answer(found, "d-2")
    assert recorded(done, "run_finished")
    assert not recorded(answer(found, "d-2"), "tested_locally"), "the first answer counts"


def test_a_survey_before_its_time_is_refused() -> None:
    found = stage()
    assert [x.reason for x in of(answer(found, "d-0"), a.Refused)] == ["unknown_task"]


def test_a_coordinator_that_died_in_the_survey_holds_it_again() -> None:
    found = surveying()
    answer(found, "d-0")
    state = fresh_state(found.config)
    state.version, state.rounds_done, state.finish_reason, state.evaluated_version = 1, 1, "rounds", 1
    found.core = CoordinatorCore(found.config, state)
    found.feed(e.Started(resumed=True))
    found.feed(e.Connected())
    assert found.core.state.phase is RunPhase.SURVEYING
    asked = of(found.hello("d-0"), a.SendTask, survey=True)
    assert [x.agent for x in asked] == ["d-0"]
    answer(found, "d-0")
    found.wait(found.config.drop_after_s)  # the others never come back: they have gone home, maybe
    assert recorded(found.done, "run_finished")


@pytest.mark.parametrize("seed", range(40))
def test_every_wild_run_ends_with_its_books_in_order(seed: int) -> None:
    """Kills, lost and doubled messages, crashes of the coordinator: also in the survey."""
    wild = Habits(
        kill=0.1, loses_disk=0.2, duplicate=0.1, lose=0.02, fail=0.05, forget_broker=0.02, crash=0.01
    )
    world = World(make_config(4, train=TRAIN, rounds=2), seed, wild)
    stop = world.run()
    world.check_books()
    asked = {fields["agent"] for _, name, fields in world.records if name == "tested_locally"}
    assert asked <= set(world.agents)
    assert stop.ok or stop.reason == "failed"


def test_a_quiet_run_hears_every_device() -> None:
    world = World(make_config(4, train=TRAIN, rounds=2), 1)
    world.run()
    heard = [fields["agent"] for _, name, fields in world.records if name == "tested_locally"]
    assert sorted(heard) == sorted(world.agents)
