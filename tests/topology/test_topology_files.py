"""Files that a topology names: whatever stands under a name, it is read within bounds or refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from topology.availability import TraceError, read_trace
from topology.errors import TopologyErrors
from topology.files import read_text_file
from topology.validate import parse_topology

FILE = """
name: files
devices:
  a: {{profile: raspberry-pi-4, link: {{up: {{rate: 1 Mbit/s, vary: {{trace: {{file: {file}, format: {kind}}}}}}}}}}}
data: {{dataset: mnist-mini}}
model: mlp
training: {{rounds: 1}}
"""


def test_a_pipe_is_not_waited_for_and_a_device_not_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            read_text_file(path, 100)
        with pytest.raises(TraceError, match="not a regular file"):
            read_trace(path)
        with pytest.raises(TopologyErrors, match="not a regular file"):
            parse_topology(FILE.format(file=path, kind="mahimahi"))


def test_a_file_is_never_longer_than_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "long"
    file.write_bytes(b"1" * 100)
    assert read_text_file(file, 100) == "1" * 100
    with pytest.raises(OSError, match="larger than"):
        read_text_file(file, 99)
    (tmp_path / "endless").symlink_to("/proc/self/smaps")  # regular, and without a size
    with pytest.raises(OSError, match="larger than"):
        read_text_file(tmp_path / "endless", 10)


@pytest.mark.parametrize(
    ("kind", "text"), [("csv", "at_s,rate_bit_s\n0,1000000\n"), ("mahimahi", "1\n1000\n")]
)
def test_the_mark_that_spreadsheets_write_is_no_part_of_a_trace(tmp_path: Path, kind: str, text: str) -> None:
    file = tmp_path / "trace"
    file.write_text(text, encoding="utf-8-sig")
    (device,) = parse_topology(FILE.format(file=file, kind=kind)).topology.devices.values()
    assert device.link.up is not None
