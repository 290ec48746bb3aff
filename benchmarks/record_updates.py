"""Record the updates that the codecs are measured on: python -m benchmarks.record_updates

For each chain of `recorded.CHAINS` a federated training of its own (mnist-mini, cnn, ten devices of 1,000
samples, Dirichlet 0.5, synchronous, lr 0.02, momentum 0.9, batch 16, one local epoch), with the chain and its
error feedback in it, because what a chain leaves out shapes what it sees next. Rounds 1 to 5, devices 0 to 2.
Takes some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.recorded import CHAINS, DATA, SLICE_ELEMENTS, Recording, Slice, Update, restore
from learning.autodiff import build_training_graph, initial_parameters
from learning.datasets import load
from learning.models import build_model
from learning.partition import dirichlet
from learning.shard import Shard
from learning.trainer import Trainer, TrainingSpec
from wire.codecs import Chain, CodecSpec, Layer, Sparsify, decode, layers_of, make_chain, rounding_seed
from wire.codecs.feedback import ErrorFeedback
from wire.codecs.model import from_patterns, to_patterns

ROUNDS, DEVICES, RECORDED = 5, 10, 3
SEED = 1
TRAINING = (
    "mnist-mini, cnn, 10 devices of 1,000 samples, Dirichlet 0.5, lr 0.02, momentum 0.9, batch 16, seed 1"
)
MARGIN = 1.05  # recorded elements per element kept


def shapes() -> list[list[int]]:
    """Of the cnn's tensors, in the order of its flat vector."""
    artifact = build_training_graph(build_model("cnn", SEED), batch_size=16)
    return [list(parameter.shape) for parameter in artifact.parameters if parameter.trainable]


class Step(NamedTuple):
    round: int
    device: int
    delta: NDArray[np.float32]
    compensated: NDArray[np.float32]
    payload: bytes
    seed: int


def federate(chain: Chain, layers: Sequence[Layer]) -> Iterator[Step]:
    """Train, and yield what every device encodes in every round."""
    data = load("mnist-mini")
    model = build_model("cnn", SEED)
    artifact = build_training_graph(model, batch_size=16)
    weights = initial_parameters(model, artifact)
    parts = dirichlet(data.train_y, DEVICES, 1_000, SEED, 0.5).devices
    trainers = [Trainer(artifact, Shard(data.train_x[part], data.train_y[part])) for part in parts]
    memories = [ErrorFeedback(artifact.size) for _ in trainers]
    spec = TrainingSpec(batch_size=16, lr=0.02, momentum=0.9)
    for number in range(1, ROUNDS + 1):
        received = from_patterns(to_patterns(weights))
        for device, (trainer, memory) in enumerate(zip(trainers, memories, strict=True)):
            delta = trainer.train(received, spec, seed=SEED * 1_000_003 + number * 1_009 + device).delta
            compensated = memory.residual + delta
            seed = rounding_seed("recorded", f"d{device}", f"r{number}")
            payload = memory.encode("task", delta, chain, seed=seed, layers=layers)
            memory.settle("task", "merged")
            decode(payload, n=artifact.size).add_into(weights, 1 / DEVICES)
            yield Step(number, device, delta, compensated, payload, seed)


def shortened(step: Step, chain: Chain, layers: Sequence[Layer]) -> Update:
    """The recording of one update; an error if the chain would make other bytes of it."""
    assert chain.spec.sparsify is not None
    assert chain.spec.sparsify.fraction is not None
    top = Sparsify(kind="top_k", fraction=MARGIN * chain.spec.sparsify.fraction)
    keep = make_chain(CodecSpec(sparsify=top, quantize="none", entropy="smallest"))
    energy = float(np.sum(np.square(step.compensated, dtype=np.float64)))
    stored = keep.encode(step.compensated, seed=0)
    update = Update(step.round, step.device, step.seed, energy, stored)
    again = chain.encode(restore(update, step.compensated.size), seed=step.seed, layers=layers)
    if again != step.payload:
        raise RuntimeError(f"round {step.round}, device {step.device}: the recording is not faithful")
    return update


def record(name: str) -> None:
    chain, layers = make_chain(CHAINS[name]), layers_of(shapes())
    updates, n = [], 0
    for step in federate(chain, layers):
        n = step.delta.size
        if step.device < RECORDED:
            updates.append(shortened(step, chain, layers))
            ratio = 4 * n / len(step.payload)
            print(f"{name} round {step.round} device {step.device}: {ratio:.0f} times smaller", flush=True)
        if name == "top_k_1pct_int8" and (step.round, step.device) == (3, 0):
            plain = make_chain(CodecSpec(entropy="lossless"))
            values = plain.encode(step.delta[:SLICE_ELEMENTS], seed=0)
            _write("delta_slice", Slice(f"{TRAINING}; round 3, device 0", values))
    _write(name, Recording(name, n, shapes(), TRAINING, updates))


def _write(name: str, content: Recording | Slice) -> None:
    DATA.mkdir(exist_ok=True)
    (DATA / f"{name}.msgpack").write_bytes(msgspec.msgpack.encode(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chains", nargs="*", default=list(CHAINS), help=f"of {', '.join(CHAINS)}")
    for name in parser.parse_args().chains:
        record(name)


if __name__ == "__main__":
    main()
