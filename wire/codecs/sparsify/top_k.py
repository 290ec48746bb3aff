"""The k elements of largest magnitude, exactly.

A threshold guessed from a sample leaves little more than k candidates, and only those are partitioned: one
pass over the vector where a full partition needs many. A bad guess costs time, never exactness.
"""

from __future__ import annotations

import numpy as np

from wire.codecs.arrays import BLOCK, Float32, Positions
from wire.codecs.errors import CodecError
from wire.codecs.layers import Layer
from wire.codecs.sparsify.base import SPARSIFIERS, Choice, check_size, no_draw, share
from wire.codecs.spec import Sparsify

SAMPLES = 32_768  # at 1 % some 330 of them lie above the k-th magnitude: its rank is known within 6 %
MARGIN = 1.25  # candidates wanted per element kept; four standard deviations of that sample


def at_least(vector: Float32, threshold: np.float32) -> Positions:
    """Positions with |x| >= threshold, and never a zero: it says nothing."""
    buffer = np.empty(min(BLOCK, vector.size), np.float32)
    found = []
    for start in range(0, vector.size, BLOCK):
        piece = vector[start : start + BLOCK]
        magnitudes = np.abs(piece, out=buffer[: piece.size])
        hits = np.flatnonzero(magnitudes >= threshold if threshold > 0 else magnitudes)
        found.append(hits + start)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def guess(vector: Float32, k: int) -> np.float32:
    """A threshold that slightly more than k magnitudes reach, from a strided sample; 0 if that is no help."""
    sample = np.abs(vector[:: max(1, vector.size // SAMPLES)])
    wanted = int(MARGIN * k * sample.size / vector.size) + 8
    if wanted >= sample.size:
        return np.float32(0)
    return np.partition(sample, sample.size - wanted)[sample.size - wanted]  # type: ignore[no-any-return]


def keep_largest(vector: Float32, positions: Positions, k: int) -> Positions:
    """The k largest of these positions, in their order; of equal magnitudes the first."""
    magnitudes = np.abs(vector[positions])
    limit = np.partition(magnitudes, magnitudes.size - k)[magnitudes.size - k]
    kept = magnitudes >= limit
    surplus = int(np.count_nonzero(kept)) - k
    if surplus:
        kept[np.flatnonzero(magnitudes == limit)[-surplus:]] = False
    largest: Positions = positions[kept]
    return largest


def top_k(vector: Float32, k: int) -> Positions:
    """Positions of the k largest magnitudes (fewer if fewer are not zero), strictly increasing."""
    if k <= 0 or not vector.size:
        return np.zeros(0, np.int64)
    candidates = at_least(vector, guess(vector, k))
    if candidates.size < k:
        candidates = at_least(vector, np.float32(0))
    if candidates.size > k:
        candidates = keep_largest(vector, candidates, k)
    return candidates


class TopK:
    name = "top_k"
    code = 1
    implied = False

    def check(self, options: Sparsify) -> None:
        check_size(options)

    def select(self, vector: Float32, choice: Choice) -> Positions:
        fraction = choice.options.fraction
        assert fraction is not None, "a byte budget has been turned into a fraction"
        if not choice.options.per_layer:
            return top_k(vector, share(fraction, vector.size))
        if not choice.layers:
            raise CodecError("spec", "top_k: per_layer needs the layers of the model")
        return np.concatenate([_of_layer(vector, layer, fraction) for layer in choice.layers])

    def draw(self, n: int, count: int, seed: int) -> Positions:
        raise no_draw(self.name)


def _of_layer(vector: Float32, layer: Layer, fraction: float) -> Positions:
    piece = vector[layer.start : layer.stop]
    return top_k(piece, share(fraction, piece.size)) + layer.start


SPARSIFIERS.add(TopK())
