"""The arithmetic of a version, in one place, so that coordinator, recovery and audit cannot differ by a bit.

    for every (position, task, samples n, factor s) of the recorded list, in its order:
        decode and check the whole update, then hand it to the rule of `coordinator.merges`
    the rule makes the next master and the next server state

For FedAvg: accumulator += float32(nᵢ·sᵢ) · uᵢ; master += float32(server_lr / Σ nᵢ) · accumulator. Every product and
every sum is rounded to float32 on its own (no fused multiply-add, no reassociation across updates), elements are
independent of one another, and the sum of the samples is a float64 sum in the recorded order: so the bits depend on
nothing but the list. Every update is decoded and checked as a whole before its first element is added; what cannot be
merged is left out, samples and all.

Slices that are statistics (BatchNorm) are no weights: whatever the rule, they take the plain weighted mean, without
server_lr, server optimizer, clipping or noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from coordinator import merges
from coordinator.merges import EMPTY, PAIRED, Item, MergeSpec, State
from coordinator.statistics import StatisticsMean, lowest_variance, without
from wire import pair
from wire.codecs import CodecError, Decoded, Limits, decode
from wire.codecs.arrays import Float32

# Parameters of a trained network are around 1. A step of a thousand is no learning; and 10^12 samples of it stay far
# from float32's 3.4e38, so that no accumulator can overflow.
UPDATE_ABS_MAX = 1_000.0
SAMPLES_MAX = 1_000_000_000_000
OVERHEAD_BYTES = 65_536


class UpdateRefused(ValueError):
    """The content of an update cannot be merged. The text is for the outcome's reason."""


class Merged(NamedTuple):
    """`refused`: index in the list -> reason, of updates that were left out. `samples`: of those that were not."""

    master: Float32
    state: State
    refused: dict[int, str]
    samples: float


def checked(payload: bytes | memoryview, parameters: int) -> Decoded:
    """Decode and check one whole update. Raises UpdateRefused."""
    limits = Limits(
        payload_bytes_max=parameters * 4 + OVERHEAD_BYTES, n_max=parameters, magnitude_max=UPDATE_ABS_MAX
    )
    try:
        return decode(payload, n=parameters, limits=limits)
    except CodecError as error:
        raise UpdateRefused(str(error)[:300]) from None


def checked_pair(payload: bytes | memoryview, parameters: int) -> tuple[Decoded, Decoded]:
    """Both vectors of an update that carries two. Raises UpdateRefused."""
    try:
        first, second = pair.split(payload)
    except CodecError as error:
        raise UpdateRefused(str(error)[:300]) from None
    return checked(first, parameters), checked(second, parameters)


def defect_of(payload: bytes | memoryview, parameters: int, kind: str = "fedavg") -> str:
    """Why this update cannot be merged by this kind of merge; empty if it can."""
    try:
        checked_pair(payload, parameters) if kind in PAIRED else checked(payload, parameters)
    except UpdateRefused as error:
        return str(error)
    return ""


def apply(master: Float32, items: Iterable[Item], spec: MergeSpec, state: State = EMPTY) -> Merged:
    """The next master, float32[n], and server state. `items` in the recorded order, taken one at a time."""
    if master.dtype != np.float32 or master.ndim != 1:
        raise ValueError(f"the master is a float32 vector, this is {master.dtype}{master.shape}")
    fold = merges.begin(master.size, spec)
    statistics = StatisticsMean(spec.state)
    refused: dict[int, str] = {}
    samples = 0.0
    for index, item in enumerate(items):
        try:
            update, item = _taken(item, master.size, spec)
        except UpdateRefused as error:
            refused[index] = str(error)
            continue
        if spec.state:
            lowest = lowest_variance(update, master, spec.variances)
            if lowest < 0:
                refused[index] = f"a running variance of {lowest:.3g}: statistics are never negative"
                continue
            statistics.add(update, item)
            update = without(update, spec.state)
        fold.add(update, item)
        samples += item.samples
    if samples == 0.0:
        return Merged(master.copy(), state, refused, samples)
    step = fold.finish(master, state)
    statistics.into(step.master, master)
    return Merged(step.master, step.state, refused, samples)


def _taken(item: Item, parameters: int, spec: MergeSpec) -> tuple[Decoded, Item]:
    if not 0 < item.samples <= SAMPLES_MAX:
        raise UpdateRefused(f"{item.samples} samples, between 1 and {SAMPLES_MAX:.0e} can count")
    if not 0.0 < item.factor <= 1.0:
        raise UpdateRefused(f"factor {item.factor}, above 0 and up to 1 is allowed")
    if spec.rule.kind not in PAIRED:
        return checked(item.payload, parameters), item
    update, control = checked_pair(item.payload, parameters)
    return update, item._replace(control=control)
