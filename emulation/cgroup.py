"""A container's cgroup, version 1 or 2: quota, usage, throttling, memory; and moving a process into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


class CgroupError(RuntimeError):
    """A cgroup file is not where it was looked for: not mounted into hostd, or the container has ended."""


@dataclass(frozen=True)
class Throttling:
    periods: int
    throttled_periods: int
    throttled_s: float


def version(root: Path = CGROUP_ROOT) -> int:
    return 2 if (root / "cgroup.controllers").exists() else 1


@dataclass(frozen=True)
class Cgroup:
    """The groups of one process. On version 2 all three are the same folder."""

    cpu: Path
    usage: Path
    memory: Path
    v2: bool

    @classmethod
    def of_pid(cls, pid: int, *, root: Path = CGROUP_ROOT, proc: Path = Path("/proc")) -> Cgroup:
        try:
            lines = (proc / str(pid) / "cgroup").read_text().splitlines()
        except OSError as error:
            raise CgroupError(f"process {pid} has ended: {error.strerror}") from None
        groups: dict[str, str] = {}
        for line in lines:
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
        if version(root) == 2:
            folder = root / groups[""].lstrip("/")
            return cls._checked(cls(folder, folder, folder, True))

        def under(controller: str) -> Path:
            return root / controller / groups.get(controller, "/").lstrip("/")

        return cls._checked(cls(under("cpu"), under("cpuacct"), under("memory"), False))

    @classmethod
    def _checked(cls, group: Cgroup) -> Cgroup:
        if not group.cpu.is_dir():
            raise CgroupError(
                f"{group.cpu} is not there: hostd needs the host's /sys/fs/cgroup and `cgroup: host`"
            )
        return group

    def quota(self) -> tuple[float | None, int]:
        """(cores or None for no limit, period in us)."""
        if self.v2:
            words = _read(self.cpu / "cpu.max").split()
            quota, period = words[0], int(words[1])
            return (None if quota == "max" else int(quota) / period), period
        period, limit = int(_read(self.cpu / "cpu.cfs_period_us")), int(_read(self.cpu / "cpu.cfs_quota_us"))
        return (None if limit < 0 else limit / period), period

    def usage_s(self) -> float:
        """CPU seconds used by all that ever ran in the group."""
        if self.v2:
            return _fields(self.cpu / "cpu.stat")["usage_usec"] / 1e6
        return int(_read(self.usage / "cpuacct.usage")) / 1e9

    def throttling(self) -> Throttling:
        stat = _fields(self.cpu / "cpu.stat")
        throttled = stat.get("throttled_usec", 0) / 1e6 if self.v2 else stat.get("throttled_time", 0) / 1e9
        return Throttling(stat.get("nr_periods", 0), stat.get("nr_throttled", 0), throttled)

    def memory_limit_bytes(self) -> int | None:
        text = _read(self.memory / ("memory.max" if self.v2 else "memory.limit_in_bytes"))
        if (
            text == "max" or int(text) >= 1 << 60
        ):  # version 1 says "no limit" as the largest multiple of a page
            return None
        return int(text)

    def attach(self, pid: int) -> None:
        """Move a process into the CPU groups; it then shares their quota and is counted there."""
        for folder in {self.cpu, self.usage}:
            try:
                (folder / "cgroup.procs").write_text(str(pid))
            except OSError as error:
                raise CgroupError(
                    f"{folder}/cgroup.procs: {error.strerror} (must be writable for hostd)"
                ) from None

    def attach_memory(self, pid: int) -> None:
        """Move a process into the memory group: what it takes from then on counts there."""
        try:
            (self.memory / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise CgroupError(
                f"{self.memory}/cgroup.procs: {error.strerror} (must be writable for hostd)"
            ) from None

    def processes(self) -> list[int]:
        return [int(line) for line in _read(self.memory / "cgroup.procs").split()]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise CgroupError(f"{path}: {error.strerror}") from None


def _fields(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in _read(path).splitlines())}
