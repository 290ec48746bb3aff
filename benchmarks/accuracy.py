"""What compression costs in accuracy: python -m benchmarks.accuracy [--json]

MNIST, 20 devices, Dirichlet 0.5 with equal sizes, 40 synchronous rounds with everybody, one local epoch (cnn: twenty
batches of 5, mlp: thirty of 10), plain SGD; 3 seeds, accuracy on the whole test set, mean of the last 3 rounds. Uplink
as a device makes it: error feedback, biases beside the chain; the downlink is float16. The baseline sends float32, and
its learning rate is the best of a grid (chosen on the first seed); every chain is then given that same rate, so none is
tuned for itself.

A device has 100 samples for the cnn (300 for the mlp), for a cell (model, chain, rate, seed) of the cnn is 800 local
epochs at 1.4 ms a sample, two minutes on one core; the whole command takes some forty. Each cell is written to
`--checkpoint` when it is done, and a run that was interrupted goes on from there; a finished one removes the file, so
that the next measures anew. Beside the figures it writes the curve as SVG and as a table (`--out`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.accuracy_plot import markdown, svg
from learning.autodiff import build_training_graph, initial_parameters
from learning.datasets import load
from learning.datasets.base import Dataset
from learning.evaluator import Evaluator
from learning.models import build_model
from learning.partition import dirichlet
from learning.shard import Shard
from learning.trainer import Trainer, TrainingSpec
from wire.codecs import CodecSpec, Sparsify, decode, layers_of, make_chain, rounding_seed
from wire.codecs.arrays import Float32
from wire.codecs.feedback import ErrorFeedback
from wire.codecs.model import from_patterns, to_patterns

DEVICES, ROUNDS, ALPHA = 20, 40, 0.5
SAMPLES = {"cnn": 100, "mlp": 300}  # of a device
BATCH = {"cnn": 5, "mlp": 10}
SEEDS = (1, 2, 3)
RATES = {"cnn": (0.05, 0.1, 0.2, 0.4), "mlp": (0.05, 0.1, 0.2, 0.4)}
LAST = 3  # rounds whose accuracy counts
GLANCE_EVERY, GLANCE_SAMPLES = 8, 2_000  # the way there, on a part of the test set
BASELINE = "float32"


def _top(fraction: float, quantize: str) -> CodecSpec:
    sparsify = Sparsify(kind="top_k", fraction=fraction)
    return CodecSpec(sparsify=sparsify, quantize=quantize, entropy="smallest")


CHAINS: dict[str, CodecSpec | None] = {
    BASELINE: None,
    "int8": CodecSpec(quantize="int8"),
    "eden_1bit": CodecSpec(rotate="hadamard", quantize="eden", bits=1, entropy="none"),
    "top_k_10pct_int8": _top(0.1, "int8"),
    "top_k_int8": _top(0.0135, "int8"),
    "stc_1_100": _top(0.01, "ternary"),
    "stc_1_400": _top(1 / 400, "ternary"),
}
# The cnn's cells cost two minutes each, the mlp's four seconds.
POINTS = {
    "cnn": (BASELINE, "top_k_int8", "stc_1_400", "eden_1bit"),
    "mlp": tuple(CHAINS),
}
HEADLINE = "top_k_int8"  # 1.35 %


class Cell(Struct, frozen=True, kw_only=True):
    """One training. `last`: accuracies after the last rounds; `way`: (round, accuracy) on a part of the test set."""

    last: tuple[float, ...]
    way: tuple[tuple[int, float], ...]
    update_bytes: float  # mean over updates
    parameters: int
    cpu_s: float


def train(model_name: str, chain_name: str, rate: float, seed: int, data: Dataset) -> Cell:
    began = time.process_time()
    model = build_model(model_name, seed)
    batch, samples = BATCH[model_name], SAMPLES[model_name]
    artifact = build_training_graph(model, batch_size=batch)
    weights = initial_parameters(model, artifact)
    whole = Evaluator(artifact, Shard(data.test_x, data.test_y))
    glance = Evaluator(artifact, Shard(data.test_x[:GLANCE_SAMPLES], data.test_y[:GLANCE_SAMPLES]))
    parts = dirichlet(data.train_y, DEVICES, samples, seed, ALPHA).devices
    trainers = [Trainer(artifact, Shard(data.train_x[part], data.train_y[part])) for part in parts]
    shapes = [spec.shape for spec in artifact.parameters]
    uplinks = [_uplink(chain_name, artifact.size, artifact.small, shapes) for _ in trainers]
    spec = TrainingSpec(batch_size=batch, lr=rate)
    sent, last, way = 0, [], []
    for number in range(1, ROUNDS + 1):
        received = from_patterns(to_patterns(weights))
        for device, (trainer, uplink) in enumerate(zip(trainers, uplinks, strict=True)):
            delta = trainer.train(received, spec, seed=seed * 1_000_003 + number * 1_009 + device).delta
            sent += uplink(delta, f"d{device}", f"r{number}", weights)
        if number > ROUNDS - LAST:
            last.append(whole.evaluate(from_patterns(to_patterns(weights))).accuracy or 0.0)
        elif number % GLANCE_EVERY == 0:
            way.append((number, glance.evaluate(from_patterns(to_patterns(weights))).accuracy or 0.0))
    return Cell(
        last=tuple(last),
        way=tuple(way),
        update_bytes=sent / (DEVICES * ROUNDS),
        parameters=artifact.size,
        cpu_s=time.process_time() - began,
    )


# (delta, device, task, the model to add to) -> bytes
Uplink = Callable[[Float32, str, str, Float32], int]


def _uplink(chain_name: str, n: int, small: Sequence[slice], shapes: Sequence[Sequence[int]]) -> Uplink:
    """One device's way to the model: encode with feedback, decode as the coordinator does, add its share."""
    spec = CHAINS[chain_name]
    if spec is None:

        def plainly(delta: Float32, device: str, task: str, weights: Float32) -> int:
            weights += delta / np.float32(DEVICES)
            return delta.nbytes

        return plainly
    chain, memory, layers = make_chain(spec), ErrorFeedback(n), layers_of(shapes)

    def compressed(delta: Float32, device: str, task: str, weights: Float32) -> int:
        seed = rounding_seed("accuracy", device, task)
        payload = memory.encode(task, delta, chain, seed=seed, bypass=small, layers=layers)
        memory.settle(task, "merged")
        decode(payload, n=n).add_into(weights, 1 / DEVICES)
        return len(payload)

    return compressed


