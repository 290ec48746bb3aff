"""Keeping freed memory out of the process: a device of 512 MiB has better uses for it.

glibc raises its threshold for memory maps to the largest block it ever freed. After one training, model-sized vectors
would then come from the heap, where the next small allocation pins them: tens of MB that never go back.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
MAPPED_BYTES = 65_536  # from here on a vector has pages of its own and gives them back when it goes
ARENAS = 1  # one for the loop and paho, one for the worker; each keeps some MB


def tame_malloc() -> bool:
    """Fix glibc's thresholds; False where the C library is another one, which has its own ways."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {M_MMAP_THRESHOLD: MAPPED_BYTES, M_TRIM_THRESHOLD: MAPPED_BYTES, M_ARENA_MAX: ARENAS}
    return all(mallopt(key, value) == 1 for key, value in settings.items())


def give_back() -> None:
    """Return free pages inside the heap to the system, before the one moment that needs memory."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
