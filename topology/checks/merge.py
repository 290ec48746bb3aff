"""The merge against itself, the fleet, and everything it does not go together with."""

from __future__ import annotations

import math
from collections.abc import Iterator

from topology.checks.registry import Problem, check
from topology.compatibility import refusals
from topology.names import PARAMETERS
from topology.schema import Topology
from topology.schema.merge import KEYS, NEEDED

# All updates of a version at once in the coordinator's memory: what a host of 8 GiB can spare beside a fleet.
GATHERED_BYTES_MAX = 2 << 30
GATHERING = frozenset({"median", "trimmed_mean", "krum"})


@check("merge", "policy", "compression", "training", "model", "expect", "personalization", "evaluation")
def sections_go_together(topology: Topology) -> Iterator[Problem]:
    for row in refusals(topology):
        yield Problem(row.path, row.reason, row.hint)


@check("merge")
def merge_keys_fit_kind(topology: Topology) -> Iterator[Problem]:
    merge = topology.merge
    every = frozenset[str]().union(*KEYS.values())
    for key in sorted(every - KEYS.get(merge.kind, frozenset())):
        if getattr(merge, key) is not None:
            kinds = ", ".join(kind for kind, keys in KEYS.items() if key in keys)
            yield Problem(("merge", key), f"belongs to kind: {kinds}, not to {merge.kind}", "remove it")
    for key in sorted(NEEDED.get(merge.kind, frozenset())):
        if getattr(merge, key) is None:
            yield Problem(("merge",), f"{merge.kind} needs `{key}`", f"add {key}: 1.0", value=merge.kind)


def updates_of_a_version(topology: Topology) -> tuple[int, int]:
    """(at least, at most): how many updates a version is made of."""
    policy, devices = topology.policy, len(topology.device_names)
    if policy.kind == "asynchronous":
        return 1, 1
    if policy.kind == "buffered":
        buffer = policy.buffer if policy.buffer is not None else min(10, devices)
        return buffer, buffer
    cohort = policy.cohort if policy.cohort is not None else devices
    return max(1, math.ceil((policy.quorum or 1.0) * cohort - 1e-9)), cohort


@check("devices", "merge", "policy")
def krum_has_enough_updates(topology: Topology) -> Iterator[Problem]:
    merge = topology.merge
    if merge.kind != "krum":
        return
    byzantine, keep = merge.byzantine or 1, merge.keep or 1
    least, _ = updates_of_a_version(topology)
    if least < 2 * byzantine + 3:
        yield Problem(
            ("merge", "byzantine"),
            f"Krum survives f wrong updates of at least 2f + 3; a version may have {least}",
            f"at most {max(0, (least - 3) // 2)}, or a larger cohort or quorum",
            value=byzantine,
        )
    elif keep > least - byzantine:
        yield Problem(
            ("merge", "keep"),
            f"of {least} updates {byzantine} may be wrong",
            f"at most {least - byzantine}",
            value=keep,
        )


@check("devices", "merge", "model", "policy")
def gathered_updates_fit_memory(topology: Topology) -> Iterator[Problem]:
    """Robust rules hold a whole cohort; everything else a few copies of the model."""
    parameters = PARAMETERS.get(topology.model.source)
    if topology.merge.kind not in GATHERING or parameters is None:
        return
    _, most = updates_of_a_version(topology)
    size_bytes = most * parameters * 4
    if size_bytes > GATHERED_BYTES_MAX:
        yield Problem(
            ("merge", "kind"),
            f"{topology.merge.kind} holds all {most} updates at once, {size_bytes / 1e9:.1f} GB",
            f"at most {GATHERED_BYTES_MAX / 1e9:.1f} GB: a smaller cohort, or norm_bound",
        )
