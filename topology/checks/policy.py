"""The policy against fleet, model and links."""

from __future__ import annotations

import math
from collections.abc import Iterator

from topology.checks.registry import Problem, check
from topology.links import resolve_link
from topology.names import PARAMETERS
from topology.schema import Topology


@check("devices", "policy")
def cohort_fits_fleet(topology: Topology) -> Iterator[Problem]:
    devices, policy = len(topology.device_names), topology.policy
    cohort = policy.cohort if policy.cohort is not None else devices
    if cohort > devices:
        yield Problem(("policy", "cohort"), f"the fleet has only {devices} devices", f"at most {devices}")
    elif math.ceil(cohort * policy.over_select) > devices:
        yield Problem(
            ("policy", "over_select"),
            f"{policy.over_select:g} × {cohort} devices are more than the {devices} of the fleet",
            "a smaller cohort, or over_select: 1",
        )


@check("devices", "links", "model", "compression", "policy")
def deadline_is_possible(topology: Topology) -> Iterator[Problem]:
    """The bytes of an update over the slowest uplink, from below: training, download and overheads not
    counted.
    """
    deadline_s = topology.policy.deadline
    size_bytes = update_bytes_least(topology)
    for group, spec in topology.devices.items():
        rate_bit_s = resolve_link(spec.link).up.rate_bit_s
        if rate_bit_s is not None and size_bytes * 8 / rate_bit_s > deadline_s:
            yield Problem(
                ("policy", "deadline"),
                f"{group} sends its {size_bytes / 1e6:.1f} MB in {size_bytes * 8 / rate_bit_s:.0f} s",
                "a longer deadline, a smaller top_k, or another link",
                value=f"{deadline_s:g} s",
            )


def update_bytes_least(topology: Topology) -> float:
    """A lower bound of an update's size: the values alone, and half of them where zstd may shrink what is not
    sparse. 0 for a model that only its file tells the size of.
    """
    uplink = topology.compression.uplink
    value_bytes = {"none": 4, "fp16": 2, "int8": 1}[uplink.quantize]
    share = uplink.sparsify.top_k if uplink.sparsify else 1.0
    return (
        PARAMETERS.get(topology.model.source, 0)
        * share
        * value_bytes
        * (0.5 if uplink.entropy == "zstd" else 1.0)
    )
