"""From an inference model to a training artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, version_converter

from learning.artifact import Flat, InputSpec, LabelSpec, NoiseSpec, ParameterSpec, TrainingArtifact, flatten
from learning.autodiff import losses
from learning.autodiff.backward import Backward
from learning.autodiff.errors import AutodiffError
from learning.autodiff.gelu import merge_gelu
from learning.autodiff.graph import Graph, Tensor, prune
from learning.autodiff.layout import batch_last
from learning.autodiff.observe import Observed, check_model, default_opset, observe, to_array
from learning.autodiff.packaging import ELEMENT, finish, inference_graph, inner, rename, scaling_nodes
from learning.autodiff.parameters import Verdict, judge, select
from learning.autodiff.rewrite import Rewritten, inference_mode, rewrite

LABELS, WEIGHTS = "edgerig:labels", "edgerig:weights"  # until they get their final names
OUTPUT = "edgerig:output:"  # before an output's final name: a model may have a value of that name
OPSET_LEAST = 17  # ScatterND and ScatterElements add from 16 on, LayerNormalization comes with 17


def modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in opset 17 at least, so that every rule finds the operators it uses, and as it is evaluated."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    check_model(model)
    model = inference_mode(model)
    if default_opset(model) >= OPSET_LEAST:
        return model
    try:
        return version_converter.convert_version(model, OPSET_LEAST)
    except Exception as error:
        raise AutodiffError(
            f"opset {default_opset(model)} cannot be lifted to {OPSET_LEAST} ({error}): export the model anew"
        ) from error


def build_training_graph(
    model: onnx.ModelProto,
    *,
    loss: str = "softmax_cross_entropy",
    trainable: Sequence[str] | None = None,
    batch_size: int,
    scaling: InputSpec | None = None,
    loss_options: Mapping[str, float] | None = None,
    dims: Mapping[str, int] | None = None,
    batch_norm: Literal["frozen", "train"] = "frozen",
    dropout: bool = False,
    name: str | None = None,
) -> TrainingArtifact:
    """Derive the gradients-only training graph of an inference model.

    `trainable`: name patterns (`fc*.weight`), None for every weight. `scaling`: what devices feed; by default
    uint8 in [0, 255] scaled to [0, 1] for a float input, raw values for an integer one. `dims` binds dynamic
    dimensions other than the batch. The loss takes the model's first output. Raises AutodiffError. Same
    input, same bytes.
    """
    head = losses.find(loss)
    model = modern(model)
    observed = observe(model, batch_size, dims)
    chosen = _chosen(observed, trainable)
    feed = _feed(observed, scaling)
    rewritten = rewrite(observed, batch_norm, dropout)
    observed = _optimized(observed, rewritten, batch_size)
    chosen += [Verdict(name, "state", "running statistic") for name in rewritten.state]
    graph = forward_graph(observed, {v.name for v in chosen})
    builder = _Builder(graph, observed, chosen, feed, rewritten)
    training = builder.training(head, dict(loss_options or {}))
    return TrainingArtifact(
        model=name or model.graph.name or "model",
        loss=loss,
        batch_size=batch_size,
        input=feed,
        labels=LabelSpec(
            dtype=head.label_dtype,  # type: ignore[arg-type]
            shape=head.label_shape(observed.shapes[observed.output])[1:],
        ),
        parameters=_parameters(observed, builder.chosen, rewritten),
        output_shape=observed.shapes[observed.output][1:],
        training=training,
        inference=inference_graph(model, {v.name for v in builder.chosen}, feed, dims),
        counts_correct=builder.counts_correct,
        written_order=not _convolves(observed.model),
        noise=tuple(NoiseSpec(name=n, shape=shape) for n, shape in rewritten.noise.items()),
    )


def _chosen(observed: Observed, trainable: Sequence[str] | None) -> list[Verdict]:
    """The parameters to train. Raises AutodiffError for one that is not float32."""
    chosen = select(judge(observed), trainable)
    for verdict in chosen:
        if observed.dtypes[verdict.name] != np.float32:
            raise AutodiffError(
                f"parameter {verdict.name!r} is {observed.dtypes[verdict.name]}: convert it to float32"
            )
        if not np.isfinite(observed.weights[verdict.name]).all():
            raise AutodiffError(
                f"parameter {verdict.name!r} holds an infinity: train from a sound checkpoint"
            )
    return chosen


def _feed(observed: Observed, scaling: InputSpec | None) -> InputSpec:
    """What devices feed, in the shape of the model's own input without the batch."""
    feed = scaling or default_input(observed)
    return InputSpec(
        dtype=feed.dtype,
        shape=observed.shapes[observed.input.name][1:],
        scale=feed.scale,
        offset=feed.offset,
    )


def _optimized(observed: Observed, rewritten: Rewritten, batch_size: int) -> Observed:
    """The rewritten model, in its faster forms where it has any."""
    if rewritten.changed:
        observed = observe(rewritten.model, batch_size)
    for faster in (merge_gelu, batch_last):
        if (better := faster(observed)) is not None:
            observed = observe(better, batch_size)
    return observed


def _convolves(model: onnx.ModelProto) -> bool:
    return any(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)


def _parameters(
    observed: Observed, chosen: Sequence[Verdict], rewritten: Rewritten
) -> tuple[ParameterSpec, ...]:
    return tuple(
        ParameterSpec(
            name=v.name,
            shape=observed.shapes[v.name],
            kind=v.kind or "weight",
            nonnegative=v.name in rewritten.variances,
        )
        for v in chosen
    )


