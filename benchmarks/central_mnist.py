"""The cnn trained centrally on MNIST: python -m benchmarks.central_mnist --data FOLDER (or EDGERIG_DATA).

Three epochs, batch 32, momentum SGD; the aim is a test accuracy of at least 0.985. One thread, prints JSON; `--out`
keeps it (what is committed is benchmarks/data/central_mnist.json).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from learning.autodiff import build_training_graph, initial_parameters
from learning.datasets import load
from learning.evaluator import Evaluator
from learning.models import build_model
from learning.shard import Shard
from learning.trainer import Trainer, TrainingSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    data, model = load("mnist", args.data), build_model(args.model, args.seed)
    artifact = build_training_graph(model, batch_size=args.batch)
    params = initial_parameters(model, artifact)
    trainer = Trainer(artifact, Shard(data.train_x, data.train_y))
    evaluator = Evaluator(artifact, Shard(data.test_x, data.test_y))
    spec = TrainingSpec(batch_size=args.batch, lr=args.lr, momentum=0.9)
    began = time.process_time()
    accuracies = []
    for epoch in range(args.epochs):
        params = params + trainer.train(params, spec, seed=args.seed * 1_000 + epoch).delta
        accuracies.append(round(evaluator.evaluate(params).accuracy or 0.0, 4))
    found = {
        "model": args.model, "batch": args.batch, "lr": args.lr, "momentum": 0.9, "seed": args.seed,
        "accuracy": accuracies, "cpu_s": round(time.process_time() - began, 1),
    }  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
