"""docs/models.md, generated from the tables in the code: python -m learning.autodiff.table >
docs/models.md
"""

from __future__ import annotations

import inspect

import learning.autodiff.rules  # noqa: F401 - fills the table
from learning.autodiff.losses import LOSSES
from learning.autodiff.registry import NO_GRADIENT, RULES
from learning.autodiff.rewrite import EXPANSIONS
from learning.models import MODELS, build_model

INTRODUCTION = """\
<!-- generated: python -m learning.autodiff.table > docs/models.md -->
# Models

Any inference model in ONNX whose operators are in the table below trains on plain onnxruntime: the operator's
side derives a graph of ordinary ONNX nodes that computes loss and gradients, devices run it. Opset 13 and
newer.

    edgerig model inspect MODEL.onnx          # what is trained and why, FLOPs, memory
    edgerig model prepare MODEL.onnx          # write the training artifact
    edgerig model check MODEL.onnx            # compare gradients with PyTorch, where it is installed
    edgerig model export MODEL.onnx --artifact A --parameters P.npy

## Bringing a model from PyTorch

- Export with a dynamic batch axis; the loss takes the model's first output.
- Exporters fold BatchNorm into the convolution before it and remove Dropout. Kept in the file, BatchNorm
  is frozen to its statistics (scale and shift are trained), or trained with `--batch-norm train`: then the
  running statistics are state, averaged by samples. ONNX's momentum is 1 − PyTorch's, and ONNX's running
  variance is biased.
- A weight is a float initializer of rank ≥ 1 in a slot where layers keep weights. Constants, masks and shapes
  are not trained. `--trainable 'fc*,head.*'` chooses among weights by name; frozen ones travel inside the
  artifact.
- The exporter over torch.export stores equal tensors once: two LayerNorms still at their initial ones come
  out tied. Export trained weights, or perturb fresh ones.
- Not covered: control flow, three spatial axes, recurrent layers with `sequence_lens`, peepholes or clipping.
"""


def document() -> str:
    parts = [INTRODUCTION, "## Reference models\n", "| name | parameters | what |", "|---|---|---|"]
    for name in sorted(MODELS):
        model = build_model(name)
        count = sum(
            _size(t) for t in model.graph.initializer if t.data_type == 1 and t.dims and "mask" not in t.name
        )
        about = (inspect.getdoc(MODELS[name]) or "").split("\n\n")[0].replace("\n", " ")
        parts.append(f"| `{name}` | {count:,} | {about} |")
    parts += ["\n## Losses\n", "| name | what it takes |", "|---|---|"]
    parts += [f"| `{loss.name}` | {loss.about} |" for _, loss in sorted(LOSSES.items())]
    parts += ["\n## Operators with a gradient\n", "| operator | family | covered |", "|---|---|---|"]
    parts += [f"| {e.op_type} | {e.family} | {e.notes or 'all forms'} |" for _, e in sorted(RULES.items())]
    parts += [f"| {op} | recurrent | unrolled at a fixed length |" for op in sorted(EXPANSIONS)]
    parts += [
        "\n## Operators without one\n",
        "They pass no gradient, as in any framework: " + _listed() + ".\n",
    ]
    return "\n".join(parts)


def _listed() -> str:
    return ", ".join(sorted(NO_GRADIENT))


def _size(tensor: object) -> int:
    size = 1
    for dim in tensor.dims:  # type: ignore[attr-defined]
        size *= dim
    return size


if __name__ == "__main__":
    print(document(), end="")
