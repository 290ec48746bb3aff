"""A training step by plain onnxruntime against PyTorch: python -m benchmarks.training --json

One thread each, momentum SGD, batch 32, the same batch fed to both, steps interleaved, medians of CPU time.
Peak memory is that of two child processes which import one framework each and train 30 steps. PyTorch comes
with `edgerig[torch]`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH, LR, MOMENTUM = 32, 0.01, 0.9
NAMES = ("mlp", "cnn", "gru", "conv1d", "transformer", "mobile-cnn")
LIMITS = {"mlp": 0.65, "cnn": 1.25, "gru": 0.6, "conv1d": 1.0, "transformer": 1.0, "mobile-cnn": 1.6}
MEMORY_RATIO_MAX = 0.36


def sample_batch(name: str) -> tuple[Any, Any]:
    """x as a device feeds it, and labels."""
    rng = np.random.default_rng(1)
    if name == "transformer":
        return rng.integers(0, 96, (BATCH, 64)), rng.integers(0, 96, (BATCH, 64))
    if name in ("gru", "conv1d"):
        shape = (BATCH, 32, 6) if name == "gru" else (BATCH, 6, 128)
        return rng.standard_normal(shape).astype(np.float32), rng.integers(0, 6, BATCH)
    return rng.integers(0, 256, (BATCH, 1, 28, 28)).astype(np.uint8), rng.integers(0, 10, BATCH)


def artifact_bytes(name: str) -> tuple[bytes, Any]:
    """The artifact and version 0. Imports `onnx`: only ever called in the parent or a child of its own."""
    from learning.artifact import InputSpec
    from learning.autodiff import build_training_graph, initial_parameters
    from learning.models import build_model

    model = build_model(name, 1)
    scaling = InputSpec(dtype="float32", scale=1.0) if name in ("gru", "conv1d") else None
    loss = "next_token" if name == "transformer" else "softmax_cross_entropy"
    artifact = build_training_graph(model, batch_size=BATCH, scaling=scaling, loss=loss)
    return artifact.to_bytes(), initial_parameters(model, artifact)


def ort_step(name: str, data: bytes, params: Any) -> Callable[[], None]:
    from learning.artifact import TrainingArtifact
    from learning.optimizers import Sgd
    from learning.session import StepSession

    artifact = TrainingArtifact.from_bytes(data)
    grad = np.empty_like(params)
    session = StepSession(artifact, params, grad)
    optimizer = Sgd(params.size, momentum=MOMENTUM)
    x, labels = sample_batch(name)

    def step() -> None:
        session.x[...] = x
        session.labels[...] = labels
        session.run()
        optimizer.step(params, grad, LR)

    return step


def torch_step(name: str) -> Callable[[], None]:
    import torch
    from torch.nn import functional

    from benchmarks.torch_models import MODULES

    torch.set_num_threads(1)
    torch.manual_seed(1)
    module = MODULES[name]()
    optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=MOMENTUM)
    x, labels = (torch.tensor(a) for a in sample_batch(name))

    def step() -> None:
        optimizer.zero_grad()
        feed = x.float() * (1 / 255) if x.dtype == torch.uint8 else x
        output = module(feed)
        loss = functional.cross_entropy(output.reshape(-1, output.shape[-1]), labels.reshape(-1))
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def interleaved(
    first: Callable[[], None], second: Callable[[], None], budget_s: float
) -> tuple[float, float]:
    """Median CPU milliseconds of each, taking turns so that a busy neighbour slows both.

    Both frameworks run in the calling thread alone, so its CPU time is what an idle machine's clock would
    show.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for step in (first, second):
        for _ in range(5):
            step()
    end = time.monotonic() + budget_s
    while time.monotonic() < end or len(times[0]) < 20:
        for step, spent in zip((first, second), times, strict=True):
            began = time.thread_time()
            step()
            spent.append(time.thread_time() - began)
    return float(np.median(times[0]) * 1e3), float(np.median(times[1]) * 1e3)


def peak_mb(name: str, framework: str, folder: str) -> float:
    """VmHWM of a child that trains with one framework alone."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.training",
        "--child",
        framework,
        "--models",
        name,
        "--folder",
        folder,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def child(framework: str, name: str, folder: str) -> None:
    from learning.session import peak_rss_mb

    if framework == "ort":
        with open(f"{folder}/{name}.artifact", "rb") as file:
            step = ort_step(name, file.read(), np.load(f"{folder}/{name}.npy"))
    else:
        step = torch_step(name)
    for _ in range(30):
        step()
    print(peak_rss_mb())


def measure(name: str, budget_s: float, folder: str) -> dict[str, float]:
    data, params = artifact_bytes(name)
    with open(f"{folder}/{name}.artifact", "wb") as file:
        file.write(data)
    np.save(f"{folder}/{name}.npy", params)
    ort_ms, torch_ms = interleaved(ort_step(name, data, params), torch_step(name), budget_s)
    return {
        "ort_ms": round(ort_ms, 3),
        "torch_ms": round(torch_ms, 3),
        "ratio": round(ort_ms / torch_ms, 3),
        "ort_rss_mb": round(peak_mb(name, "ort", folder), 1),
        "torch_rss_mb": round(peak_mb(name, "torch", folder), 1),
    }


def main() -> int:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--models", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--budget-s", type=float, default=6.0, help="seconds of measuring per model")
    parser.add_argument("--check", action="store_true", help="exit 1 if a limit is not met")
    parser.add_argument("--child", choices=("ort", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.models[0], args.folder)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        models = {name: measure(name, args.budget_s, folder) for name in args.models}
    if args.json:
        print(json.dumps({"models": models}))
    else:
        for name, row in models.items():
            memory = row["ort_rss_mb"] / row["torch_rss_mb"]
            print(f"{name:12} {row['ort_ms']:8.2f} / {row['torch_ms']:8.2f} ms  ratio {row['ratio']:.2f} "
                  f"(at most {LIMITS[name]})  memory {memory:.2f} (at most {MEMORY_RATIO_MAX})")  # fmt: skip
    missed = [
        name
        for name, row in models.items()
        if row["ratio"] > LIMITS[name] or row["ort_rss_mb"] > MEMORY_RATIO_MAX * row["torch_rss_mb"]
    ]
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
