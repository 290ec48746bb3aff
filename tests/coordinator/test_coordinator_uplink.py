"""What a task says about compression: the plan's chain, its share falling over the rounds of a warm-up."""

from __future__ import annotations

import itertools

import pytest

from coordinator.uplink import uplink_for
from topology.plan import UplinkPlan
from topology.plan.compression import WarmUp
from wire.codecs import CodecSpec, Feedback, Sparsify, uplink_spec


def test_every_task_carries_chain_feedback_and_bypass() -> None:
    plan = UplinkPlan(chain=uplink_spec(0.01, "int4"), feedback=Feedback(restart="fresh"), bypass=False)
    spec = uplink_for(plan, 3)
    assert (spec.chain, spec.feedback, spec.bypass) == (plan.chain, plan.feedback, False)


def test_the_share_falls_geometrically_from_a_quarter() -> None:
    plan = UplinkPlan(chain=uplink_spec(0.001), warm_up=WarmUp(rounds=4))
    shares = [uplink_for(plan, number).chain.sparsify.fraction for number in range(1, 7)]  # type: ignore[union-attr]
    assert shares[0] == 0.25
    assert shares[4:] == [0.001, 0.001]
    ratios = [b / a for a, b in itertools.pairwise(shares[:5])]  # type: ignore[operator]
    assert ratios == pytest.approx([ratios[0]] * 4)


@pytest.mark.parametrize("sparsify", [None, Sparsify(kind="top_k", bytes=20_000)])
def test_without_a_share_there_is_nothing_to_warm_up(sparsify: Sparsify | None) -> None:
    plan = UplinkPlan(chain=CodecSpec(sparsify=sparsify), warm_up=WarmUp(rounds=4))
    assert uplink_for(plan, 1).chain == plan.chain
