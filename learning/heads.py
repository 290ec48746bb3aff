"""Which parameters are a model's head: by name, or its last layer. Operator's side."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx

from learning.artifact import TrainingArtifact
from learning.autodiff import AutodiffError


def head_names(
    model: onnx.ModelProto, artifact: TrainingArtifact, patterns: Sequence[str] | None
) -> set[str]:
    """Names of trained parameters, by patterns such as `fc3*`, else of the last layer. Raises AutodiffError."""
    names = [spec.name for spec in artifact.parameters if spec.trainable]
    if patterns is None:
        found = last_layer(model, {spec.name: len(spec.shape) for spec in artifact.parameters})
    else:
        found = {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    if not found or len(found) == len(names):
        what = f"head {', '.join(patterns)}" if patterns else "the last layer"
        takes = "takes every parameter" if found else "takes no parameter that is trained"
        raise AutodiffError(
            f"model {artifact.model}: {what} {takes}, and a head is a part of the model: name it in "
            f"`personalization: {{head: [...]}}`; there are {', '.join(names)[:400]}"
        )
    return found


def last_layer(model: onnx.ModelProto, ranks: dict[str, int]) -> set[str]:
    """Parameters (name: number of axes) nearest to the output: back along every path until the first with two axes.

    So a bias that is added after a product belongs to the product's layer.
    """
    made = {output: node for node in model.graph.node for output in node.output}
    behind = _sources(model, ranks)
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [model.graph.output[0].name]
    while waiting:
        name = waiting.pop()
        if name not in made or name in seen:
            continue
        seen.add(name)
        mine = {source: behind.get(source, frozenset()) for source in made[name].input}
        taken = frozenset[str]().union(*mine.values())
        found |= taken
        if not any(ranks[parameter] > 1 for parameter in taken):
            waiting += [source for source, parameters in mine.items() if not parameters]
    return found


def _sources(model: onnx.ModelProto, ranks: dict[str, int]) -> dict[str, frozenset[str]]:
    """Values that are made of parameters and constants alone (a weight, or one behind a Transpose) → which."""
    constant = {tensor.name for tensor in model.graph.initializer}
    known = {name: frozenset({name}) for name in ranks}
    for node in model.graph.node:  # in topological order, says ONNX
        mine = [
            known.get(source) for source in node.input if source and source not in constant - ranks.keys()
        ]
        if node.input and mine and all(parameters for parameters in mine):
            made = frozenset[str]().union(*(parameters for parameters in mine if parameters))
            known |= dict.fromkeys(node.output, made)
    return known
