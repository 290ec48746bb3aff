"""Zstandard frames made for noise: matches so long that none occurs, which leaves Huffman codes of single
bytes.

Quantised values and gap symbols repeat by chance only; a match that saves a byte spoils the statistics for
the rest.
"""

from __future__ import annotations

import zstandard

from wire.codecs.arrays import Bytes
from wire.codecs.entropy.base import PACKINGS
from wire.codecs.entropy.zstd import decompress


class Huffman:
    name = "huffman"
    code = 2
    matches = False

    def pack(self, data: Bytes, width: int) -> bytes:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            1, source_size=len(data), min_match=7, hash_log=6, chain_log=6
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compress(data)

    def unpack(self, packed: memoryview, size_max: int) -> bytes:
        return decompress(packed, size_max)


PACKINGS.add(Huffman())
