"""`compression: auto` as a pure decision: the link, the deadline and the slope each decide, and say so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coordinator_world import Habits, World, make_config
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.adaptive import (
    FIRST_SHARE,
    Known,
    UplinkRate,
    choose,
    slope_of,
    update_bytes,
)
from coordinator.recovery import restore_state
from topology.plan import UplinkPlan
from topology.plan.compression import AdaptivePlan
from wire.codecs import make_chain

PLAN = AdaptivePlan()
CNN = 1_663_370


def known(**changes: Any) -> Known:
    fields: dict[str, Any] = {
        "rate": UplinkRate(20e6, 3),
        "deadline_s": 30.0,
        "train_s": 2.0,
        "parameters": CNN,
        "slope": 0.003,
        "share": 0.01,
    }
    return Known(**(fields | changes))


def test_a_device_of_which_nothing_is_known_gets_one_percent_in_int8() -> None:
    choice = choose(PLAN, known(rate=UplinkRate(20e6), slope=None, share=0.0, train_s=0.0))
    assert (choice.share, choice.bits) == (FIRST_SHARE, 8)
    assert "as its link was asked to be" in choice.reason


@pytest.mark.parametrize(
    ("slope", "gained", "share", "says"),
    [
        (0.02, 0.1, 0.02, "rises by 2 points"),
        (0.003, 0.5, 0.01, "rises slowly"),
        (0.0, 0.5, 0.005, "hardly rises any more"),
        (0.0, 0.05, 0.02, "has not risen yet"),
    ],
)
def test_steep_learning_gets_twice_as_much_and_a_plateau_half(
    slope: float, gained: float, share: float, says: str
) -> None:
    choice = choose(PLAN, known(slope=slope, gained=gained))
    assert choice.share == pytest.approx(share)
    assert says in choice.reason


def test_shares_stay_within_what_the_file_allows() -> None:
    assert choose(PLAN, known(slope=0.02, share=0.1)).share == 0.1
    assert choose(PLAN, known(slope=0.0, gained=0.5, share=0.0025)).share == 0.0025


def test_a_slower_link_first_costs_bits_then_share() -> None:
    rates = [1e6, 40e3, 20e3, 10e3, 2e3, 100.0]
    made = [choose(PLAN, known(rate=UplinkRate(rate, 3), deadline_s=10.0)) for rate in rates]
    sizes = [update_bytes(CNN, choice.share, choice.bits) for choice in made]
    assert sizes == sorted(sizes, reverse=True)
    assert (made[0].share, made[0].bits) == (0.01, 8)
    assert any(choice.share == 0.01 and choice.bits == 1 for choice in made)
    assert made[-1].share == PLAN.fraction_min
    assert "not even the least share fits" in made[-1].reason


def test_training_that_fills_the_deadline_leaves_little_to_the_upload() -> None:
    idle, busy = choose(PLAN, known(train_s=1.0)), choose(PLAN, known(train_s=26.0))
    assert busy.budget_bytes < idle.budget_bytes / 5
    assert "left by 26 s of training" in busy.reason


@given(
    rate=st.floats(1, 1e10),
    deadline=st.floats(0.1, 1e5),
    train=st.floats(0, 1e5),
    slope=st.none() | st.floats(-1, 1),
    share=st.just(0.0) | st.floats(0.0001, 1),
    parameters=st.integers(1, 10**8),
)
@settings(max_examples=200, deadline=None)
def test_every_choice_is_a_chain_within_its_bounds_and_fits_where_something_fits(
    rate: float, deadline: float, train: float, slope: float | None, share: float, parameters: int
) -> None:
    case = Known(UplinkRate(rate, 1), deadline, train, parameters, slope, share)
    choice = choose(PLAN, case)
    make_chain(choice.chain)
    assert PLAN.fraction_min <= choice.share <= PLAN.fraction_max
    if "not even" not in choice.reason:
        assert update_bytes(parameters, choice.share, choice.bits) <= choice.budget_bytes
    assert choose(PLAN, case) == choice


@pytest.mark.parametrize(("share", "bits"), [(0.0025, 1), (0.01, 1), (0.01, 8), (0.1, 8)])
def test_the_estimate_is_not_below_what_an_encoder_makes_of_it(share: float, bits: int) -> None:
    vector = np.random.default_rng(1).standard_t(3, 300_000).astype(np.float32)
    rich = choose(PLAN, known(rate=UplinkRate(1e9, 1), share=share, parameters=vector.size))
    assert rich.share == share
    quantize = "int8" if bits == 8 else "ternary"
    chain = make_chain(type(rich.chain)(sparsify=rich.chain.sparsify, quantize=quantize, entropy="smallest"))
    size = len(chain.encode(vector, seed=1))
    assert 0.5 * update_bytes(vector.size, share, bits) < size <= update_bytes(vector.size, share, bits)


def test_a_rate_is_measured_and_a_short_upload_never_lowers_it() -> None:
    rate = UplinkRate(8e6).measured(1_000_000, 2.0)
    assert (rate.rate_bit_s, rate.count) == (4e6, 1)
    assert rate.measured(1_000, 0.2) == rate
    assert rate.measured(1_000_000, 0.4).rate_bit_s == 20e6
    slower = rate.measured(250_000, 2.0)
    assert 1e6 < slower.rate_bit_s < 4e6


def test_the_slope_is_that_of_a_line_through_the_last_evaluations() -> None:
    assert slope_of([]) is None
    assert slope_of([(1, 0.1), (2, 0.2)]) is None
    line = [(version, 0.5 + 0.01 * version) for version in range(12)]
    assert slope_of(line) == pytest.approx(0.01)
    assert slope_of([(1, 0.0), *((v, 0.9) for v in range(2, 9))]) == pytest.approx(0.0)
    assert slope_of([(3, 0.1), (3, 0.2), (3, 0.3)]) is None


def test_in_a_run_every_task_has_a_recorded_choice_that_follows_what_was_measured() -> None:
    config = make_config(rounds=8, uplink=UplinkPlan(adaptive=PLAN))
    world = World(config, seed=8, habits=Habits(crash=0.02))
    world.run()
    chosen = {f["task"]: f for _, name, f in world.records if name == "compression_chosen"}
    opened = {f["task"] for _, name, f in world.records if name == "task_opened"}
    assert opened <= set(chosen)
    assert all(fields["reason"] and fields["budget_bytes"] > 0 for fields in chosen.values())
    assert world.crashes > 0
    assert any(fields["slope"] is not None for fields in chosen.values())
    shares = {fields["share"] for fields in chosen.values()}
    assert FIRST_SHARE in shares
    assert max(shares) > FIRST_SHARE, (
        "its accuracy rises by ten points a version: updates are worth their bytes"
    )
    lasting = world.core.state
    again = restore_state(world.journal, config)
    assert again.first_accuracy == lasting.first_accuracy == 0.0
    assert again.agents["d-0"].uplink == lasting.agents["d-0"].uplink


def test_without_auto_nothing_is_chosen() -> None:
    world = World(make_config(rounds=2), seed=1)
    world.run()
    assert not [name for _, name, _ in world.records if name == "compression_chosen"]
