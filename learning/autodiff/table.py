"""docs/models.md, generated from the tables in the code: python -m learning.autodiff.table >
docs/models.md
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import learning.autodiff.rules  # noqa: F401 - fills the table
from learning.autodiff.losses import LOSSES
from learning.autodiff.registry import NO_GRADIENT, RULES
from learning.autodiff.rewrite import EXPANSIONS
from learning.models import MODELS, build_model

FIGURES = Path(__file__).parents[2] / "benchmarks" / "data"

INTRODUCTION = """\
<!-- generated: python -m learning.autodiff.table > docs/models.md -->
# Models

Any inference model in ONNX whose operators are in the table below trains on plain onnxruntime: the operator's
side derives a graph of ordinary ONNX nodes that computes loss and gradients, devices run it. Opset 13 and
newer.

    edgerig model inspect MODEL.onnx --profile raspberry-pi-3b     # what is trained and why, FLOPs, does it fit
    edgerig model prepare MODEL.onnx --loss LOSS --optimizer adam  # write the training artifact
    edgerig model check MODEL.onnx                                 # compare gradients with PyTorch, if installed
    edgerig model export RUN -o trained.onnx                       # the trained inference model of a run
    edgerig model export MODEL.onnx --artifact A --parameters P.npy

All but `export` take `--dim length=64` for dynamic dimensions other than the batch; all speak `--format json`.

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
- Not covered: control flow, quantized models, three spatial axes, recurrent layers with `sequence_lens`, peepholes
  or clipping.
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
    parts += figures(FIGURES)
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


def figures(folder: Path) -> list[str]:
    """What was measured, from the recorded results of the benchmarks."""
    training, central, fedavg = (
        _recorded(folder / f"{name}.json") for name in ("training", "central_mnist", "fedavg_paper")
    )
    lines = []
    if training:
        lines += [
            "\n## A training step against PyTorch\n",
            "`python -m benchmarks.training --json`: one thread, batch 32, momentum SGD, interleaved, medians of CPU "
            "time; peak\nmemory of a process that trains with one of the two. Bounds are the project's own.\n",
            "| model | onnxruntime | PyTorch | ratio | memory | PyTorch | ratio |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, row in training["models"].items():
            memory = row["ort_rss_mb"] / row["torch_rss_mb"]
            lines.append(
                f"| `{name}` | {row['ort_ms']:.2f} ms | {row['torch_ms']:.2f} ms | {row['ratio']:.2f} | "
                f"{row['ort_rss_mb']:.0f} MB | {row['torch_rss_mb']:.0f} MB | {memory:.2f} |"
            )
    if central:
        epochs = ", ".join(f"{accuracy:.4f}" for accuracy in central["accuracy"])
        lines += [
            "\n## MNIST in one place\n",
            f"`python -m benchmarks.central_mnist`: the `{central['model']}`, batches of {central['batch']}, rate "
            f"{central['lr']}, momentum {central['momentum']}; test accuracy\nafter each epoch: {epochs}.",
        ]
    if fedavg:
        lines += [
            "\n## FedAvg as in its paper\n",
            "`python -m benchmarks.fedavg_paper`: 100 clients of 600 MNIST images, 10 a round, E = 5, B = 10, plain "
            "SGD at a constant\nrate, the `cnn` (McMahan et al. 2017, table 2: 99 % after 20 rounds IID, 350 with two "
            "shards each).\n",
            f"Rate by sweep, test accuracy after each round of the IID split: {_swept(fedavg['sweep'])}.\n",
            "| split | rate | rounds run | last accuracy | best mean of three rounds | rounds to 99 % |",
            "|---|---|---|---|---|---|",
        ]
        for split in ("iid", "shards"):
            if row := fedavg.get(split):
                lines.append(
                    f"| {split} | {row['lr']} | {row['rounds']} | {row['accuracy'][-1]:.4f} | "
                    f"{row['best_mean_of_three'] or '–'} | {row['rounds_to_99'] or 'not reached'} |"
                )
    return lines


def _swept(tried: dict[str, list[float]]) -> str:
    return "; ".join(f"{rate}: {', '.join(f'{a:.4f}' for a in accuracy)}" for rate, accuracy in tried.items())


def _recorded(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _listed() -> str:
    return ", ".join(sorted(NO_GRADIENT))


def _size(tensor: object) -> int:
    size = 1
    for dim in tensor.dims:  # type: ignore[attr-defined]
        size *= dim
    return size


if __name__ == "__main__":
    print(document(), end="")
