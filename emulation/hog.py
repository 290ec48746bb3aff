"""Takes memory, a little at a time, until it is killed: `python -m emulation.hog BYTES` (faults.out_of_memory).

It first waits for a line on its input, so that whoever started it can move it into another cgroup before.
"""

from __future__ import annotations

import mmap
import sys
import time

STEP_BYTES = 4 << 20
STAY_S = 20.0  # then whatever was to die has not; the verification says so


def main() -> None:
    limit = int(sys.argv[1])
    sys.stdin.readline()
    held, ones = [], b"\1" * STEP_BYTES
    for _ in range(limit // STEP_BYTES + 8):
        block = mmap.mmap(-1, STEP_BYTES)
        block.write(ones)  # touched, or it would cost nothing
        held.append(block)
    time.sleep(STAY_S)


if __name__ == "__main__":
    main()
