"""Boot token, undo file, hook files, cgroup files: on folders made for the test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.gate import boot_token as token_inside
from emulation.behaviours import HookFiles
from emulation.cgroup import Cgroup, CgroupError, Throttling
from emulation.faults.base import FaultProblem
from emulation.paths import RunPaths, write_atomic
from emulation.token import ProcessGone, boot_token, start_time_ticks
from emulation.undo import UndoFile
from topology.plan import FaultParams
from topology.plan.agent import HOOK_NAME


def test_start_time_counts_from_the_last_bracket() -> None:
    fields = " ".join(str(number) for number in range(3, 53))
    assert start_time_ticks(f"7 (a) b (c d) {fields}") == 22


def test_token_from_outside_is_the_token_from_inside(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to(f"/proc/{os.getpid()}")
    (tmp_path / "1").symlink_to(f"/proc/{os.getpid()}")
    assert boot_token(os.getpid()) == token_inside(tmp_path)


def test_token_of_an_ended_process_says_so() -> None:
    with pytest.raises(ProcessGone, match="has ended"):
        boot_token(2**22 + 1)


def test_undo_entries_survive_and_a_cut_line_was_never_begun(tmp_path: Path) -> None:
    path = tmp_path / "undo.jsonl"
    undo = UndoFile(path)
    first = undo.begin("link", {"device": "a"})
    second = undo.begin("fault", {"fault": "f"})
    undo.done(first)
    undo.done(first)
    undo.close()
    with open(path, "ab") as file:
        file.write(b'{"op":"begin","number":7,"ki')
    again = UndoFile(path)
    assert again.open_entries == {second: {"kind": "fault", "fault": "f"}}
    third = again.begin("link", {"device": "b"})
    again.close()
    assert list(UndoFile(path).open_entries) == [second, third]


def test_a_pipe_in_place_of_a_devices_files_holds_up_nobody(tmp_path: Path) -> None:
    (tmp_path / "pi-1").mkdir()
    os.mkfifo(tmp_path / "pi-1" / "history.jsonl")
    os.mkfifo(tmp_path / "pi-1" / HOOK_NAME)
    hooks = HookFiles(tmp_path)
    assert hooks.says("pi-1", "misbehaviour") == []
    hooks.untell("pi-1", "poison-1")


def test_a_link_in_place_of_a_hook_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "pi-1").mkdir()
    (tmp_path / "secret").write_text('{"told": {}}')
    (tmp_path / "pi-1" / HOOK_NAME).symlink_to(tmp_path / "secret")
    with pytest.raises(FaultProblem, match="has no hook"):
        HookFiles(tmp_path).tell("pi-1", "poison-1", "poison", FaultParams())
    assert (tmp_path / "secret").read_text() == '{"told": {}}'


def test_atomic_write_replaces_and_is_readable_by_all(tmp_path: Path) -> None:
    path = RunPaths(tmp_path).gate("pi4-1")
    write_atomic(path, "one")
    write_atomic(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["pi4-1"]


def proc_with(tmp_path: Path, text: str) -> Path:
    (tmp_path / "proc" / "5").mkdir(parents=True)
    (tmp_path / "proc" / "5" / "cgroup").write_text(text)
    return tmp_path / "proc"


def test_cgroup_v1(tmp_path: Path) -> None:
    proc = proc_with(tmp_path, "4:memory:/docker/x\n3:cpuacct:/docker/x\n2:cpu:/docker/x\n")
    for controller in ("cpu", "cpuacct", "memory"):
        (tmp_path / "cg" / controller / "docker" / "x").mkdir(parents=True)
    cpu = tmp_path / "cg" / "cpu" / "docker" / "x"
    (cpu / "cpu.cfs_quota_us").write_text("15000\n")
    (cpu / "cpu.cfs_period_us").write_text("100000\n")
    (cpu / "cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_time 2500000000\n")
    (tmp_path / "cg" / "cpuacct" / "docker" / "x" / "cpuacct.usage").write_text("1500000000\n")
    (tmp_path / "cg" / "memory" / "docker" / "x" / "memory.limit_in_bytes").write_text("67108864\n")
    group = Cgroup.of_pid(5, root=tmp_path / "cg", proc=proc)
    assert group.quota() == (0.15, 100_000)
    assert group.usage_s() == 1.5
    assert group.throttling() == Throttling(10, 4, 2.5)
    assert group.memory_limit_bytes() == 64 << 20
    (cpu / "cpu.cfs_quota_us").write_text("-1\n")
    assert group.quota() == (None, 100_000)


def test_cgroup_v2(tmp_path: Path) -> None:
    proc = proc_with(tmp_path, "0::/system.slice/docker-x.scope\n")
    folder = tmp_path / "cg" / "system.slice" / "docker-x.scope"
    folder.mkdir(parents=True)
    (tmp_path / "cg" / "cgroup.controllers").write_text("cpu memory\n")
    (folder / "cpu.max").write_text("30000 100000\n")
    (folder / "cpu.stat").write_text(
        "usage_usec 2000000\nnr_periods 3\nnr_throttled 1\nthrottled_usec 500000\n"
    )
    (folder / "memory.max").write_text("max\n")
    (folder / "cgroup.procs").write_text("")
    group = Cgroup.of_pid(5, root=tmp_path / "cg", proc=proc)
    assert group.quota() == (0.3, 100_000)
    assert group.usage_s() == 2.0
    assert group.throttling() == Throttling(3, 1, 0.5)
    assert group.memory_limit_bytes() is None
    group.attach(77)
    assert (folder / "cgroup.procs").read_text() == "77"


def test_a_missing_cgroup_says_what_hostd_needs(tmp_path: Path) -> None:
    proc = proc_with(tmp_path, "2:cpu:/docker/gone\n")
    with pytest.raises(CgroupError, match="cgroup: host"):
        Cgroup.of_pid(5, root=tmp_path / "cg", proc=proc)
