"""A coordinator process whose disk takes nothing: really full, really refusing, on a file system of its own.

Nobody can remount a file system read-only under open files, but the kernel does when it finds an error in it: every
write fails with EROFS from then on, with the WAL and its index (shared memory) in use, and only who unmounts the file
system gets another one. ext4 finds an error on request. For a disk that takes writes again under the same process
there is +i, file by file; the WAL's index stays out of that.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.coordinator_rig import Rig, check_run, until
from support.rig_root import make_plan

pytestmark = pytest.mark.netns  # needs root, for the mounts

DISK_BYTES = 4 << 20
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10
TROUBLE = "nothing is acknowledged"


def command(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{words}: {done.stderr}"


class Disk:
    """ext4 in a file, mounted where the coordinator writes."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.folder, self._filler, self._image = folder, folder / "filler", image
        with open(image, "wb") as file:
            file.truncate(DISK_BYTES)
        folder.mkdir(parents=True)
        command("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image)
        self.mount()

    def mount(self) -> None:
        command("mount", "-o", "loop,errors=remount-ro", self._image, self.folder)

    def break_down(self) -> None:
        """The kernel takes the file system for damaged, for good."""
        found = os.stat(self.folder).st_dev
        device = Path(f"/sys/dev/block/{os.major(found)}:{os.minor(found)}").resolve().name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")
        with pytest.raises(OSError, match="Read-only file system"):
            (self.folder / "probe").touch()

    def repair(self) -> None:
        self.unmount()
        done = subprocess.run(["e2fsck", "-fy", self._image], capture_output=True, text=True, timeout=60)
        assert done.returncode <= 1, done.stdout  # 1: errors were corrected
        self.mount()

    def fill(self) -> None:
        with open(self._filler, "wb", buffering=0) as file:
            for size in (1 << 16, 1 << 10, 1):
                while _takes(file.fileno(), bytes(size)):
                    pass

    def empty(self) -> None:
        self._filler.unlink()

    def refuse(self) -> None:
        self._flag(lambda flags: flags | FS_IMMUTABLE_FL)

    def allow(self) -> None:
        self._flag(lambda flags: flags & ~FS_IMMUTABLE_FL)

    def _flag(self, change: Callable[[int], int]) -> None:
        for path in self.folder.iterdir():
            if path.is_file() and not path.name.endswith("-shm"):
                with open(path, "rb") as file:
                    (flags,) = struct.unpack("l", fcntl.ioctl(file, FS_IOC_GETFLAGS, bytes(8)))
                    fcntl.ioctl(file, FS_IOC_SETFLAGS, struct.pack("l", change(flags)))

    def remount(self, how: str) -> None:
        command("mount", "-o", f"remount,{how}", self.folder)

    def unmount(self) -> None:
        command("umount", self.folder)


def _takes(descriptor: int, content: bytes) -> bool:
    try:
        return os.write(descriptor, content) == len(content)
    except OSError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk.img", tmp_path / "root" / "nodes" / "coordinator")
    yield made
    made.unmount()


@pytest.fixture
def rig(disk: Disk, tmp_path: Path) -> Iterator[Rig]:
    """The third device holds its update of the first round back."""
    made = Rig(tmp_path, make_plan(3, policy={"quorum": 1.0}))
    yield made
    made.close()


def status_of(rig: Rig) -> dict[str, Any]:
    url = rig.events("status_served")[-1]["url"]
    with urllib.request.urlopen(f"{url}/status", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def journal_lapses(rig: Rig) -> list[str]:
    return [event["effective"] for event in rig.events("lapse") if event["what"] == "journal"]


def pause(rig: Rig, disk: Disk, how: str) -> None:
    """Until two updates are in; then the disk takes nothing, and the third comes."""
    slow = rig.agents[2]
    train, slow.update = slow.update, lambda _task: None
    rig.start()
    rig.connect()
    until(rig.seen("update_acked", 2), "two acks")
    until(lambda: slow.tasks, "a task for the third")
    {"full": disk.fill, "refusing": disk.refuse, "broken": disk.break_down}[how]()
    slow.update = train
    slow.work(slow.tasks[0])
    until(lambda: TROUBLE in status_of(rig).get("trouble", ""), "the trouble in the status")


@pytest.mark.parametrize("how", ["full", "refusing"])
def test_it_pauses_says_so_and_goes_on(rig: Rig, disk: Disk, how: str) -> None:
    pause(rig, disk, how)
    assert rig.process is not None
    assert rig.process.poll() is None
    assert not rig.agents[2].acks, "what is not durable is not acknowledged"
    disk.empty() if how == "full" else disk.allow()
    assert rig.wait() == 0
    check_run(rig, versions=3)
    said = journal_lapses(rig)
    assert said[0] == "paused"
    assert said[1].startswith("resumed after")


@pytest.mark.parametrize("how", ["full", "refusing", "broken"])
def test_stopped_while_it_pauses_it_ends_and_the_next_start_goes_on(rig: Rig, disk: Disk, how: str) -> None:
    pause(rig, disk, how)
    assert rig.process is not None
    assert not rig.agents[2].acks, "what is not durable is not acknowledged"
    rig.process.terminate()
    assert rig.wait() == 143
    {"full": disk.empty, "refusing": disk.allow, "broken": disk.repair}[how]()
    rig.start()
    assert rig.wait() == 0
    check_run(rig, versions=3)


def test_it_does_not_start_on_a_read_only_disk_and_says_which(rig: Rig, disk: Disk) -> None:
    rig.start()
    until(rig.seen("run_started"), "a start")
    assert rig.process is not None
    rig.process.kill()
    rig.process.wait()
    disk.remount("ro")
    rig.start()
    assert rig.wait() == 3
    assert rig.process.stderr is not None
    assert "the journal cannot be written" in rig.process.stderr.read()
    disk.remount("rw")
    rig.start()
    rig.connect()
    assert rig.wait() == 0
    check_run(rig, versions=3)