class Cells:
    """Cells by name, kept in a file as they are made."""

    def __init__(self, file: Path) -> None:
        self._file, self._done = file, dict[str, Cell]()
        if file.exists():
            self._done = msgspec.json.decode(file.read_bytes(), type=dict[str, Cell])
        self._data: Dataset | None = None

    def get(self, model: str, chain: str, rate: float, seed: int) -> Cell:
        settings = f"{DEVICES} x {SAMPLES[model]}, {ROUNDS} rounds, batch {BATCH[model]}"
        name = f"{model} {chain} lr {rate:g} seed {seed} | {settings}"
        if name not in self._done:
            self._data = self._data or load("mnist")
            self._done[name] = train(model, chain, rate, seed, self._data)
            part = self._file.with_name(self._file.name + ".part")
            part.write_bytes(msgspec.json.format(msgspec.json.encode(self._done), indent=1))
            part.replace(self._file)
        return self._done[name]

    def forget(self) -> None:
        self._file.unlink(missing_ok=True)


def tune(cells: Cells, model: str) -> tuple[float, dict[str, float]]:
    """The baseline's best learning rate, and what all of them reached."""
    reached = {rate: float(np.mean(cells.get(model, BASELINE, rate, SEEDS[0]).last)) for rate in RATES[model]}
    return max(reached, key=lambda rate: reached[rate]), {f"{rate:g}": a for rate, a in reached.items()}


def curve(cells: Cells, model: str, rate: float) -> list[dict[str, Any]]:
    """A point per chain: bytes of an update, how many times fewer than float32, accuracy and its spread."""
    points = []
    for chain in POINTS[model]:
        made = [cells.get(model, chain, rate, seed) for seed in SEEDS]
        accuracies = [float(np.mean(cell.last)) for cell in made]
        update_bytes = float(np.mean([cell.update_bytes for cell in made]))
        points.append(
            {
                "chain": chain,
                "seeds": len(made),
                "update_bytes": update_bytes,
                "uplink_ratio": 4 * made[0].parameters / update_bytes,
                "accuracy": float(np.mean(accuracies)),
                "accuracy_std": float(np.std(accuracies, ddof=1)),
                "way": [
                    [number, DEVICES * number * update_bytes, float(np.mean([c.way[i][1] for c in made]))]
                    for i, (number, _) in enumerate(made[0].way)
                ],
            }
        )
    return points


def figures_of(cells: Cells, model: str) -> dict[str, Any]:
    rate, tried = tune(cells, model)
    points = curve(cells, model, rate)
    named = {point["chain"]: point for point in points}
    return {
        "accuracy": named[HEADLINE]["accuracy"],
        "baseline_accuracy": named[BASELINE]["accuracy"],
        "points_lost": 100 * (named[BASELINE]["accuracy"] - named[HEADLINE]["accuracy"]),
        "uplink_ratio": named[HEADLINE]["uplink_ratio"],
        "chain": HEADLINE,
        "lr": rate,
        "lr_tried": tried,
        "curve": points,
    }


def measure(cells: Cells) -> dict[str, Any]:
    """The cnn's figures, and the mlp's under `mlp`."""
    mlp = figures_of(cells, "mlp")
    settings = {
        "devices": DEVICES,
        "samples_per_device": SAMPLES,
        "batch_size": BATCH,
        "rounds": ROUNDS,
        "alpha": ALPHA,
        "seeds": len(SEEDS),
    }
    return figures_of(cells, "cnn") | {"mlp": mlp, "settings": settings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--checkpoint", type=Path, default=Path(".accuracy-cells.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/accuracy"), help="stem of .json, .svg and .md")
    args = parser.parse_args()
    cells = Cells(args.checkpoint)
    figures = measure(cells)
    args.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    args.out.with_suffix(".svg").write_text(svg(figures))
    args.out.with_suffix(".md").write_text(markdown(figures))
    print(json.dumps(figures, indent=1) if args.json else markdown(figures))
    cells.forget()


if __name__ == "__main__":
    main()
