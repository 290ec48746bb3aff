"""One plug-in of each kind (docs/plugins.md). tests/plugins runs a whole topology with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

# --- models: seed → an inference model as onnx.ModelProto


def logistic(seed: int) -> Any:
    """Logistic regression on 8 features, 4 classes."""
    from learning.models.layers import Net

    net = Net("logistic", seed)
    return net.model((8,), net.linear("fc", "input", 8, 4), (4,))


# --- data sets: (folder of downloaded data or None, the topology's `data.options`) → Dataset


def blobs(data_dir: Path | None = None, *, samples: int = 800, spread: float = 1.0) -> Any:
    """Four clouds in 8 dimensions."""
    from learning.datasets.base import Dataset

    rng = np.random.Generator(np.random.PCG64(5))
    centres = 3.0 * rng.standard_normal((4, 8))
    y = rng.integers(0, 4, samples + 200)
    x = (centres[y] + spread * rng.standard_normal((len(y), 8))).astype(np.float32)
    cut = samples
    return Dataset("blobs", "made up", x[:cut], y[:cut], x[cut:], y[cut:], classes=4)


# --- partitions: labels, devices, samples per device, seed, the topology's `partition.options` → Partition


def one_class(labels: Any, devices: int, samples_per_device: int, seed: int, *, other: float = 0.2) -> Any:
    """Device i has class i mod 4, and a share `other` of anything."""
    from learning.partition import Partition, PartitionError

    rng = np.random.Generator(np.random.PCG64(seed))
    classes, free, chosen = np.unique(labels), set(range(len(labels))), []
    for device in range(devices):
        own = [i for i in sorted(free) if labels[i] == classes[device % len(classes)]]
        wanted = round(samples_per_device * (1 - other))
        if len(own) < wanted:
            raise PartitionError(f"device {device} wants {wanted} samples of its class, {len(own)} are left")
        taken = rng.permutation(own)[:wanted].tolist()
        rest = sorted(free - set(taken))
        taken += rng.permutation(rest)[: samples_per_device - wanted].tolist()
        free -= set(taken)
        chosen.append(np.sort(np.asarray(taken, np.int64)))
    return Partition("one-class", tuple(chosen))


# --- selections: a class without arguments; pure, all it goes by is in the views


class SlowestFirst:
    """Whoever has given the fewest updates so far comes first."""

    def choose(self, seen: Sequence[Any], count: int, fleet: int, rng: Random) -> list[str]:
        return [view.name for view in sorted(seen, key=lambda view: (view.merged, view.name))][:count]


# --- merges: (number of parameters, spec) → a fold; a function of the recorded list alone, for the audit repeats it


class PlainMean:
    """Every update counts the same, however many samples are behind it."""

    def __init__(self, n: int, spec: Any) -> None:
        self._sum, self._count = np.zeros(n, np.float32), 0
        self._server_lr = spec.server_lr

    def add(self, update: Any, item: Any) -> None:
        update.add_into(self._sum, 1.0)
        self._count += 1

    def finish(self, master: Any, state: Any) -> Any:
        from coordinator.merges import Step

        return Step(master + self._sum * np.float32(self._server_lr / self._count), state)


# --- quantizers: a stage of the codec chain; coordinator and devices need the package


class Signs:
    """A sign and one scale for all: the mean magnitude. Error feedback makes up for the rest."""

    name, code = "signs", 200  # what a topology says; what a payload carries, from 128 to 255

    def check(self, spec: Any) -> None:
        """It goes with every chain."""

    def write(self, writer: Any, values: Any, options: Any) -> None:
        scale = np.float32(np.abs(values).mean() if values.size else 0)
        writer.raw(scale.astype("<f4").tobytes())
        writer.stream(np.packbits(values < 0).data)

    def read(self, reader: Any, count: int) -> Any:
        (scale,) = np.frombuffer(reader.raw(4), "<f4")
        packed = np.frombuffer(reader.stream(-(-count // 8)), np.uint8)
        return scale * (1 - 2 * np.unpackbits(packed, count=count).astype(np.float32))

    def error_bound(self, values: Any, options: Any) -> float:
        return 2 * float(np.abs(values).max(initial=0.0))
