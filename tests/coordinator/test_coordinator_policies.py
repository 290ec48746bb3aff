"""Schedules, staleness, deadlines and selection as pure functions; the peers' defects that belong here, one by one."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np
import pytest
from coordinator_world import Habits, World, make_config
from hypothesis import given
from hypothesis import strategies as st
from test_coordinator_stories import Stage, of, recorded, sent

from coordinator import actions as a
from coordinator import merge
from coordinator.config import VERSIONS_LIVE_MAX
from coordinator.merges import Item, MergeSpec
from coordinator.policies import (
    AgentView,
    Close,
    Fail,
    Replace,
    RoundView,
    Timings,
    Wait,
    make_policy,
)
from coordinator.policies.deadlines import Estimate, make_deadline
from coordinator.policies.selection import FairnessFloor, RandomSelection
from coordinator.policies.staleness import STALENESS, make_staleness
from coordinator.policies.tiered import tiers_of
from coordinator.recovery import named_versions, restore_model, restore_state
from coordinator.state import TaskState
from topology.plan import PolicyPlan, StalenessPlan
from wire import messages as m
from wire.codecs import make_chain, uplink_spec
from wire.codecs.arrays import Float32

RAW = make_chain(uplink_spec(None, "none", "none"))
POLYNOMIAL = StalenessPlan(kind="polynomial", exponent=0.5)


def vector(*values: float) -> Float32:
    return np.array(values, np.float32)


def merged(master: Float32, *items: tuple[Float32, int, float], server_lr: float = 1.0) -> Float32:
    listed = [Item(RAW.encode(u, seed=0), n, s) for u, n, s in items]
    return merge.apply(master, listed, MergeSpec(server_lr=server_lr)).master


# --- staleness -------------------------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(STALENESS)), st.floats(0.01, 10), st.floats(0.01, 50), st.floats(0, 50))
def test_a_fresh_update_counts_in_full_and_none_counts_more_when_older(
    kind: str, exponent: float, a_: float, b: float
) -> None:
    s = make_staleness(StalenessPlan(kind=kind, exponent=exponent, a=a_, b=b))  # type: ignore[arg-type]
    weights = [s(tau) for tau in range(60)]
    assert weights[0] == 1.0
    assert all(0.0 < later <= earlier for earlier, later in itertools.pairwise(weights))


def test_the_papers_formulas() -> None:
    s = make_staleness(POLYNOMIAL)
    assert [round(s(tau), 3) for tau in (0, 1, 4, 9)] == [1.0, 0.707, 0.447, 0.316]
    hinge = make_staleness(StalenessPlan(kind="hinge", a=10.0, b=4.0))
    assert [hinge(tau) for tau in (0, 4, 5)] == [1.0, 1.0, 1 / 11]


def test_three_versions_old_with_exponent_a_half_moves_the_model_by_exactly_half() -> None:
    u, s = vector(2.0, -4.0, 1.0), make_staleness(POLYNOMIAL)
    assert merged(vector(0, 0, 0), (u, 100, s(3))).tolist() == [1.0, -2.0, 0.5]
    # ... however many of them there are: equal staleness does not cancel.
    assert merged(vector(0, 0, 0), (u, 100, s(3)), (u, 50, s(3))).tolist() == [1.0, -2.0, 0.5]


def test_what_is_older_than_the_bound_is_not_merged() -> None:
    policy = make_policy(PolicyPlan(kind="buffered", cohort=4, max_staleness=2, staleness=POLYNOMIAL))
    assert policy.factor(2) == pytest.approx(3**-0.5)
    assert policy.factor(3) is None


# --- the peers' defects (reference: peers, a4) -----------------------------------------------------------------------


def agree(ours: object, defective: object, wanted: object) -> None:
    """The check must pass with our formula and fail with theirs, or it checks nothing."""
    assert ours == pytest.approx(wanted, abs=1e-6)
    assert defective != pytest.approx(wanted, abs=1e-6)


def test_plato_the_mixing_constant_is_not_eaten_up() -> None:
    """a4.2: the stored constant is multiplied by every s(τ)."""
    policy = make_policy(
        PolicyPlan(kind="asynchronous", cohort=4, concurrency=4, mixing=0.9, staleness=POLYNOMIAL)
    )
    theirs = 0.9
    for _ in range(10):
        policy.factor(2)
        theirs *= 3**-0.5
    agree(policy.merge_lr, theirs, 0.9)


def test_nvflare_staleness_is_counted_before_the_version_and_divided_by_samples() -> None:
    """a4.3: 1 / (1 + √τ) with τ counted after the increment gives a fresh update 0.5; division by the count."""
    agree(make_staleness(POLYNOMIAL)(0), 1 / (1 + 1**0.5), 1.0)
    u, w = vector(1.0), vector(4.0)
    ours = merged(vector(0.0), (u, 300, 1.0), (w, 100, 1.0))
    agree(ours.item(), (300 * 1.0 + 100 * 4.0) / 2, 1.75)


def test_flotilla_a_fresh_update_does_not_replace_the_model() -> None:
    """a4.4: α = (τ + 1)^-a alone is 1 for τ = 0."""
    policy = make_policy(PolicyPlan(kind="asynchronous", cohort=1, mixing=0.6, staleness=POLYNOMIAL))
    master, trained = vector(10.0), vector(20.0)
    factor = policy.factor(0)
    assert factor is not None
    ours = merged(master, (trained - master, 100, factor), server_lr=policy.merge_lr)
    agree(ours.item(), trained.item(), 0.4 * 10.0 + 0.6 * 20.0)


@pytest.mark.parametrize("kind", ["synchronous", "buffered"])
def test_flotilla_the_last_outstanding_device_may_die(kind: str) -> None:
    """a4.5: the variable that the success branch sets is read when the last outstanding client dies."""
    policy = {"kind": kind, "cohort": 3, "quorum": 0.5, "concurrency": 3, "buffer": 2, "deadline_s": 20.0}
    stage = Stage(policy=policy)
    stage.everybody()
    stage.give("d-0")
    if kind == "synchronous":
        stage.give("d-1")
    stage.offline("d-2")
    if kind == "buffered":
        stage.give("d-1")
    stage.wait(6.0)
    assert stage.core.state.version == 1


def test_fedscale_and_appfl_an_update_is_a_difference_to_its_own_base() -> None:
    """a4.6: whole weights are averaged by staleness. a4.7: the difference is taken to the newest model."""
    base, newest, trained = vector(1.0), vector(5.0), vector(2.0)
    s = make_staleness(POLYNOMIAL)(3)
    ours = merged(newest, (trained - base, 100, s)).item()
    fedscale = (trained * s).item()
    appfl = merged(newest, (trained - newest, 100, s)).item()
    agree(ours, fedscale, 5.5)
    agree(ours, appfl, 5.5)


def test_fedml_a_last_will_ends_the_waiting() -> None:
    """a4.8: the will only takes the client off a list, and the round still waits for all."""
    stage = Stage(policy={"quorum": 0.5, "deadline_s": 1_000.0})
    stage.everybody()
    stage.give("d-0")
    stage.give("d-1")
    stage.offline("d-2")
    stage.wait(stage.config.drop_after_s + 1.0)
    assert stage.core.state.version == 1
    assert recorded(stage.done, "round_closed")[0]["reason"] == "absent"


def test_flower_a_round_without_updates_is_not_counted() -> None:
    """a4.10: a round with no aggregate is still counted."""
    stage = Stage(policy={"deadline_s": 10.0})
    stage.everybody()
    stage.wait(11.0)
    assert (stage.core.state.rounds_done, stage.core.state.version) == (0, 0)


# --- deadlines -------------------------------------------------------------------------------------------------------

AUTO = PolicyPlan(cohort=1, deadline_s=100.0, deadline_auto=True, deadline_floor_s=5.0)


def test_a_deadline_follows_the_devices_own_history() -> None:
    deadline = make_deadline(AUTO)
    assert deadline(Timings()) == 100.0
    steady = Timings()
    for _ in range(60):
        steady = steady.finished(12.0, 10.0)
    assert steady.expected_s == pytest.approx(12.0)
    assert deadline(steady) == pytest.approx(12.0, abs=0.1)
    shaky = steady.finished(40.0, 10.0)  # one slow transfer widens the transfer's part alone
    assert shaky.compute == steady.compute.add(10.0)
    assert deadline(steady) < deadline(shaky) < 60.0
    assert deadline(steady.timed_out()) == pytest.approx(2 * deadline(steady), rel=0.01)
    assert deadline(Timings().finished(0.1, 0.1)) == 5.0
    assert deadline(Timings().finished(500.0, 400.0)) == 100.0


@given(st.floats(0.001, 1e4), st.floats(-10, 1e5))
def test_a_device_cannot_claim_more_compute_than_there_was_time(total_s: float, claimed_s: float) -> None:
    timings = Timings().finished(total_s, claimed_s)
    assert 0.0 <= timings.compute.mean_s <= total_s
    assert timings.compute.mean_s + timings.transfer.mean_s == pytest.approx(total_s)


def test_a_timeout_is_forgotten_with_the_next_update() -> None:
    slow = Timings().finished(3.0, 2.0).timed_out().timed_out()
    assert (slow.timeouts, slow.finished(3.0, 2.0).timeouts) == (2, 0)
    assert Estimate().add(4.0) == Estimate(4.0, 2.0, 1)


# --- selection -------------------------------------------------------------------------------------------------------


def test_whoever_was_passed_over_for_long_comes_first() -> None:
    seen = [AgentView(name=f"d-{i}", passed_over=i) for i in range(30)]
    chosen = FairnessFloor(RandomSelection()).choose(seen, 5, 10, Random(1))
    assert len(set(chosen)) == 5
    seen += [AgentView(name="late", passed_over=20), AgentView(name="later", passed_over=400)]
    assert FairnessFloor(RandomSelection()).choose(seen, 1, 10, Random(1)) == ["later"]
    assert FairnessFloor(RandomSelection()).choose(seen, 40, 10, Random(1))[:2] == ["later", "d-29"]


def test_tiers_are_cut_by_speed_and_the_neglected_one_is_next() -> None:
    seen = [
        AgentView(name=f"d-{i}", timings=Timings().finished(1.0 + i, 1.0), passed_over=9 if i > 5 else i)
        for i in range(9)
    ]
    assert next([v.name for v in tier] for tier in tiers_of(seen, 3)) == ["d-0", "d-1", "d-2"]
    policy = make_policy(PolicyPlan(kind="tiered", cohort=2, tiers=3, quorum=0.5))
    chosen = policy.choose(seen, 9, Random(3))
    assert set(chosen) < {"d-6", "d-7", "d-8"}
    assert policy.size(len(chosen)) == (2, 1)
    unknown = [*seen, AgentView(name="new")]
    assert policy.choose(unknown, 10, Random(3)) == ["new"]
    assert policy.refill(seen, 1, 9, Random(3)) == ["d-0"]


# --- buffered --------------------------------------------------------------------------------------------------------


def view(**changes: object) -> RoundView:
    values: dict[str, object] = {
        "target": 3, "quorum": 3, "mergeable": 0, "expected": 2, "away": 0, "receiving": 0, "spare": 4,
        "deadline": 60.0, "deadline_s": 60.0, "extensions": 0,
    }  # fmt: skip
    return RoundView(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "now", "decision"),
    [
        (view(), 1.0, Replace(3)),
        (view(spare=1), 1.0, Replace(1)),
        (view(expected=3, carried=2), 1.0, Wait(60.0)),  # then everybody has new attempts
        (view(expected=3, carried=2, away=7), 61.0, Wait(120.0)),
        (view(mergeable=3), 1.0, Close("complete")),
        (view(expected=5, quiet_since=10.0), 249.0, Wait(250.0)),
    ],
)
def test_what_the_buffered_policy_decides(seen: RoundView, now: float, decision: object) -> None:
    plan = PolicyPlan(kind="buffered", cohort=9, concurrency=5, buffer=3, deadline_s=60.0)
    assert make_policy(plan).decide(seen, now) == decision


def test_a_buffer_that_nothing_comes_for_fails_in_the_end() -> None:
    decision = make_policy(PolicyPlan(kind="buffered", cohort=9)).decide(view(spare=0), 241.0)
    assert isinstance(decision, Fail)


# --- in the core -----------------------------------------------------------------------------------------------------


def buffered(**policy: object) -> Stage:
    values = {"kind": "buffered", "concurrency": 3, "buffer": 2, "deadline_s": 50.0, "staleness": POLYNOMIAL}
    return Stage(policy={**values, **policy}, rounds=50)


def test_an_update_of_an_older_version_is_merged_damped_and_its_version_stays_live() -> None:
    stage = buffered()
    stage.everybody()
    slow = stage.task("d-2")
    for name in ("d-0", "d-1", "d-0", "d-1"):
        stage.give(name)
    assert stage.core.state.version == 2
    assert stage.core.state.live[0] == 0
    done = stage.give("d-2") + stage.give("d-0")
    commit = of(done, a.CommitVersion)[0]
    assert (commit.updates[0].task, commit.updates[0].factor) == (slow, 3**-0.5)
    assert of(done, a.WithdrawVersion)[0].version == 0
    assert recorded(done, "version_committed")[0]["updates"][0]["staleness"] == 2


def test_no_task_is_opened_that_would_need_a_ninth_version() -> None:
    """Devices that never come back with anything hold their versions; the others go on with what is live."""
    stage = Stage(
        make_config(20, policy={"kind": "asynchronous", "concurrency": 20, "deadline_s": 500.0}, rounds=60)
    )
    stage.everybody()
    live: list[int] = []
    rng = Random(1)
    for _ in range(40):
        busy = [name for name in stage.config.agents if stage.task(name)]
        stage.give(rng.choice(busy))
        live.append(len(stage.core.state.live))
    assert max(live) == VERSIONS_LIVE_MAX
    assert stage.core.state.version == 40


def test_too_stale_ends_what_is_not_sent_yet_and_discards_what_is() -> None:
    stage = buffered(max_staleness=1, buffer=1)
    stage.everybody()
    training, sending = stage.task("d-1"), stage.task("d-2")
    stage.offer("d-2")
    done = [action for _ in range(2) for action in stage.give("d-0")]
    assert [x.task for x in sent(done, m.Cancel, "d-1")] == [training]
    assert stage.state(sending) is TaskState.GRANTED
    done = stage.receive("d-2")
    assert [(x.task, x.outcome) for x in sent(done, m.Outcome, "d-2")] == [(sending, "stale")]


def test_a_task_out_of_time_makes_room_for_another() -> None:
    stage = buffered(concurrency=1)
    stage.everybody()
    first = next(name for name in stage.config.agents if stage.task(name))
    task = stage.task(first)
    stage.wait(51.0)
    assert stage.state(task) is TaskState.TIMED_OUT
    assert stage.core.state.agents[first].timings.timeouts == 1
    assert sum(bool(stage.task(name)) for name in stage.config.agents) == 1


def test_waiting_is_told_for_every_schedule() -> None:
    stage = buffered()
    stage.everybody()
    stage.say("d-0", m.Progress(task=stage.task("d-0"), phase="training", done=0, total=1))
    told = recorded(stage.wait(6.0), "waiting")[0]
    assert (told["have"], told["want"]) == (0, 2)
    first = next(x for x in told["for"] if x["agent"] == "d-0")
    assert (first["phase"], first["version"]) == ("training", 0)
    assert 40.0 < first["until_s"] < 50.0
    assert first["heard_s"] == pytest.approx(first["since_s"])


def test_what_is_known_of_devices_survives_a_restart() -> None:
    world = World(
        make_config(4, rounds=4, policy={"kind": "buffered", "concurrency": 4, "buffer": 3}),
        5,
        Habits(kill=0.2),
    )
    world.run()
    before = world.core.state.agents
    after = restore_state(world.journal, world.config).agents
    assert any(agent.timings.known for agent in before.values())
    for name, agent in before.items():
        assert after[name].timings == agent.timings
        assert (after[name].last_task, after[name].merged) == (agent.last_task, agent.merged)


def test_versions_that_open_tasks_name_are_restored_however_old() -> None:
    """After a restart the device may have to fetch it again: past the last eight, and past a snapshot."""
    world = World(make_config(4, rounds=30, policy={"kind": "asynchronous", "concurrency": 4}), 5)
    world.run()
    world.journal.db.execute(
        "INSERT INTO tasks (task, agent, round, version, seed, deadline_s, number)"
        " VALUES ('x-t999', 'd-1', 4, 3, 1, 9, 999)"
    )
    assert named_versions(world.journal) == {3}
    model = restore_model(world.journal, "fp16", 8, also=named_versions(world.journal))
    assert model is not None
    assert [version for version, _ in model.recent] == [3, *range(23, 31)]
    whole = restore_model(world.journal, "fp16", 31)
    assert whole is not None
    assert (dict(model.recent)[3] == dict(whole.recent)[3]).all()
    assert model.master.tobytes() == world.master.tobytes()
