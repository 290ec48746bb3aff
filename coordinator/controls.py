"""SCAFFOLD's c on its way to the devices: beside every version, as of that version.

c itself is the server's state (`coordinator.merges.scaffold`): exact float32 that only merges move, its sha256 in the
row of every version. What is published of it is rounded anew each time, to float16, or not at all where versions are
not; devices use the same bits to correct their gradients and to tell how their own variate moves, so that rounding
leaves nothing behind in either. It is always sent whole: all of c moves with every version, there is no delta worth it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from coordinator.merges import State
from coordinator.merges.scaffold import CONTROL
from topology.plan import MergePlan
from wire.chain_spec import CodecSpec
from wire.codecs import model as versions
from wire.codecs.model import Dtype, Patterns


def chain_of(rule: MergePlan) -> CodecSpec | None:
    """How a device sends the change of its own variate; None where there are no control variates."""
    return CodecSpec(quantize=rule.control) if rule.paired else None


def dtype_of(version: Dtype) -> Literal["fp16", "none"]:
    """Not int8: its steps would be as large as much of what c corrects."""
    return "none" if version == "none" else "fp16"


def published(rule: MergePlan, state: State, n: int, version: Dtype) -> Patterns | None:
    """c of a server state, as bit patterns; zeros before the first merge. None where there are no control variates."""
    if not rule.paired:
        return None
    return versions.to_patterns(state.get(CONTROL, np.zeros(n, np.float32)), dtype_of(version))
