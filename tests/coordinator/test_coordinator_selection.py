"""Selections: what every one of them keeps to, what each goes by, and that a restart finds all of it again."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from coordinator_world import Habits, World, make_config
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import events as e
from coordinator.policies.deadlines import Estimate, Timings
from coordinator.policies.selection import (
    BUILT_IN,
    SELECTIONS,
    AgentView,
    FairnessFloor,
    Fleet,
    Selection,
    make_selection,
    statistical_utility,
)
from coordinator.policies.selection.oort import Oort
from coordinator.recovery import restore_state
from topology.plan import SelectionPlan

KINDS = sorted(BUILT_IN)
seconds = st.floats(0, 1e4)
timings = st.builds(
    Timings,
    st.builds(Estimate, seconds, seconds, st.integers(0, 9)),
    st.builds(Estimate, seconds, seconds, st.integers(0, 9)),
    st.integers(0, 16),
)
views = st.builds(
    AgentView,
    name=st.from_regex(r"[a-z]-[0-9]{1,3}", fullmatch=True),
    timings=timings,
    passed_over=st.integers(0, 300),
    charge=st.floats(0, 1),
    plugged=st.booleans(),
    delivered=st.integers(0, 1000),
    lost=st.integers(0, 1000),
    utility=st.none() | st.floats(0, 1e12),
    used_round=st.integers(0, 1000),
    samples=st.integers(0, 10_000),
    loss=st.none() | st.floats(0, 1e6),
)
seen_lists = st.lists(views, max_size=25, unique_by=lambda view: view.name)
fleets = st.builds(
    Fleet, st.integers(25, 100), st.integers(1, 1000), st.lists(st.floats(0, 1e9), max_size=90).map(tuple)
)


def plan(kind: str, **options: object) -> SelectionPlan:
    return SelectionPlan(kind=kind, **options)  # type: ignore[arg-type]


def took(transfer_s: float, compute_s: float = 1.0, timeouts: int = 0) -> Timings:
    return Timings(Estimate(compute_s, 0, 3), Estimate(transfer_s, 0, 3), timeouts)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(seen=seen_lists, count=st.integers(0, 30), fleet=fleets, seed=st.integers(0, 99))
def test_the_right_number_of_those_that_are_free_and_the_same_for_the_same_seed(
    kind: str, seen: list[AgentView], count: int, fleet: Fleet, seed: int
) -> None:
    chosen = make_selection(plan(kind)).choose(seen, count, fleet, Random(seed))
    assert len(chosen) == len(set(chosen)) == min(count, len(seen))
    assert set(chosen) <= {view.name for view in seen}
    assert chosen == make_selection(plan(kind)).choose(seen[::-1], count, fleet, Random(seed))


class Favourites:
    """Never takes anybody else while it can: the worst that a selection can do to the others."""

    def choose(self, seen: list[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        return sorted(view.name for view in seen)[:count]


def longest_wait(selection: Selection, devices: int, cohort: int, tasks: int, seed: int) -> int:
    """The longest that anybody was passed over; a third are slow, empty and never of use."""
    last = {f"d-{i:02}": 0 for i in range(devices)}
    rng, made, longest, gains = Random(seed), 0, 0, ()
    while made < tasks:
        seen = [
            AgentView(
                name=name, passed_over=made - task, timings=took(500.0 if i % 3 == 0 else 1.0),
                charge=0.1 if i % 3 == 0 else 1.0, plugged=False, lost=90 if i % 3 == 0 else 0,
                utility=0.0 if i % 3 == 0 else 50.0,
            )
            for i, (name, task) in enumerate(last.items())
        ]  # fmt: skip
        for name in selection.choose(seen, cohort, Fleet(devices, 500, gains), rng):
            made += 1
            last[name] = made
        longest = max(longest, *(made - task for task in last.values()))
    return longest


@settings(max_examples=15, deadline=None)
@given(
    cohort=st.integers(1, 12), min_share=st.sampled_from([0.25, 0.5, 1.0]), seed=st.integers(0, 9),
    kind=st.sampled_from([*KINDS, "favourites"]),
)  # fmt: skip
def test_the_floor_holds_under_every_selection(cohort: int, min_share: float, seed: int, kind: str) -> None:
    inner = Favourites() if kind == "favourites" else SELECTIONS[kind](plan(kind))
    floored = FairnessFloor(inner, min_share)
    assert longest_wait(floored, 12, cohort, 600, seed) < 12 / min_share + 12 + cohort


def test_without_the_floor_favourites_starve_the_others() -> None:
    assert longest_wait(FairnessFloor(Favourites(), 0.0), 12, 4, 600, 1) >= 600


def test_round_robin_takes_whoever_waited_longest() -> None:
    seen = [AgentView(name=f"d-{i}", passed_over=i) for i in range(5)]
    assert make_selection(plan("round_robin")).choose(seen, 3, Fleet(5), Random(1)) == ["d-4", "d-3", "d-2"]


def test_a_low_charge_is_passed_over_while_others_are_free() -> None:
    low = [AgentView(name=f"low-{i}", charge=0.05 * i, plugged=False) for i in range(1, 4)]
    charging = AgentView(name="charging", charge=0.01, plugged=True)
    full = AgentView(name="full", charge=0.9, plugged=False)
    selection = make_selection(plan("availability"))
    for seed in range(20):
        assert set(selection.choose([*low, charging, full], 2, Fleet(5), Random(seed))) == {
            "charging",
            "full",
        }
        assert selection.choose([*low, charging, full], 3, Fleet(5), Random(seed))[2] == "low-3"


def shares(kind: str, seen: list[AgentView], fleet: Fleet, **options: object) -> dict[str, float]:
    """How often each is chosen when one is."""
    selection, draws = make_selection(plan(kind, **options)), 2000
    counts = Counter(selection.choose(seen, 1, fleet, Random(seed))[0] for seed in range(draws))
    return {view.name: counts[view.name] / draws for view in seen}


def test_those_that_deliver_and_have_the_charge_come_in_that_proportion() -> None:
    steady = AgentView(name="steady", delivered=9)
    shaky = AgentView(name="shaky", delivered=4, lost=5)  # (4 + 1) / (9 + 1)
    half = AgentView(name="half", charge=0.5, plugged=False)
    found = shares("availability", [steady, shaky, half], Fleet(3))
    assert found == pytest.approx({"steady": 0.5, "shaky": 0.25, "half": 0.25}, abs=0.04)


def test_bandwidth_goes_by_measured_transfers() -> None:
    seen = [
        AgentView(name="fast", timings=took(2.0, compute_s=90.0)),
        AgentView(name="slow", timings=took(8.0, compute_s=0.1)),
        AgentView(name="new"),
        AgentView(name="late", timings=took(2.0, timeouts=2)),
    ]
    found = shares("bandwidth", seen, Fleet(4))
    assert found == pytest.approx({"fast": 0.4, "slow": 0.1, "new": 0.4, "late": 0.1}, abs=0.04)


def test_oort_explores_less_and_less_but_never_stops() -> None:
    oort = Oort(plan("oort"))
    assert [oort.exploration(r) for r in (1, 2)] == pytest.approx([0.9, 0.9 * 0.98])
    assert oort.exploration(500) == 0.2
    tried = [AgentView(name=f"t-{i}", utility=1.0, used_round=1, timings=took(1.0)) for i in range(10)]
    new = [AgentView(name=f"n-{i}") for i in range(10)]
    for round_, fresh in ((1, 9), (500, 2)):
        chosen = oort.choose([*tried, *new], 10, Fleet(20, round_), Random(3))
        assert sum(name.startswith("n-") for name in chosen) == fresh


def test_oort_prefers_a_high_loss_and_a_fast_device_and_one_long_unused() -> None:
    oort = Oort(plan("oort", penalty=2.0))
    fast, slow = took(1.0, 1.0), took(5.0, 5.0)
    worth = oort.utilities(
        [
            AgentView(name="high", utility=400.0, timings=fast, used_round=100),
            AgentView(name="low", utility=100.0, timings=fast, used_round=100),
            AgentView(name="long-ago", utility=100.0, timings=fast, used_round=1),
            AgentView(name="slow", utility=400.0, timings=slow, used_round=100),
        ],
        Fleet(4, 100),
    )
    assert worth["high"] > worth["long-ago"] > worth["low"]
    # T is the 30th percentile of 2, 2, 2, 10 s: the slow one counts (2 / 10)² of the same utility.
    assert worth["slow"] == pytest.approx(worth["high"] * 0.04)


def test_the_pacer_loosens_when_versions_bring_less() -> None:
    oort = Oort(plan("oort", window=2))
    assert oort.pace((5, 5, 6, 6)) == 30
    assert oort.pace((5, 5, 4, 4)) == 35
    assert oort.pace((5, 5, 4, 4, 9)) == 35  # half a window says nothing yet
    assert oort.pace((5, 5, 4, 4, 3, 3)) == 40
    assert oort.pace(tuple(range(200, 0, -1))) == 100


@pytest.mark.parametrize(
    ("loss", "utility"), [(2.0, 200.0), (-1.0, 0.0), (float("nan"), 0.0), (float("inf"), 0.0), (1e300, 1e8)]
)
def test_a_reported_loss_is_not_trusted(loss: float, utility: float) -> None:
    assert statistical_utility(100, loss) == utility


class Restored(World):
    """Compares what selection goes by with what a restart would find, now and then while it runs."""

    depth = compared = 0

    def feed(self, event: e.Event) -> None:
        self.depth += 1
        super().feed(event)
        self.depth -= 1
        if self.depth == 0 and self.core.state.started and self.count % 5 == 0 and not self.dead:
            self.compare()

    @property
    def dead(self) -> bool:
        return type(self.core) is not self.core_type

    def compare(self) -> None:
        self.compared += 1
        live, again = self.core.state, restore_state(self.journal, self.config)
        for name, agent in live.agents.items():
            other = again.agents[name]
            for key in ("delivered", "lost", "utility", "used_round", "merged", "last_task", "probed"):
                assert getattr(agent, key) == getattr(other, key), (name, key)
        assert live.gains == again.gains


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_a_restart_finds_what_selection_goes_by(kind: str, seed: int) -> None:
    policy = {"cohort": 4, "quorum": 0.6, "selection": plan(kind, window=2)}
    habits = Habits(kill=0.15, loses_disk=0.5, fail=0.1, defect=0.1, crash=0.02, duplicate=0.1)
    world = Restored(make_config(7, rounds=5, policy=policy), seed, habits)
    world.run()
    world.check_books()
    assert world.compared > 20
    assert len(world.core.state.gains) == 5
