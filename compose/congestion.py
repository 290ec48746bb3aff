"""TCP congestion control of a run: one that every container may be given.

Outside the host's own namespace the kernel takes only what `tcp_allowed_congestion_control` lists, and where its own
default is another one, cubic may be missing there (runc then ends with "operation not permitted").
"""

from __future__ import annotations

from pathlib import Path

from compose.errors import EnvironmentProblem

FOLDER = Path("/proc/sys/net/ipv4")


def allow(name: str, folder: Path = FOLDER) -> None:
    """Let containers use it; root adds it to the list, which takes nothing from anybody. Raises EnvironmentProblem."""
    available = _words(folder / "tcp_available_congestion_control")
    allowed = _words(folder / "tcp_allowed_congestion_control")
    if not name or name in allowed or not allowed:
        return  # an empty list: no such file here, so nothing is known, and the engine will say
    if name in available:
        try:
            (folder / "tcp_allowed_congestion_control").write_text(" ".join([*allowed, name]))
        except OSError:
            pass
        else:
            return
    raise EnvironmentProblem(
        f"containers may not use the TCP congestion control {name}",
        awaited=f"it among those that the kernel allows: {', '.join(allowed)}",
        hint=f"as root: sysctl -w net.ipv4.tcp_allowed_congestion_control='{' '.join([*allowed, name])}', "
        f"or in the topology network: {{congestion: {allowed[0]}}}",
    )


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
