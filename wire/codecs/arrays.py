"""Array types and the few operations every stage shares."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wire.codecs.errors import CodecError

Float32: TypeAlias = NDArray[np.float32]
Positions: TypeAlias = NDArray[np.int64]
Bytes: TypeAlias = bytes | bytearray | memoryview

# Elements that pass through a temporary at once: 256 kB of float32 stay in the second-level cache of a Pi 4,
# and a whole-vector temporary (6.6 MB for the cnn) would count against the agent's 120 MB.
BLOCK = 65_536

FP16_MAX = 65_504.0


def require_finite(values: NDArray[np.floating], magnitude_max: float = np.inf) -> None:
    """Raise CodecError("not_finite") on NaN, infinity, or a magnitude beyond the limit; no temporary."""
    # Both extremes carry NaN along. Block by block, so that the second is found in the cache.
    for start in range(0, values.size, BLOCK):
        piece = values[start : start + BLOCK]
        high, low = piece.max(), piece.min()
        if not (np.isfinite(high) and np.isfinite(low) and high <= magnitude_max and low >= -magnitude_max):
            raise CodecError("not_finite", f"values between {low} and {high}")


def vector_of(values: NDArray[np.floating]) -> Float32:
    """`values` as a contiguous float32 vector, without a copy if it is one."""
    vector = np.ascontiguousarray(values, dtype=np.float32)
    if vector.ndim != 1:
        raise CodecError("spec", f"a flat vector is wanted, not the shape {vector.shape}")
    return vector


def to_fp16(values: Float32) -> NDArray[np.float16]:
    """Nearest float16; what is out of its range becomes its largest value rather than infinity."""
    return np.clip(values, -FP16_MAX, FP16_MAX).astype("<f2")
