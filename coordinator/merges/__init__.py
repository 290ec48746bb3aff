"""Merges, by the `kind` of the topology's `merge` section. `docs/creating-merges.md` says how to add one."""

from __future__ import annotations

from coordinator.merges.base import (
    EMPTY,
    FEDAVG,
    Fold,
    Item,
    Mean,
    Merge,
    MergeSpec,
    State,
    Step,
    pack_state,
    state_sha256,
    unpack_state,
)
from coordinator.merges.clipped import DpFedAvg, NormBound
from coordinator.merges.fedavg import FedAvg
from coordinator.merges.fednova import FedNova
from coordinator.merges.robust import Krum, Median, TrimmedMean
from coordinator.merges.scaffold import Scaffold
from coordinator.merges.server_optimizers import FedAdam, FedAvgM, FedYogi
from topology.plan.merge import PAIRED
from wire.plugins import load_into

MERGES: dict[str, Merge] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fednova": FedNova,
    "scaffold": Scaffold,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "norm_bound": NormBound,
    "dp_fedavg": DpFedAvg,
}

__all__ = [
    "EMPTY",
    "FEDAVG",
    "MERGES",
    "PAIRED",
    "Fold",
    "Item",
    "Mean",
    "Merge",
    "MergeSpec",
    "State",
    "Step",
    "begin",
    "pack_state",
    "state_sha256",
    "unpack_state",
]


def begin(n: int, spec: MergeSpec) -> Fold:
    """Installed plug-ins (group `edgerig.merges`) included. Raises ValueError for a kind that nobody registered."""
    if spec.rule.kind not in MERGES:
        load_into(MERGES, "edgerig.merges")
    merge = MERGES.get(spec.rule.kind)
    if merge is None:
        raise ValueError(
            f"merge kind {spec.rule.kind!r} is not known here; known: {', '.join(sorted(MERGES))}"
        )
    return merge(n, spec)
