"""Giving back the pages of code that only start-up needed, before the moment that needs memory.

Importing numpy and onnxruntime and building a session touch some 25 MB of library code that training never runs. The
kernel would take these clean pages under pressure; a device with a memory limit is better off without them now. They
come back from the page cache, one fault for 64 KiB, when they are needed again.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from pathlib import Path

MADV_DONTNEED = 4  # asm-generic/mman-common.h; the same number on x86-64 and aarch64
SMAPS_BYTES_MAX = 4 << 20  # a process of a few hundred mappings has 300 kB of it
CLEAN = frozenset({"Private_Dirty", "Anonymous", "Swap", "Locked"})


def release_code_pages(smaps: Path = Path("/proc/self/smaps")) -> int:
    """Drop clean, file-backed code pages of this process; bytes of the mappings given back, 0 where it cannot be done.

    Only mappings that are executable, not writable and have no page of their own are touched: everything in them
    is in the file still.
    """
    try:
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        with open(smaps, encoding="ascii", errors="replace") as file:
            text = file.read(SMAPS_BYTES_MAX)
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return sum(
        end - begin for begin, end in code_mappings(text) if madvise(begin, end - begin, MADV_DONTNEED) == 0
    )


def code_mappings(text: str) -> Iterator[tuple[int, int]]:
    """(begin, end) of what may be dropped, from the text of /proc/<pid>/smaps (proc(5))."""
    found: tuple[int, int] | None = None
    for line in text.splitlines():
        words = line.split()
        if words and "-" in words[0] and not words[0].endswith(":"):
            if found is not None:
                yield found
            found = _code(words)
        elif found is not None and words and words[0].rstrip(":") in CLEAN and words[1] != "0":
            found = None
    if found is not None:
        yield found


def _code(words: list[str]) -> tuple[int, int] | None:
    """`address perms offset dev inode path` of a mapping that holds code of a file, or None."""
    if len(words) < 6 or words[1] != "r-xp" or not words[5].startswith("/"):
        return None
    begin, _, end = words[0].partition("-")
    return int(begin, 16), int(end, 16)
