"""Slices of the flat vector that are statistics of data (BatchNorm's running mean and variance), not weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coordinator.merges import Item
from wire.codecs import Decoded
from wire.codecs.arrays import Float32

Slices = Sequence[tuple[int, int]]  # (start, stop), in order, without overlap


ROUNDING = np.float32(2.0**-7)  # of a version as int8, the coarsest; float16 is 2**-11


class StatisticsMean:
    """Their plain weighted mean, Σ nᵢ·sᵢ·uᵢ / Σ nᵢ; what a rule made of these elements is overwritten."""

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self._sums = [np.zeros(stop - start, np.float32) for start, stop in slices]
        self._total = 0.0

    def add(self, update: Decoded, item: Item) -> None:
        weight = np.float32(item.weight)
        for (start, stop), total in zip(self._slices, self._sums, strict=True):
            if update.positions is None:
                total += update.values[start:stop] * weight
                continue
            first, last = np.searchsorted(update.positions, (start, stop))
            total[update.positions[first:last] - start] += update.values[first:last] * weight
        self._total += item.samples

    def into(self, moved: Float32, master: Float32) -> None:
        """Write them into the next master, `moved`."""
        for (start, stop), total in zip(self._slices, self._sums, strict=True):
            moved[start:stop] = master[start:stop] + total * np.float32(1.0 / self._total)


def lowest_variance(update: Decoded, master: Float32, slices: Slices) -> float:
    """The smallest running variance that the update alone would make of the master; 0 or above is good. What rounding a
    version to sixteen bits leaves between it and the master is forgiven.
    """
    lowest = 0.0
    for start, stop in slices:
        old = master[start:stop]
        new = old.copy()
        if update.positions is None:
            new += update.values[start:stop]
        else:
            first, last = np.searchsorted(update.positions, (start, stop))
            new[update.positions[first:last] - start] += update.values[first:last]
        slack = ROUNDING * np.abs(old) + np.float32(1e-7)
        lowest = min(lowest, float((new + slack).min(initial=0.0)))
    return lowest


def without(update: Decoded, slices: Slices) -> Decoded:
    """The update of the weights alone: norms and distances must not see the statistics."""
    if update.positions is None:
        values = update.values.copy()
        for start, stop in slices:
            values[start:stop] = 0.0
        return Decoded(n=update.n, positions=None, values=values)
    keep = np.ones(update.positions.size, np.bool_)
    for start, stop in slices:
        first, last = np.searchsorted(update.positions, (start, stop))
        keep[first:last] = False
    return Decoded(n=update.n, positions=update.positions[keep], values=update.values[keep])
