"""Dropping code pages: only what is in its file still, and the process lives on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from learning.resident import code_mappings, release_code_pages

SMAPS = """\
1000-3000 r-xp 00000000 fd:00 1 /lib/clean.so
Rss:                   8 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
VmFlags: rd ex mr
3000-4000 r-xp 00000000 fd:00 1 /lib/relocated.so
Private_Dirty:         4 kB
Anonymous:             4 kB
4000-5000 r--p 00000000 fd:00 1 /lib/data.so
Private_Dirty:         0 kB
5000-6000 rwxp 00000000 fd:00 1 /lib/writable.so
6000-7000 r-xp 00000000 00:00 0 [vdso]
8000-9000 r-xp 00000000 fd:00 2 /lib/last.so
Locked:                0 kB
"""


def test_only_clean_code_of_files_is_dropped() -> None:
    assert [*code_mappings(SMAPS)] == [(0x1000, 0x3000), (0x8000, 0x9000)]


def test_without_proc_nothing_happens(tmp_path: Path) -> None:
    assert release_code_pages(tmp_path / "smaps") == 0


def test_a_process_is_smaller_afterwards_and_still_right() -> None:
    program = """
import numpy, onnxruntime
from learning.resident import release_code_pages
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
before = resident()
assert release_code_pages() > 0
assert resident() < before - 5_000, (before, resident())
assert numpy.linalg.norm(numpy.ones(16)) == 4.0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
