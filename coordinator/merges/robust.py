"""Merges that a minority of wrong updates cannot move far. Unweighted: a claimed number of samples is no vote.

Coordinate-wise median and trimmed mean (Yin et al., ICML 2018, definitions 1 and 2), Krum and multi-Krum (Blanchard et
al., NeurIPS 2017). They need all updates at once: cohort x parameters x 4 bytes, said (and bounded) when the topology
is validated. Staleness damps an update before it is compared: sᵢ·uᵢ.
All updates that a rule looked at are in the version's list, also those it decided against: without them the decision
could not be repeated.
"""

from __future__ import annotations

import numpy as np

from coordinator.merges.base import Item, MergeSpec, State, Step
from wire.codecs import Decoded
from wire.codecs.arrays import BLOCK, Float32


class _Gathered:
    """Keeps every update whole. `_direction` makes one vector of them, which may be any fresh array."""

    def __init__(self, n: int, spec: MergeSpec) -> None:
        self._n, self._rule, self._rate = n, spec.rule, np.float32(spec.server_lr)
        self._rows: list[Float32] = []

    def add(self, update: Decoded, item: Item) -> None:
        row = update.dense()
        if item.factor != 1.0:
            row *= np.float32(item.factor)
        self._rows.append(row)

    def finish(self, master: Float32, state: State) -> Step:
        moved = self._direction()
        moved *= self._rate
        moved += master
        return Step(moved, state)

    def _direction(self) -> Float32:
        raise NotImplementedError


class _BySorting(_Gathered):
    """Works on the sorted values of each coordinate, a block of coordinates at a time."""

    def _direction(self) -> Float32:
        out = np.empty(self._n, np.float32)
        for start in range(0, self._n, BLOCK):
            piece = np.stack([row[start : start + BLOCK] for row in self._rows])
            piece.sort(axis=0)
            out[start : start + BLOCK] = self._of_sorted(piece)
        return out

    def _of_sorted(self, values: Float32) -> Float32:
        raise NotImplementedError


class Median(_BySorting):
    def _of_sorted(self, values: Float32) -> Float32:
        low, high = (len(values) - 1) // 2, len(values) // 2
        middle: Float32 = values[low] + values[high]
        middle *= np.float32(0.5)
        return middle


class TrimmedMean(_BySorting):
    def _of_sorted(self, values: Float32) -> Float32:
        cut = min(int(self._rule.trim * len(values)), (len(values) - 1) // 2)
        kept = values[cut : len(values) - cut]
        total: Float32 = kept[0].copy()
        for row in kept[1:]:
            total += row
        total *= np.float32(1.0 / len(kept))
        return total


class Krum(_Gathered):
    """The `keep` updates that lie closest to their k − f − 2 nearest neighbours, averaged; with keep: 1 Krum itself."""

    def _direction(self) -> Float32:
        chosen = closest(self._rows, self._rule.byzantine, self._rule.keep)
        total = self._rows[chosen[0]].copy()
        for index in chosen[1:]:
            total += self._rows[index]
        total *= np.float32(1.0 / len(chosen))
        return total


def closest(rows: list[Float32], byzantine: int, keep: int) -> list[int]:
    """Indexes of the updates that Krum selects, in their order."""
    distances = squared_distances(rows)
    neighbours = max(1, len(rows) - byzantine - 2)
    # The first of each sorted row is the distance to itself.
    scores = np.sort(distances, axis=1)[:, 1 : 1 + neighbours].sum(axis=1)
    return sorted(np.argsort(scores, kind="stable")[: max(1, min(keep, len(rows)))].tolist())


def squared_distances(rows: list[Float32]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """‖uᵢ − uⱼ‖² in float64. Differences, not a matrix product: close updates would cancel, and a BLAS may sum in any
    order it likes."""
    count = len(rows)
    out = np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1, count):
            total = 0.0
            for start in range(0, rows[i].size, BLOCK):
                piece = rows[i][start : start + BLOCK].astype(np.float64)
                piece -= rows[j][start : start + BLOCK]
                piece *= piece
                total += float(piece.sum())
            out[i, j] = out[j, i] = total
    return out
