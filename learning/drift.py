"""Feature drift: every device sees the same world through its own sensor, with a gain and a bias of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from learning.partition import PartitionError

Array = npt.NDArray[Any]
DRIFT_STREAM = 2  # second word of the seed, so that drift is independent of who gets which sample


def see(x: Array, strength: float, seed: int, device: int) -> Array:
    """x·gain + bias, with ln gain ~ N(0, (0.3·strength)²) and bias ~ N(0, (0.3·strength·σ)²); σ is the deviation of x.

    Float samples [n, channels, ...] have one gain and bias per channel; bytes are one channel, and saturate.
    """
    if x.dtype.kind not in "fu":
        raise PartitionError(f"feature drift changes float or byte samples, these are {x.dtype}")
    rng = np.random.Generator(np.random.PCG64([seed, DRIFT_STREAM, device]))
    channels = x.shape[1] if x.dtype.kind == "f" and x.ndim > 2 else 1
    shape = (1, channels, *([1] * (x.ndim - 2))) if channels > 1 else (1,) * x.ndim
    gain = np.exp(0.3 * strength * rng.standard_normal(shape))
    bias = 0.3 * strength * rng.standard_normal(shape) * (float(x.std()) or 1.0)
    seen = x * gain + bias
    return np.clip(np.rint(seen), 0, 255).astype(x.dtype) if x.dtype.kind == "u" else seen.astype(x.dtype)
