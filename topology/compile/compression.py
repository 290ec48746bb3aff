"""What is done to the bytes."""

from __future__ import annotations

from topology.plan import CompressionPlan, UplinkPlan
from topology.schema import Topology


def compile_compression(topology: Topology) -> CompressionPlan:
    uplink = topology.compression.uplink
    return CompressionPlan(
        uplink=UplinkPlan(
            top_k=uplink.sparsify.top_k if uplink.sparsify else None,
            quantize=uplink.quantize,
            entropy=uplink.entropy,
        ),
        downlink=topology.compression.downlink.quantize,
    )