def default_input(observed: Observed) -> InputSpec:
    dtype = observed.dtypes[observed.input.name]
    if dtype.kind == "f":
        return InputSpec()
    if dtype in (np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.uint8)):
        return InputSpec(dtype=str(dtype), scale=1.0)  # type: ignore[arg-type]
    raise AutodiffError(f"input {observed.input.name!r} is {dtype}: float, int64, int32 and uint8 can be fed")


def forward_graph(observed: Observed, trained: set[str]) -> Graph:
    """The forward pass as a graph under construction: folded constants in, folded nodes out."""
    graph = Graph(observed.opset, observed.dtypes[observed.output], taken=observed.shapes.keys())
    graph.nodes = [
        node
        for node in observed.model.graph.node
        if not all(o in observed.constants for o in node.output if o)
    ]
    for name, array in {**observed.weights, **observed.constants}.items():
        if name not in trained:
            graph.constants[name] = array
    return graph


class _Builder:
    """Assembles input scaling, forward pass, loss head and gradients into one graph."""

    def __init__(
        self, graph: Graph, observed: Observed, chosen: list[Verdict], feed: InputSpec, rewritten: Rewritten
    ) -> None:
        self.graph, self.observed, self.chosen, self.feed = graph, observed, chosen, feed
        self.rewritten = rewritten
        self.counts_correct = False
        self.tensors = {
            name: Tensor(name, graph, shape, observed.dtypes[name]) for name, shape in observed.shapes.items()
        }

    def training(self, head: losses.Loss, options: dict[str, Any]) -> bytes:
        g, output = self.graph, self.tensors[self.observed.output]
        batch = self.observed.shapes[self.observed.input.name][0]
        if output.dims[:1] != (batch,) or 0 in output.dims:
            raise AutodiffError(
                f"the model's first output has shape {list(output.dims)} for a batch of {batch}: a loss needs one row "
                "per sample, first axis first"
            )
        forward = list(g.nodes)
        g.nodes = []
        labels = Tensor(LABELS, g, head.label_shape(output.dims), np.dtype(head.label_dtype))
        weights = Tensor(WEIGHTS, g, (batch,), np.dtype(np.float32))
        share = weights / g.sum(weights, [0], keep=True)
        try:
            built = head.build(g, output, labels, share, **options)
        except TypeError as error:
            raise AutodiffError(f"loss {head.name}: {error}") from error
        results = {"loss_sum": g.sum(built.per_sample * weights, [0])}
        if built.correct is not None:
            results["correct"] = g.sum(built.correct * weights, [0])
            self.counts_correct = True
        trained = [v.name for v in self.chosen if v.kind != "state"]
        grads = Backward(g, forward, self.tensors).run({output.name: built.gradient}, trained)
        grads.update({name: self.tensors[new] for name, new in self.rewritten.state.items()})
        self._require_gradients(grads)
        for verdict in self.chosen:
            results[f"g:{verdict.name}"] = grads[verdict.name]
        for target, tensor in results.items():
            g.nodes.append(
                helper.make_node("Identity", [tensor.name], [OUTPUT + target], name=f"out:{target}")
            )
        g.nodes = [*forward, *g.nodes]
        return self._serialize(list(results), batch, labels)

    def _require_gradients(self, grads: dict[str, Tensor]) -> None:
        """A weight the loss does not depend on is no parameter; if none is left, nothing can be learned."""
        self.chosen = [v for v in self.chosen if v.name in grads]
        if all(v.kind == "state" for v in self.chosen):
            raise AutodiffError("no chosen parameter has any influence on the model's first output")

    def _serialize(self, outputs: list[str], batch: int, labels: Tensor) -> bytes:
        nodes, used = prune(self.graph.nodes, [OUTPUT + name for name in outputs])
        source = self.observed.input
        prefix = scaling_nodes(self.feed, source.name, source.type.tensor_type.elem_type)
        inputs = [
            helper.make_tensor_value_info("x", ELEMENT[self.feed.dtype], [batch, *self.feed.shape]),
            helper.make_tensor_value_info(
                "labels",
                helper.np_dtype_to_tensor_dtype(np.dtype(labels.dtype or np.int64)),
                list(labels.dims),
            ),
            helper.make_tensor_value_info("weights", TensorProto.FLOAT, [batch]),
        ]
        inputs += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
            for name, shape in self.rewritten.noise.items()
        ]
        names = {v.name: f"p:{v.name}" for v in self.chosen}
        names |= {LABELS: "labels", WEIGHTS: "weights", **{n: n for n in self.rewritten.noise}}
        names |= {OUTPUT + name: name for name in outputs}
        shapes = self.observed.shapes
        inputs += [
            helper.make_tensor_value_info(f"p:{v.name}", TensorProto.FLOAT, list(shapes[v.name]))
            for v in self.chosen
        ]
        results = [
            helper.make_tensor_value_info(
                o, TensorProto.FLOAT, list(shapes[o[2:]]) if o.startswith("g:") else []
            )
            for o in outputs
        ]
        renamed = [rename(node, names) for node in nodes]
        constants = [inner(tensor) for tensor in self.graph.initializers(used)]
        graph = helper.make_graph([*prefix, *renamed], "training", inputs, results, initializer=constants)
        return finish(graph, self.observed.model)


def initial_parameters(model: onnx.ModelProto, artifact: TrainingArtifact) -> Flat:
    """The model's own parameters as the flat vector of version 0."""
    wanted = {spec.name for spec in artifact.parameters}
    return flatten(artifact, {t.name: to_array(t) for t in model.graph.initializer if t.name in wanted})
