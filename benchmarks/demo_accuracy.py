"""What accuracy the demo's federation reaches, in one process: python -m benchmarks.demo_accuracy --seeds 1 2
3

Synchronous FedAvg on mnist-mini, ten devices with 1,000 samples each (Dirichlet, equal sizes), full cohort;
uplink as in the demo: the largest 1 % of the elements with error feedback, int8; devices receive the global
model in float16. One thread; no network, no clock: this chooses the demo's settings, it measures no time of
theirs.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from learning.autodiff import build_training_graph, initial_parameters
from learning.datasets import load
from learning.evaluator import Evaluator
from learning.models import build_model
from learning.partition import dirichlet
from learning.shard import Shard
from learning.trainer import Trainer, TrainingSpec
from wire.codecs import decode, make_chain, uplink_spec
from wire.codecs.feedback import ErrorFeedback


def federate(args: argparse.Namespace, seed: int) -> list[float]:
    """Test accuracy after every round."""
    data = load("mnist-mini")
    model = build_model(args.model, seed)
    artifact = build_training_graph(model, batch_size=args.batch)
    evaluator = Evaluator(artifact, Shard(data.test_x, data.test_y))
    weights = initial_parameters(model, artifact)
    parts = dirichlet(data.train_y, args.devices, args.samples, seed, args.alpha).devices
    trainers = [Trainer(artifact, Shard(data.train_x[p], data.train_y[p])) for p in parts]
    memories = [ErrorFeedback(artifact.size) for _ in trainers]
    chain = make_chain(uplink_spec(args.top_k, "int8"))
    spec = TrainingSpec(
        batch_size=args.batch,
        local_epochs=args.epochs,
        lr=args.lr,
        momentum=args.momentum,
        nesterov=args.nesterov,
        weight_decay=args.weight_decay,
    )
    accuracies: list[float] = []
    began, sent, busy = time.process_time(), 0, 0.0
    for number in range(1, args.rounds + 1):
        received = weights.astype(np.float16).astype(np.float32)
        weights = received.copy()
        for device, (trainer, memory) in enumerate(zip(trainers, memories, strict=True)):
            start = time.process_time()
            result = trainer.train(received, spec, seed=seed * 1_000_003 + number * 1_009 + device)
            busy += time.process_time() - start
            bypass = artifact.small if args.bypass else []
            payload = memory.encode(f"r{number}", result.delta, chain, seed=number, bypass=bypass)
            sent += len(payload)
            memory.settle(f"r{number}", "merged")
            decode(payload, n=artifact.size).add_into(weights, args.server_lr / len(trainers))
        accuracies.append(evaluator.evaluate(weights.astype(np.float16).astype(np.float32)).accuracy or 0.0)
        if args.stop and accuracies[-1] >= args.stop:
            break
    full = 4 * artifact.size * len(trainers) * len(accuracies)
    print(
        f"seed {seed} alpha {args.alpha} lr {args.lr} momentum {args.momentum} epochs {args.epochs} "
        f"batch {args.batch} server_lr {args.server_lr} | {' '.join(f'{a:.4f}' for a in accuracies)} "
        f"| best {max(accuracies):.4f} "
        f"ratio {full / sent:.0f} training {busy:.0f} core-s, all {time.process_time() - began:.0f}",
        flush=True,
    )
    return accuracies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--devices", type=int, default=10)
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--nesterov", action="store_true")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--server-lr", type=float, default=1.0)
    parser.add_argument("--top-k", type=float, default=0.01)
    parser.add_argument("--bypass", action="store_true")
    parser.add_argument("--stop", type=float, default=0.0, help="stop at this accuracy")
    args = parser.parse_args()
    for seed in args.seeds:
        federate(args, seed)


if __name__ == "__main__":
    main()
