"""What is done to the bytes."""

from __future__ import annotations

from topology.chains import chain_of
from topology.plan import CompressionPlan, UplinkPlan
from topology.plan.compression import AdaptivePlan, DownlinkPlan, WarmUp
from topology.schema import Topology
from topology.schema.compression import Adaptive, ErrorFeedback
from wire.codecs import spec

DGC_MOMENTUM = 0.9  # Lin et al. 2018, table 1


def compile_compression(topology: Topology) -> CompressionPlan:
    uplink = topology.compression.uplink
    return CompressionPlan(
        uplink=UplinkPlan(
            chain=chain_of(uplink),
            feedback=_feedback_of(uplink.error_feedback),
            warm_up=WarmUp(rounds=uplink.error_feedback.warm_up or 0),
            bypass=uplink.bypass == "tiny",
            adaptive=_adaptive_of(uplink.adaptive),
        ),
        downlink=DownlinkPlan(
            quantize=topology.compression.downlink.quantize, delta=topology.compression.downlink.delta
        ),
    )


def _feedback_of(given: ErrorFeedback) -> spec.Feedback:
    momentum = (given.momentum or DGC_MOMENTUM) if given.kind == "dgc" else 0.0
    if given.decay is None:
        return spec.Feedback(kind=given.kind, momentum=momentum, restart=given.restart)
    return spec.Feedback(
        kind=given.kind,
        momentum=momentum,
        decay_after=given.decay.after,
        decay_factor=given.decay.factor,
        restart=given.restart,
    )


def _adaptive_of(given: Adaptive | None) -> AdaptivePlan | None:
    if given is None:
        return None
    return AdaptivePlan(fraction_min=given.least, fraction_max=given.most, upload_share=given.upload_share)
