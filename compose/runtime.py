"""What a run's driver needs of a runtime: containers and processes look the same to it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from history.events import Event

Role = Literal["broker", "coordinator", "hostd", "agent", "relay", "init", "report"]


class NodeState(Struct, frozen=True, kw_only=True):
    """One service of a run as the runtime sees it now."""

    name: str
    role: Role
    running: bool
    exit_code: int | None = None
    detail: str = ""


class Runtime(Protocol):
    """Bring a prepared run up, watch it, take it down. `stop` is idempotent and leaves nothing behind."""

    def start(self) -> None:
        """Returns when everything has been started, not when it is ready. Raises EnvironmentProblem."""

    def nodes(self) -> list[NodeState]:
        """The state of every service; cheap enough to call once a second."""

    def facts(self) -> dict[str, object]:
        """What the record should know of what was started: images, versions."""

    def handle(self, events: list[Event], now: float) -> None:
        """React to new history events (the process runtime fires the faults here; in Docker hostd does)."""

    def log_tail(self, node: str, lines: int = 12) -> list[str]:
        """The last lines a service printed, for an error message."""

    def save_logs(self, folder: Path) -> None:
        """Write every service's output to `<folder>/<node>.log`."""

    def stop(self) -> None:
        """End and remove everything of this run."""

    def left(self) -> list[str]:
        """After `stop`: what of this run is still there, by looking; for the record."""
