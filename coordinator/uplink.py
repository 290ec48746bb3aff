"""What a task says about compression: the plan's chain, or its share in the warm-up's rounds. Pure."""

from __future__ import annotations

import msgspec

from topology.plan import UplinkPlan
from wire.codecs.schedules import warm_up
from wire.codecs.spec import CodecSpec
from wire.messages import UplinkSpec


def uplink_for(plan: UplinkPlan, round_number: int) -> UplinkSpec:
    """`round_number` counts from 1."""
    chain = _warming(plan, plan.chain, round_number - 1)
    return UplinkSpec(chain=chain, feedback=plan.feedback, bypass=plan.bypass)


def _warming(plan: UplinkPlan, chain: CodecSpec, rounds_done: int) -> CodecSpec:
    sparsify = chain.sparsify
    if sparsify is None or sparsify.fraction is None or rounds_done >= plan.warm_up.rounds:
        return chain
    fraction = warm_up(sparsify.fraction, rounds_done, plan.warm_up.rounds, plan.warm_up.first)
    return msgspec.structs.replace(chain, sparsify=msgspec.structs.replace(sparsify, fraction=fraction))
