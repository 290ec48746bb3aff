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
    # A finite sum of squares has finite terms, and one below the bound no term above it: one pass, at the speed of
    # memory (a hundredth less, since the sum is rounded). Only what does not pass is looked at closely.
    if values.flags.aligned and _square(values) < 0.99 * magnitude_max * magnitude_max:
        return
    for start in range(0, values.size, BLOCK):
        piece = values[start : start + BLOCK]
        # Both extremes carry NaN along. Block by block, so that the second is found in the cache.
        high, low = piece.max(), piece.min()
        if not (np.isfinite(high) and np.isfinite(low) and high <= magnitude_max and low >= -magnitude_max):
            raise CodecError("not_finite", f"values between {low} and {high}")


def _square(values: NDArray[np.floating]) -> float:
    """Their sum; infinite or NaN where it overflows or a value is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.dot(values, values))


def vector_of(values: NDArray[np.floating]) -> Float32:
    """`values` as a contiguous float32 vector, without a copy if it is one."""
    vector = np.ascontiguousarray(values, dtype=np.float32)
    if vector.ndim != 1:
        raise CodecError("spec", f"a flat vector is wanted, not the shape {vector.shape}")
    return vector


def to_fp16(values: Float32) -> NDArray[np.float16]:
    """Nearest float16; what is out of its range becomes its largest value rather than infinity."""
    return np.clip(values, -FP16_MAX, FP16_MAX).astype("<f2")
