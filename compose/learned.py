"""Data and graph of a plan, checked against each other and against the devices before anything is started."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from edge_agent.limits import Limits
from learning import allotment
from learning.artifact import Flat, TrainingArtifact
from learning.datasets import DATASETS, DatasetError
from learning.datasets.base import Dataset
from learning.making import BindingError, bound, look, make_artifact, model_of, require_batches, require_fit
from topology.plan import Plan


class Learned:
    """Made at most once, and only when something of it is wanted. Raises what `edgerig.cli` turns into exit code 2."""

    def __init__(self, plan: Plan, data_dir: Path | None) -> None:
        self._plan, self._data_dir = plan, data_dir

    @cached_property
    def _made(self) -> tuple[Dataset, TrainingArtifact, Flat]:
        plan = self._plan
        dataset, model = allotment.load_dataset(plan.data, self._data_dir), model_of(plan)
        artifact, initial = make_artifact(plan, dataset, model)
        require_fit(plan, artifact, look(plan, model, dataset).activation_bytes)
        _require_device(artifact)
        return bound(dataset, artifact), artifact, initial

    @property
    def dataset(self) -> Dataset:
        return self._made[0]

    @property
    def artifact(self) -> TrainingArtifact:
        return self._made[1]

    @property
    def initial(self) -> Flat:
        return self._made[2]


def _require_device(artifact: TrainingArtifact) -> None:
    """What every agent refuses anyway, said before one is started."""
    limits, size = Limits(), len(artifact.to_bytes())
    if artifact.size > limits.parameters_max:
        raise BindingError(
            f"model {artifact.model}: {artifact.size} trained parameters, an agent takes {limits.parameters_max}: "
            "name fewer in `trainable`"
        )
    if size > limits.graph_bytes_max:
        raise BindingError(
            f"model {artifact.model}: its graph has {size} bytes, an agent takes {limits.graph_bytes_max}: frozen "
            "layers travel inside it; train more of them, or use a smaller model"
        )


def preflight(plan: Plan, data_dir: Path | None) -> list[str]:
    """Everything that `edgerig run` would refuse of model and data. Raises as `Learned`; returns what could not be
    checked here: data that are not on this machine.
    """
    learned = Learned(plan, data_dir)
    try:
        table = allotment.divide(plan, learned.dataset).table
    except DatasetError as error:
        if plan.data.dataset in DATASETS and data_dir is None:
            model = model_of(plan)
            make_artifact(plan, None, model)
            return [f"the data were not checked, and a run here will be refused: {error}"]
        raise
    require_batches(plan, {share.device: share.samples for share in table.shares})
    return list(table.notes)
