"""What every data set is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Dataset:
    """Samples and labels, already split. `classes` is 0 for regression; `users`: who a training sample is
    from.
    """

    name: str
    origin: str
    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array
    classes: int
    users: npt.NDArray[np.int64] | None = None
