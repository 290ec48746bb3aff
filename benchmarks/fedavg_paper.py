"""FedAvg as in the paper, in one process: python -m benchmarks.fedavg_paper [--out FILE] [--workers N] [--json]

McMahan et al. 2017 (arXiv:1602.05629), section 3: MNIST over 100 clients of 600 samples, 10 of them a round,
E = 5 local epochs, B = 10, plain SGD at a constant rate, the 1,663,370-parameter cnn. Their table 2 reaches 99 %
in 20 rounds (IID) and in 350 (two shards of one digit each). The rate comes from a sweep over the paper's grid of
10^(1/3), judged by test accuracy after SWEEP_ROUNDS rounds of the IID split; the best one's run goes on.

Long: some 12 minutes of CPU for 10 rounds. Everything is seeded, every round is written to `--out` as soon as it
is done, and a run that is started again goes on where it was. Needs the whole MNIST (EDGERIG_DATA).
`--json` alone prints what is committed in benchmarks/data/fedavg_paper.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from learning.artifact import Flat, TrainingArtifact
from learning.autodiff import build_training_graph, initial_parameters
from learning.datasets import load
from learning.evaluator import Evaluator
from learning.models import build_model
from learning.partition import PARTITIONS
from learning.shard import Shard
from learning.trainer import Trainer, TrainingSpec

CLIENTS, PER_ROUND, EPOCHS, BATCH, SAMPLES = 100, 10, 5, 10, 600
RATES = (0.0464, 0.1, 0.2154)
SWEEP_ROUNDS, ROUNDS, TARGET = 2, 30, 0.99
SEED = 1
COMMITTED = Path(__file__).parent / "data" / "fedavg_paper.json"

_world: dict[str, Any] = {}  # per worker process: the data, the artifact, who has which samples


def open_world(data: str | None, split: str) -> None:
    dataset = load("mnist", data)
    model = build_model("cnn", SEED)
    artifact = build_training_graph(model, batch_size=BATCH)
    partition = PARTITIONS[split](dataset.train_y, CLIENTS, SAMPLES, SEED)
    _world.update(data=dataset, model=model, artifact=artifact, partition=partition)


def train_client(work: tuple[Flat, int, float, int]) -> Flat:
    """One client's difference after its local epochs."""
    params, client, rate, seed = work
    chosen, data = _world["partition"].devices[client], _world["data"]
    shard = Shard(data.train_x[chosen], data.train_y[chosen])
    spec = TrainingSpec(batch_size=BATCH, local_epochs=EPOCHS, lr=rate)
    return Trainer(_world["artifact"], shard).train(params, spec, seed=seed).delta


class Federation:
    """One run: its parameters and the accuracy after every round; kept on disk between rounds."""

    def __init__(self, pool: Any, split: str, rate: float, state: Path) -> None:
        self.pool, self.split, self.rate = pool, split, rate
        self.path = state / f"{split}-{rate}.npz"
        artifact: TrainingArtifact = _world["artifact"]
        self.params = initial_parameters(_world["model"], artifact)
        self.accuracy: list[float] = []
        if self.path.is_file():
            with np.load(self.path) as kept:
                self.params, self.accuracy = kept["params"], kept["accuracy"].tolist()
        self.evaluator = Evaluator(artifact, Shard(_world["data"].test_x, _world["data"].test_y))

    def round(self) -> float:
        """Ten clients drawn without replacement; equal shards, so the average is a plain mean."""
        number = len(self.accuracy)
        rng = np.random.Generator(np.random.PCG64([SEED, number]))
        chosen = rng.choice(CLIENTS, PER_ROUND, replace=False)
        work = [(self.params, int(c), self.rate, SEED * 1_000_000 + number * 1_000 + int(c)) for c in chosen]
        total: npt.NDArray[np.float64] = np.zeros(self.params.size)
        for delta in self.pool.imap(train_client, work):
            total += delta
        self.params = (self.params + total / PER_ROUND).astype(np.float32)
        self.accuracy.append(round(self.evaluator.evaluate(self.params).accuracy or 0.0, 4))
        np.savez(self.path, params=self.params, accuracy=np.asarray(self.accuracy))
        return self.accuracy[-1]


def reached(accuracy: list[float], target: float = TARGET) -> int | None:
    """The first round after which three consecutive rounds average `target`."""
    for last in range(3, len(accuracy) + 1):
        if np.mean(accuracy[last - 3 : last]) >= target - 1e-9:
            return last
    return None


def report(split: str, rate: float, accuracy: list[float]) -> dict[str, Any]:
    means = [float(np.mean(accuracy[i - 3 : i])) for i in range(3, len(accuracy) + 1)]
    return {
        "split": split,
        "lr": rate,
        "rounds": len(accuracy),
        "accuracy": accuracy,
        "best_mean_of_three": round(max(means), 4) if means else None,
        "rounds_to_99": reached(accuracy),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    args.state.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "clients": CLIENTS, "per_round": PER_ROUND, "epochs": EPOCHS, "batch": BATCH, "model": "cnn", "seed": SEED,
    }  # fmt: skip
    if args.out.is_file():
        result = json.loads(args.out.read_text(encoding="utf-8"))
    for split in args.splits:
        open_world(args.data, split)
        with multiprocessing.get_context("spawn").Pool(
            args.workers, initializer=open_world, initargs=(args.data, split)
        ) as pool:
            if split == "iid" and args.lr is None:
                result["sweep"] = sweep(pool, args, result)
            rate = args.lr or best(result["sweep"])
            federation = Federation(pool, split, rate, args.state)
            while len(federation.accuracy) < args.rounds:
                said = federation.round()
                result[split] = report(split, rate, federation.accuracy)
                write(args.out, result)
                print(
                    f"{split} lr {rate} round {len(federation.accuracy)}: {said}", file=sys.stderr, flush=True
                )
    return result


def sweep(pool: Any, args: argparse.Namespace, result: dict[str, Any]) -> dict[str, list[float]]:
    """Rate → accuracy after each of the first rounds of the IID split."""
    tried: dict[str, list[float]] = dict(result.get("sweep", {}))
    for rate in RATES:
        federation = Federation(pool, "iid", rate, args.state)
        while len(federation.accuracy) < SWEEP_ROUNDS:
            print(f"sweep lr {rate}: {federation.round()}", file=sys.stderr, flush=True)
        tried[str(rate)] = federation.accuracy[:SWEEP_ROUNDS]
        write(args.out, {**result, "sweep": tried})
    return tried


def best(tried: dict[str, list[float]]) -> float:
    return float(max(tried, key=lambda rate: tried[rate][-1]))


def write(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder with MNIST's IDX files; default: EDGERIG_DATA")
    parser.add_argument("--splits", nargs="+", default=["iid", "shards"], choices=["iid", "shards"])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--lr", type=float, help="skip the sweep")
    parser.add_argument("--workers", type=int, default=1, help="processes that train clients side by side")
    parser.add_argument("--out", type=Path, default=Path("fedavg_paper.json"))
    parser.add_argument("--state", type=Path, default=Path("fedavg_paper.state"), help="folder to go on from")
    parser.add_argument("--json", action="store_true", help="print the committed result, run nothing")
    args = parser.parse_args()
    result = json.loads(COMMITTED.read_text(encoding="utf-8")) if args.json else run(args)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
