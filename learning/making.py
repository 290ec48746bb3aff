"""From a plan's words to the training artifact and the parameters of version 0, checked against data and devices.

Operator's side. Whatever cannot work is refused here, before any device starts: an operator without a gradient, shapes
that do not fit, labels that the loss cannot use, a step that is larger than a device.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx

from learning.artifact import Flat, InputSpec, TrainingArtifact
from learning.autodiff import AutodiffError, build_training_graph, initial_parameters
from learning.autodiff.observe import data_input
from learning.datasets.base import Array, Dataset
from learning.heads import head_names
from learning.personal import KINDS
from learning.plugins import load_plugins
from learning.prepare import BASE_MB, Inspection, inspect, load_model, rehearse
from learning.travelling import take_local
from topology.plan import ModelPlan, Plan


class BindingError(ValueError):
    """Model, data and devices do not fit each other. The message says what would."""


def model_of(plan: Plan) -> onnx.ModelProto:
    """The inference model. Raises AutodiffError naming the file, PluginError."""
    load_plugins()
    return load_model(plan.graph.source or plan.model, plan.seed)


def make_artifact(
    plan: Plan, dataset: Dataset | None, model: onnx.ModelProto | None = None
) -> tuple[TrainingArtifact, Flat]:
    """Raises AutodiffError, BindingError. Without a data set samples are taken to be what the model's input says."""
    graph = plan.graph
    model = model if model is not None else model_of(plan)
    options = {"label_smoothing": graph.label_smoothing} if graph.label_smoothing else {}
    artifact = build_training_graph(
        model,
        loss=graph.loss,
        trainable=graph.trainable,
        batch_size=plan.training.batch_size,
        scaling=feed_of(graph, model, dataset),
        loss_options=options,
        dims=dims_of(graph, model, dataset),
        batch_norm="frozen" if graph.batch_norm == "frozen" else "train",
        dropout=graph.dropout,
        name=plan.model,
    )
    initial = initial_parameters(model, artifact)
    names = normalization(model) if graph.batch_norm == "local" else set()
    personal = plan.personalization
    if personal is not None and KINDS[personal.kind].heads:
        names |= head_names(model, artifact, personal.head)
    artifact = with_local(artifact, names, initial)
    if graph.batch_norm != "frozen" and not artifact.state:
        raise BindingError(
            f"model {plan.model}: batch_norm is {graph.batch_norm}, but there is no BatchNormalization in it: "
            "exporters fold it into convolutions; export in training mode, or remove the key"
        )
    if graph.dropout and not artifact.noise:
        raise BindingError(
            f"model {plan.model}: dropout is on, but there is no Dropout in it: exporters remove it; export in "
            "training mode, or remove the key"
        )
    rehearse(artifact)
    return artifact, initial


def normalization(model: onnx.ModelProto) -> set[str]:
    """Names of all parameters of BatchNormalization: scale, bias and both running statistics (FedBN, Li et al. 2021,
    arXiv:2102.07623, section 3: none of them is shared).
    """
    nodes = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    return {name for node in nodes for name in node.input[1:5]}


def with_local(artifact: TrainingArtifact, names: Collection[str], initial: Flat) -> TrainingArtifact:
    """The artifact with these parameters kept on the devices, where they begin as in `initial`, a whole vector."""
    specs = [
        msgspec.structs.replace(spec, local=True) if spec.name in names else spec
        for spec in artifact.parameters
    ]
    made = msgspec.structs.replace(artifact, parameters=tuple(specs))
    own = take_local(made, initial)
    return made if own is None else msgspec.structs.replace(made, local_values=own.astype("<f4").tobytes())


def feed_of(graph: ModelPlan, model: onnx.ModelProto, dataset: Dataset | None) -> InputSpec | None:
    """What devices feed: the data set's own type unless the topology says another. None: by the model alone."""
    integer = _integer_input(model)
    dtype = graph.input_dtype
    if dtype is None and dataset is not None:
        kind = dataset.train_x.dtype
        dtype = "uint8" if kind == np.uint8 else "int64" if integer else "float32"
    if dtype is None:
        return None
    default = 1 / 255 if dtype == "uint8" and not integer else 1.0
    scale = graph.input_scale if graph.input_scale is not None else default
    return InputSpec(dtype=dtype, scale=scale, offset=graph.input_offset)


def _integer_input(model: onnx.ModelProto) -> bool:
    element = data_input(model).type.tensor_type.elem_type
    return bool(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)).kind in "iu")


def dims_of(graph: ModelPlan, model: onnx.ModelProto, dataset: Dataset | None) -> dict[str, int]:
    """Dynamic dimensions: what the topology binds, and what the shape of a sample says by itself."""
    bound = dict(graph.dims)
    axes = list(data_input(model).type.tensor_type.shape.dim)[1:]
    if dataset is not None and len(axes) == dataset.train_x.ndim - 1:
        for axis, size in zip(axes, dataset.train_x.shape[1:], strict=True):
            if axis.dim_param and not axis.HasField("dim_value"):
                bound.setdefault(axis.dim_param, int(size))
    return bound


# --- data against the model ---------------------------------------------------------------------------------------


def bound(dataset: Dataset, artifact: TrainingArtifact) -> Dataset:
    """The data set as the artifact's step wants it. Raises BindingError."""
    train, test = f"{dataset.name} (train)", f"{dataset.name} (test)"
    return replace(
        dataset,
        train_x=_samples(train, dataset.train_x, artifact),
        train_y=_labels(train, dataset.train_y, artifact),
        test_x=_samples(test, dataset.test_x, artifact),
        test_y=_labels(test, dataset.test_y, artifact),
    )


