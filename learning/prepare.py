"""What `edgerig model` does: prepare, inspect, check and export models. Operator's side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from learning.artifact import Flat, TrainingArtifact, unflatten
from learning.autodiff import AutodiffError, initial_parameters
from learning.autodiff.observe import observe
from learning.autodiff.parameters import Verdict, judge
from learning.autodiff.training_graph import modern
from learning.models import MODELS, build_model
from learning.session import INPUT_TYPES, StepSession

MODEL_BYTES_MAX = 512 << 20  # a model file beyond this trains on no device this is for
OPTIMIZER_VECTORS = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}  # state beside parameters and gradients
BASE_MB = 76.0  # an agent with onnxruntime and a session, before any parameter (python -m benchmarks.memory)


def load_model(source: str | Path, seed: int = 0) -> onnx.ModelProto:
    """A reference model by name, or an ONNX file. Raises AutodiffError naming the file and what is wrong
    with it.
    """
    if str(source) in MODELS:
        return build_model(str(source), seed)
    path = Path(source)
    if not path.is_file():
        names = ", ".join(sorted(MODELS))
        raise AutodiffError(f"{path} is no file and no reference model: give an .onnx file or one of {names}")
    if path.stat().st_size > MODEL_BYTES_MAX:
        raise AutodiffError(f"{path} has {path.stat().st_size} bytes: at most {MODEL_BYTES_MAX} are read")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise AutodiffError(f"{path} is no valid ONNX model ({error}): truncated? Export it again") from error
    try:
        _require_external(model, path)
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except AutodiffError:
        raise
    except Exception as error:
        raise AutodiffError(
            f"{path} is no valid ONNX model ({error}): incomplete? Export it again"
        ) from error
    return model


def _require_external(model: onnx.ModelProto, path: Path) -> None:
    """Parameters may lie in files beside the model: refuse too many bytes before any is read."""
    claimed = 0
    for tensor in model.graph.initializer:
        info = {entry.key: entry.value for entry in tensor.external_data}
        if info:
            beside = path.parent / info.get("location", "")
            claimed += int(info["length"]) if "length" in info else beside.stat().st_size
    if claimed > MODEL_BYTES_MAX:
        raise AutodiffError(f"{path} has {claimed} bytes beside it: at most {MODEL_BYTES_MAX} are read")


@dataclass
class Inspection:
    """What `edgerig model inspect` prints. FLOPs count a multiply-add as two, forward pass, one sample."""

    name: str
    opset: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    verdicts: list[Verdict]
    sizes: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    flops: int
    activation_bytes: int
    unsupported: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        return sum(self.sizes[v.name] for v in self.verdicts if v.kind is not None)

    def step_mb(self, optimizer: str = "momentum") -> float:
        """Estimated peak of an agent training this: parameters, gradients, optimizer state, received version,
        activations.
        """
        vectors = (2.5 + OPTIMIZER_VECTORS[optimizer]) * 4 * self.parameters
        return BASE_MB + (vectors + 2 * self.activation_bytes) / 1e6


def inspect(model: onnx.ModelProto, batch_size: int, dims: Mapping[str, int] | None = None) -> Inspection:
    """Everything that can be said of a model before training it."""
    from learning.autodiff.registry import NO_GRADIENT, RULES
    from learning.autodiff.rewrite import EXPANSIONS

    model = modern(model)
    observed = observe(model, batch_size, dims)
    known = NO_GRADIENT | set(RULES) | set(EXPANSIONS)
    nodes = [n for n in observed.model.graph.node if not all(o in observed.constants for o in n.output if o)]
    made = {o for n in nodes for o in n.output if o}
    bytes_ = sum(math.prod(observed.shapes[o]) * observed.dtypes[o].itemsize for o in made)
    return Inspection(
        name=model.graph.name,
        opset=observed.opset,
        input_shape=observed.shapes[observed.input.name],
        output_shape=observed.shapes[observed.output],
        verdicts=judge(observed),
        sizes={name: array.size for name, array in observed.weights.items()},
        shapes={name: array.shape for name, array in observed.weights.items()},
        flops=sum(_flops(n, observed.shapes) for n in nodes) // batch_size,
        activation_bytes=bytes_,
        unsupported=[
            f"{n.op_type} (node {n.name or n.output[0]!r})" for n in nodes if n.op_type not in known
        ],
        notes=_notes(model),
    )


def _flops(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-adds × 2 of products and convolutions; anything else is one per output element."""
    out = math.prod(shapes[node.output[0]]) if node.output[0] in shapes else 0
    if node.op_type in ("Conv", "ConvTranspose"):
        weight, x = shapes[node.input[1]], shapes[node.input[0]]
        cells = out if node.op_type == "Conv" else math.prod(x)
        return 2 * cells * math.prod(weight[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return 2 * out * shapes[node.input[0]][0 if transposed else 1]
    if node.op_type == "MatMul":
        return 2 * out * shapes[node.input[0]][-1]
    if node.op_type in ("GRU", "LSTM"):
        steps, batch, _ = shapes[node.input[0]]
        return 2 * steps * batch * (math.prod(shapes[node.input[1]]) + math.prod(shapes[node.input[2]]))
    return out


def _notes(model: onnx.ModelProto) -> list[str]:
    operators = {node.op_type for node in model.graph.node}
    notes = []
    if "BatchNormalization" in operators:
        notes.append("BatchNormalization is frozen to its statistics; batch_norm='train' makes them state")
    elif {"Conv", "Gemm"} & operators:
        notes.append(
            "no BatchNormalization: exporters fold it into the convolution before it; "
            "export in training mode to keep it"
        )
    if "Dropout" not in operators:
        notes.append(
            "no Dropout: exporters remove it from inference models; export in training mode to keep it"
        )
    return notes


@dataclass
class Check:
    """Gradient errors against PyTorch, max|a−b| / max|b| per parameter, and both losses."""

    loss: float
    torch_loss: float
    errors: dict[str, float]

    @property
    def worst(self) -> float:
        return float(np.max(list(self.errors.values())))  # unlike max(), it says so if one is not a number


def random_batch(artifact: TrainingArtifact, seed: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """A batch of plausible samples and labels."""
    rng = np.random.default_rng(seed)
    shape, kind = (artifact.batch_size, *artifact.input.shape), INPUT_TYPES[artifact.input.dtype]
    x = (
        rng.standard_normal(shape).astype(kind)
        if kind is np.float32
        else rng.integers(0, 255, shape).astype(kind)
    )
    if kind in (np.int64, np.int32):
        x %= 8  # tokens: the smallest vocabulary anybody embeds
    shape = (artifact.batch_size, *artifact.labels.shape)
    if artifact.labels.dtype == "float32":
        return x, rng.random(shape).astype(np.float32)
    return x, rng.integers(0, artifact.output_shape[-1], shape)


def check(model: onnx.ModelProto, artifact: TrainingArtifact, seed: int = 0) -> Check:
    """Compare one step's gradients with PyTorch's. Raises AutodiffError if PyTorch is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise AutodiffError("the check needs PyTorch: pip install 'edgerig[torch]'") from error
    from learning.autodiff.oracle import torch_loss, torch_output

    model = modern(model)
    flat = initial_parameters(model, artifact)
    grad = np.empty_like(flat)
    step = StepSession(artifact, flat, grad)
    step.x[...], step.labels[...] = random_batch(artifact, seed)
    mine = step.run() / artifact.batch_size
    scaled = step.x if step.x.dtype.kind == "i" else step.x * np.float32(artifact.input.scale)
    if step.x.dtype.kind != "i":
        scaled = (scaled + np.float32(artifact.input.offset)).astype(np.float32)
    output, leaves = torch_output(model, scaled, unflatten(artifact, flat))
    theirs = torch_loss(artifact.loss, output, step.labels)
    theirs.backward()
    errors = {}
    for name, value in unflatten(artifact, grad).items():
        want = leaves[name].grad.numpy()
        errors[name] = float(np.abs(value - want).max() / max(float(np.abs(want).max()), 1e-12))
    return Check(mine, float(theirs.detach()), errors)


def rehearse(artifact: TrainingArtifact) -> None:
    """One step on zeros: whatever a device would stumble over is found here. Raises AutodiffError."""
    flat = np.zeros(artifact.size, np.float32)
    try:
        StepSession(artifact, flat, np.empty_like(flat)).run()
    except Exception as error:
        raise AutodiffError(
            f"model {artifact.model}: onnxruntime does not run the training graph made from it ({error}): please "
            "report it with the model"
        ) from error


def export(model: onnx.ModelProto, artifact: TrainingArtifact, flat: Flat) -> onnx.ModelProto:
    """The inference model with trained parameters in place of its own."""
    trained = unflatten(artifact, np.ascontiguousarray(flat, np.float32))
    if not np.isfinite(flat).all():
        raise AutodiffError("the trained parameters are not finite")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    found = 0
    for tensor in result.graph.initializer:
        if tensor.name in trained:
            tensor.CopyFrom(numpy_helper.from_array(trained[tensor.name], tensor.name))
            found += 1
    if found != len(trained):
        raise AutodiffError(
            "the model is not the one this artifact was prepared from: parameters are missing"
        )
    return result


def require_fit(found: Inspection, memory_bytes: int, what: str, optimizer: str = "momentum") -> None:
    """Raises AutodiffError if a step does not fit into that memory."""
    need = found.step_mb(optimizer)
    if need * 1e6 > memory_bytes:
        raise AutodiffError(
            f"{found.name}: a step in batches of {found.input_shape[0]} with {optimizer} takes about {need:.0f} MB, "
            f"{what} has {memory_bytes / 1e6:.0f} MB: a smaller batch, frozen layers (trainable), or sgd without "
            "momentum"
        )


def bindings(pairs: Sequence[str]) -> dict[str, int]:
    """["length=32"] → {"length": 32}. Raises AutodiffError."""
    bound = {}
    for pair in pairs:
        name, equals, size = pair.partition("=")
        if not (name and equals and size.isdigit() and int(size) > 0):
            raise AutodiffError(
                f"--dim {pair!r}: a dimension's name and a size above 0, as in --dim length=32"
            )
        bound[name] = int(size)
    return bound


def patterns(text: str | None) -> Sequence[str] | None:
    """`fc*,head.*` → ["fc*", "head.*"]"""
    return [p.strip() for p in text.split(",") if p.strip()] if text else None
