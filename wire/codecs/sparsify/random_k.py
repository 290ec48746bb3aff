"""k elements at random, drawn alike on both sides from the seed, so that no position is sent (Konečný et al. 2016).

Unbiased when scaled by n/k, which the chain does where there is no error feedback to return what was left
out.
"""

from __future__ import annotations

import numpy as np

from wire.codecs.arrays import Float32, Positions
from wire.codecs.errors import CodecError
from wire.codecs.seeds import raw_bits
from wire.codecs.sparsify.base import SPARSIFIERS, Choice, check_size, share
from wire.codecs.spec import Sparsify

PURPOSE = 0x72616E646F6D2D6B  # "random-k": keeps these words apart from the rotation's


def draw_distinct(n: int, count: int, seed: int) -> Positions:
    """`count` <= n distinct positions, increasing; uniform but for a bias of n / 2^64."""
    if 2 * count > n:  # few are left out: draw those, or the last ones would need ever more words
        left_out = draw_distinct(n, n - count, seed)
        keep = np.ones(n, bool)
        keep[left_out] = False
        return np.flatnonzero(keep)
    wanted = 0
    while True:
        # At most half of all positions are wanted, so a handful of doublings suffices for any seed.
        wanted = 2 * wanted or count + count // 2 + 16
        words = raw_bits(seed, wanted, PURPOSE) % np.uint64(max(n, 1))
        distinct, first = np.unique(words, return_index=True)
        if distinct.size >= count:
            earliest = np.argsort(first, kind="stable")[:count]
            return np.sort(distinct[earliest]).astype(np.int64)


class RandomK:
    name = "random_k"
    code = 3
    implied = True

    def check(self, options: Sparsify) -> None:
        check_size(options)
        if options.per_layer:
            raise CodecError("spec", "random_k: per_layer does not apply, it is uniform over layers already")

    def select(self, vector: Float32, choice: Choice) -> Positions:
        assert choice.options.fraction is not None
        return self.draw(vector.size, share(choice.options.fraction, vector.size), choice.seed)

    def draw(self, n: int, count: int, seed: int) -> Positions:
        return draw_distinct(n, count, seed)


SPARSIFIERS.add(RandomK())
