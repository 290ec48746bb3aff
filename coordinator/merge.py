"""The arithmetic of a version, in one place, so that coordinator, recovery and audit cannot differ by a bit.

    accumulator = 0                                     float32[n]
    accumulator += float32(w_i) * u_i                   for every update, in the recorded order
    master     += float32(server_lr / sum w_i) * accumulator

FedAvg (McMahan et al., AISTATS 2017, algorithm 1) on differences. Every product and every sum is rounded to float32 on
its own (no fused multiply-add, no reassociation across updates), elements are independent of one another, and the sum
of the weights is a float64 sum in the recorded order: so the bits depend on nothing but the list.
Every update is decoded and checked as a whole before its first element is added; what cannot be merged is left out,
weight and all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from wire.codecs import CodecError, Decoded, Limits, decode
from wire.codecs.arrays import Float32

# Parameters of a trained network are around 1. A step of a thousand is no learning; and 10^12 samples of it stay far
# from float32's 3.4e38, so that no accumulator can overflow.
UPDATE_ABS_MAX = 1_000.0
OVERHEAD_BYTES = 65_536


class UpdateRefused(ValueError):
    """The content of an update cannot be merged. The text is for the outcome's reason."""


class Merged(NamedTuple):
    """`refused`: index in the list -> reason, of updates that were left out."""

    master: Float32
    refused: dict[int, str]
    weight: float


def checked(payload: bytes | memoryview, parameters: int) -> Decoded:
    """Decode and check one whole update. Raises UpdateRefused."""
    limits = Limits(payload_bytes_max=parameters * 4 + OVERHEAD_BYTES, n_max=parameters)
    try:
        update = decode(payload, n=parameters, limits=limits)
    except CodecError as error:
        raise UpdateRefused(str(error)[:300]) from None
    if not update.values.size:
        return update
    # Two reductions and no copy. The comparison is written so that a NaN fails it as well.
    low, high = float(update.values.min()), float(update.values.max())
    if not -UPDATE_ABS_MAX <= low <= high <= UPDATE_ABS_MAX:
        raise UpdateRefused(f"values from {low:.3g} to {high:.3g}, no step is above {UPDATE_ABS_MAX:g}")
    return update


def defect_of(payload: bytes | memoryview, parameters: int) -> str:
    """Why this update cannot be merged; empty if it can."""
    try:
        checked(payload, parameters)
    except UpdateRefused as error:
        return str(error)
    return ""


def apply(master: Float32, updates: Iterable[tuple[bytes | memoryview, float]], server_lr: float) -> Merged:
    """The next master, float32[n]. `updates`: (payload, weight) in the recorded order, taken one at a time."""
    if master.dtype != np.float32 or master.ndim != 1:
        raise ValueError(f"the master is a float32 vector, this is {master.dtype}{master.shape}")
    accumulator = np.zeros_like(master)
    refused: dict[int, str] = {}
    total = 0.0
    for index, (payload, weight) in enumerate(updates):
        try:
            if not 0.0 < weight < float("inf"):
                raise UpdateRefused(f"weight {weight}")
            update = checked(payload, master.size)
        except UpdateRefused as error:
            refused[index] = str(error)
            continue
        update.add_into(accumulator, weight)
        total += weight
    if total == 0.0:
        return Merged(master.copy(), refused, total)
    accumulator *= np.float32(server_lr / total)
    accumulator += master
    return Merged(accumulator, refused, total)
