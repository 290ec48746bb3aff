"""FedAT: waves within tiers, versions between them, and slow tiers that count for more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coordinator_world import World, make_config
from hypothesis import given
from hypothesis import strategies as st
from test_coordinator_policies import view
from test_coordinator_random import HARSH
from test_coordinator_replay import Recording
from test_coordinator_stories import Stage, of, recorded

from coordinator import actions as a
from coordinator.policies import AgentView, Close, Fail, FedAT, GroupView, Replace, Timings, Wait, make_policy
from coordinator.recovery import restore_state
from coordinator.replay import replay
from topology.plan import PolicyPlan, StalenessPlan


def policy(tiers: int = 3, **more: Any) -> FedAT:
    made = make_policy(PolicyPlan(kind="fedat", cohort=2, tiers=tiers, deadline_s=60.0, **more))
    assert isinstance(made, FedAT)
    return made


def of_groups(*counts: tuple[int, int, int]) -> Any:
    """(mergeable, expected, spare) of tiers 1, 2, ..."""
    return view(
        groups=tuple(
            GroupView(group=k, mergeable=n, expected=owing, spare=free)
            for k, (n, owing, free) in enumerate(counts, 1)
        )
    )


# --- decisions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "decision"),
    [
        ([(0, 0, 5), (0, 2, 1)], Replace(2, 1)),  # a tier without a wave begins one, of its cohort
        ([(0, 0, 1), (0, 2, 1)], Replace(1, 1)),
        ([(1, 1, 5), (0, 2, 1)], Wait(60.0)),  # a wave waits for all of its own
        ([(1, 1, 5), (2, 0, 1)], Close("tier 2", 2)),  # and for nobody else's
        ([(2, 0, 5), (0, 2, 1)], Close("tier 1", 1)),  # before the next wave: that trains on its version
        ([(0, 1, 0), (0, 0, 0)], Wait(60.0)),
    ],
)
def test_what_it_decides(groups: list[tuple[int, int, int]], decision: object) -> None:
    assert policy(2).decide(of_groups(*groups), 1.0) == decision


def test_profiling_asks_everybody() -> None:
    seen = view(groups=(GroupView(group=0, spare=7),))
    assert policy().decide(seen, 1.0) == Replace(7, 0)


def test_a_fleet_that_is_gone_fails_in_the_end() -> None:
    assert isinstance(policy(2).decide(of_groups((0, 0, 0), (0, 0, 0)), 241.0), Fail)


def test_tiers_are_equal_parts_and_the_unknown_are_slow() -> None:
    known = [AgentView(name=f"d-{i}", timings=Timings().finished(1.0 + i, 1.0)) for i in range(5)]
    cut = policy().cut([AgentView(name="dead", timings=Timings().timed_out()), *known])
    assert cut == {"d-0": 1, "d-1": 1, "d-2": 2, "d-3": 2, "d-4": 3, "dead": 3}
    assert set(policy().cut(known[:3]).values()) == {1, 2, 3}


def timed(**seconds: float) -> list[AgentView]:
    return [
        AgentView(name=name, timings=Timings().finished(seconds_, 0.0)) for name, seconds_ in seconds.items()
    ]


@pytest.mark.parametrize(
    ("seconds", "new"),
    [
        ({"a": 1.0, "b": 1.0, "c": 9.0, "d": 9.0}, "1122"),
        ({"a": 9.0, "b": 1.0, "c": 1.0, "d": 9.0}, "2112"),  # it is as slow as the slow ones now
        ({"a": 9.2, "b": 1.0, "c": 9.0, "d": 9.1}, "1122"),  # so is whoever would take its place
        ({"a": 1.0, "b": 1.0, "c": 9.0, "d": 0.5}, "1221"),  # and it is faster than all
        ({"a": 1.3, "b": 1.0, "c": 1.1, "d": 9.0}, "1122"),  # a rank that jitter takes is none
        ({"a": 1.6, "b": 1.0, "c": 1.05, "d": 9.0}, "2112"),
        ({"a": 5.0, "b": 1.0, "c": 9.0, "d": 9.0}, "1122"),  # slower, and still of the faster half
    ],
)
def test_a_device_leaves_its_tier_when_it_is_far_from_it(seconds: dict[str, float], new: str) -> None:
    of = dict(zip("abcd", (1, 1, 2, 2), strict=True))
    expected = dict(zip("abcd", map(int, new), strict=True))
    assert policy(2).recut(of, timed(**seconds)) == expected


def test_it_is_looked_at_every_two_waves_of_every_tier() -> None:
    assert [n for n in range(1, 20) if policy(3).due({1: n - n // 3, 3: n // 3})] == [6, 12, 18]


# --- weights ----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 6), st.lists(st.integers(0, 1000), min_size=6, max_size=6))
def test_shares_are_those_of_the_mirror_and_sum_to_one(tiers: int, counts: list[int]) -> None:
    merges = dict(enumerate(counts[:tiers], 1))
    shares = [policy(tiers).share(k, merges) for k in range(1, tiers + 1)]
    assert sum(shares) == pytest.approx(1.0)
    assert all(0 < share <= 1 for share in shares)
    for k, share in enumerate(shares, 1):
        paper = merges[tiers + 1 - k] / max(sum(counts[:tiers]), 1)
        assert abs(share - paper) <= tiers / (sum(counts[:tiers]) + tiers)


def test_a_tier_that_is_slower_counts_more() -> None:
    often = {1: 70, 2: 20, 3: 10}
    shares = [policy().share(k, often) for k in (1, 2, 3)]
    assert shares == [11 / 103, 21 / 103, 71 / 103]
    assert policy().share(0, {}) == 1.0


# --- a story ----------------------------------------------------------------------------------------------------------


def stage_of_two_tiers(**more: Any) -> Stage:
    """d-0 and d-1 are fast, d-2 and d-3 slow; version 1 is made by all, and both tiers have a wave under way."""
    given = {"kind": "fedat", "tiers": 2, "cohort": 2, "deadline_s": 200.0, "server_lr": 1.5, **more}
    stage = Stage(make_config(4, rounds=9, policy=given))
    stage.everybody()
    for name, seconds in (("d-1", 1.0), ("d-0", 1.0), ("d-3", 20.0), ("d-2", 1.0)):
        stage.wait(seconds)
        stage.give(name)
    return stage


def factors(actions: list[a.Action]) -> list[tuple[int, str, float]]:
    return [
        (commit.version, item.agent, round(item.factor, 6))
        for commit in of(actions, a.CommitVersion)
        for item in commit.updates
    ]


def test_the_first_version_is_of_all_and_cuts_the_tiers() -> None:
    stage = stage_of_two_tiers()
    assert factors(stage.done) == [(1, name, 1.0) for name in ("d-1", "d-0", "d-3", "d-2")]
    (line,) = recorded(stage.done, "tiers_cut")
    assert line["tiers"] == [["d-0", "d-1"], ["d-2", "d-3"]]
    assert all(stage.task(name) for name in stage.config.agents)


def test_a_tier_goes_on_while_the_other_trains_and_the_slow_one_counts_more() -> None:
    stage = stage_of_two_tiers()
    begun = len(stage.done)
    slow = stage.task("d-2")
    for _ in range(3):
        stage.give("d-0")
        assert stage.core.state.version == len(of(stage.done, a.CommitVersion))
        stage.give("d-1")
    assert stage.core.state.version == 4
    assert stage.task("d-2") == slow
    stage.give("d-2")
    stage.give("d-3")
    made = factors(stage.done[begun:])
    # T_1 = 1, 2, 3 with T_2 = 0: the fast tier counts with its mirror's share; then T_2 = 1 of four.
    expected = [(2, 1 / 3), (3, 1 / 4), (4, 1 / 5), (5, 4 / 6)]
    assert made == [
        (version, name, round(share, 6))
        for version, share in expected
        for name in (("d-0", "d-1") if version < 5 else ("d-2", "d-3"))
    ]
    told = [u["factor"] for line in recorded(stage.done, "version_committed") for u in line["updates"]]
    assert told == [item.factor for commit in of(stage.done, a.CommitVersion) for item in commit.updates]
    assert {commit.server_lr for commit in of(stage.done, a.CommitVersion)} == {1.5}


def test_staleness_damps_on_top() -> None:
    stage = stage_of_two_tiers(staleness=StalenessPlan(kind="polynomial", exponent=1.0))
    stage.give("d-0")
    stage.give("d-1")
    stage.give("d-2")
    done = stage.give("d-3")
    # One version old, and T_1 = T_2 = 1.
    assert factors(done) == [(3, "d-2", 0.25), (3, "d-3", 0.25)]


def test_the_slow_of_a_wave_is_not_waited_for_beyond_its_deadline() -> None:
    stage = stage_of_two_tiers()
    stage.give("d-0")
    assert stage.core.state.version == 1
    stage.wait(201.0)
    assert stage.core.state.version >= 2
    (first,) = [c for c in of(stage.done, a.CommitVersion) if c.version == 2]
    assert [item.agent for item in first.updates] == ["d-0"]


def wave(stage: Stage, names: list[str], seconds: float) -> None:
    """The last of them is the slow one."""
    for name in names[:-1]:
        stage.give(name)
    stage.wait(seconds)
    stage.give(names[-1])


def test_a_device_that_has_become_slow_holds_up_the_fast_tier_no_longer() -> None:
    stage = stage_of_two_tiers()
    for _ in range(3):
        wave(stage, ["d-0", "d-1"], 150.0)  # a thermal fault of d-1
    assert len(recorded(stage.done, "tiers_cut")) == 1
    wave(stage, ["d-2", "d-3"], 0.0)  # T_1 + T_2 = 4
    cuts = recorded(stage.done, "tiers_cut")
    assert [(cut["since"], cut["tiers"]) for cut in cuts] == [
        (2, [["d-0", "d-1"], ["d-2", "d-3"]]),
        (6, [["d-0", "d-3"], ["d-1", "d-2"]]),
    ]
    slow = stage.task("d-1")
    stage.give("d-0")  # of the wave that was under way
    version = stage.core.state.version
    for _ in range(2):
        wave(stage, ["d-0", "d-3"], 0.0)
    assert stage.core.state.version == version + 2, "the fast tier waits for nobody else"
    assert stage.task("d-1") == slow
    made = [commit for commit in of(stage.done, a.CommitVersion) if commit.version > version]
    assert [[item.agent for item in commit.updates] for commit in made] == [["d-0", "d-3"]] * 2


# --- restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_restart_finds_tiers_and_counts(seed: int) -> None:
    config = make_config(6, rounds=8, policy={"kind": "fedat", "tiers": 2, "cohort": 3})
    world = World(config, seed, HARSH)
    world.run()
    world.check_books()
    live, again = world.core.state.tiers, restore_state(world.journal, config).tiers
    assert live is not None
    assert live == again
    assert sum(live.merges.values()) == world.core.state.version - 1


@pytest.mark.parametrize("seed", [0, 1, 3, 7])
def test_a_replay_cuts_again_as_it_was_cut_whoever_died_in_between(seed: int, tmp_path: Path) -> None:
    config = make_config(6, rounds=14, policy={"kind": "fedat", "tiers": 2, "cohort": 3})
    world = Recording(tmp_path, config, seed, HARSH)
    world.run()
    world.keep(tmp_path)
    live = world.core.state.tiers
    assert world.crashes
    assert live is not None
    assert live.since > 2, "no other cut than the first: another seed is needed"
    assert restore_state(world.journal, config).tiers == live
    assert replay(tmp_path).difference == ""
