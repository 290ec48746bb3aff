"""Where hostd reads and writes in a run's folder (ARCHITECTURE.md, "A run's folder")."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """`root` is `/run/edgerig` in a container, `runs/<id>` on the host."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def nodes(self) -> Path:
        return self.root / "nodes"

    @property
    def own(self) -> Path:
        return self.nodes / "hostd"

    @property
    def history(self) -> Path:
        return self.own / "history.jsonl"

    @property
    def undo(self) -> Path:
        return self.own / "undo.jsonl"

    @property
    def coordinator_history(self) -> Path:
        return self.root / "nodes" / "coordinator" / "history.jsonl"

    def gate(self, node: str) -> Path:
        return self.root / "gate" / node

    def power(self, node: str) -> Path:
        return self.root / "gate" / f"{node}.power"


def write_atomic(path: Path, text: str) -> None:
    """Write, fsync, rename: a reader sees the old content or the new, never half of it. World-readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.chmod(0o644)  # agents run under their own uids and must read their token
    draft.rename(path)