def _samples(where: str, x: Array, artifact: TrainingArtifact) -> Array:
    spec = artifact.input
    if int(np.prod(x.shape[1:])) != int(np.prod(spec.shape)):
        raise BindingError(
            f"{where}: samples of shape {list(x.shape[1:])} do not fit the input {list(spec.shape)} of model "
            f"{artifact.model}: choose another model or data set, or bind the model's dims"
        )
    if spec.dtype == "float32":
        return x.astype(np.float32)
    if x.dtype.kind not in "iu":
        raise BindingError(f"{where}: model {artifact.model} is fed {spec.dtype}, the samples are {x.dtype}")
    info = np.iinfo(spec.dtype)
    if x.size and (x.min() < info.min or x.max() > info.max):
        raise BindingError(f"{where}: values from {x.min()} to {x.max()} do not fit {spec.dtype}")
    if artifact.loss == "next_token" and x.size and x.max() >= artifact.output_shape[-1]:
        raise BindingError(
            f"{where}: token {x.max()}, the model {artifact.model} knows {artifact.output_shape[-1]}"
        )
    return x.astype(spec.dtype)


def _labels(where: str, y: Array, artifact: TrainingArtifact) -> Array:
    spec, want = artifact.labels, int(np.prod(artifact.labels.shape, dtype=np.int64))
    have = int(np.prod(y.shape[1:], dtype=np.int64))
    if spec.dtype == "float32":
        # Classes for a loss of numbers: one target per class.
        if y.ndim == 1 and y.dtype.kind in "ui" and want > 1 and (not y.size or y.max() < want):
            return np.eye(want, dtype=np.float32)[y].reshape(len(y), *spec.shape)
        if have != want:
            raise BindingError(
                f"{where}: {have} numbers per label, loss {artifact.loss} compares {want}: its output is "
                f"{list(artifact.output_shape)}"
            )
        return y.astype(np.float32).reshape(len(y), *spec.shape)
    if y.dtype.kind not in "ui":
        raise BindingError(
            f"{where}: labels are {y.dtype}, loss {artifact.loss} wants classes: use mean_squared_error"
        )
    if have != want:
        raise BindingError(f"{where}: {have} labels per sample, loss {artifact.loss} wants {want}")
    classes = artifact.output_shape[-1]
    if y.size and (y.min() < 0 or y.max() >= classes):
        raise BindingError(
            f"{where}: labels from {y.min()} to {y.max()}, the model {artifact.model} has {classes} outputs"
        )
    return y.astype(np.int64).reshape(len(y), *spec.shape)


# --- devices against the model ------------------------------------------------------------------------------------


def look(plan: Plan, model: onnx.ModelProto, dataset: Dataset | None) -> Inspection:
    return inspect(model, plan.training.batch_size, dims_of(plan.graph, model, dataset))


def step_mb(plan: Plan, artifact: TrainingArtifact, activation_bytes: int) -> float:
    """Estimated peak of an agent that trains this: onnxruntime, the version received, parameters, gradients, optimizer
    state, SCAFFOLD's correction, a personal model, activations forward and back, frozen layers.
    """
    prox_or_exact = 0.5 if plan.compression.downlink.quantize == "fp16" else 1.0
    personal = plan.personalization is not None and plan.personalization.kind == "ditto"
    beside = plan.training.optimizer.vectors + plan.merge.paired + personal
    vectors = (2 + prox_or_exact + beside) * 4 * artifact.size
    frozen = 2 * len(artifact.training)
    return BASE_MB + (vectors + 2 * activation_bytes + frozen) / 1e6


def require_fit(plan: Plan, artifact: TrainingArtifact, activation_bytes: int) -> None:
    """Refuse a step that does not fit the smallest device. Raises BindingError."""
    need = step_mb(plan, artifact, activation_bytes)
    groups = {device.group: device for device in plan.devices if device.memory_bytes < need * 1e6}
    if groups:
        listed = ", ".join(f"{name} has {d.memory_bytes / 1e6:.0f} MB" for name, d in groups.items())
        raise BindingError(
            f"model {plan.model}: training it in batches of {plan.training.batch_size} takes about {need:.0f} MB; "
            f"{listed}: a smaller batch, frozen layers (trainable), no optimizer state, or more memory"
        )


def require_batches(plan: Plan, shares: dict[str, int]) -> None:
    """With `last_batch: drop` every device needs a whole batch. Raises BindingError."""
    batch = plan.training.batch_size
    if plan.training.last_batch != "drop":
        return
    small = [f"{name} has {count}" for name, count in shares.items() if count < batch]
    if small:
        raise BindingError(
            f"last_batch: drop leaves out every sample of devices with fewer than {batch}: "
            f"{', '.join(small[:5])}: a smaller batch_size, or fill"
        )


def source_files(plan: Plan) -> list[Path]:
    """Files the artifact and the shards are made from; what changes in them makes both anew."""
    model, data = Path(plan.graph.source), Path(plan.data.dataset)
    found = [model] if plan.graph.source and model.is_file() else []
    if data.is_file():
        found.append(data)
    elif data.is_dir():
        found += sorted(path for path in data.iterdir() if path.is_file())
    return found


__all__ = ["AutodiffError", "BindingError", "bound", "look", "make_artifact", "model_of", "require_fit"]
