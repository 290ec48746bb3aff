"""`edgerig replay`: the core once more, from what it was told, against what it decided then and what was committed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
from msgspec import Struct

from coordinator import actions as a
from coordinator.audit import copied
from coordinator.core import CoordinatorCore
from coordinator.decisions import (
    DECISIONS_SCHEMA,
    Beginning,
    DecisionsBroken,
    digest_of,
    names_of,
    recorded,
    unpack_state,
)

Merges = dict[int, list[tuple[str, int, float]]]  # version -> (task, samples, factor) in order


class Replayed(Struct, frozen=True, kw_only=True):
    """`difference`: the first one, empty if there is none."""

    boots: int
    events: int
    actions: int
    versions: int
    difference: str


def replay(root: Path) -> Replayed:
    """Every boot of a run's coordinator. Raises FileNotFoundError when nothing was recorded."""
    folder = root / "nodes" / "coordinator"
    files = sorted(folder.glob("decisions-*.bin"), key=lambda path: int(path.stem.partition("-")[2]))
    if not files:
        raise FileNotFoundError(f"{folder} has no recorded decisions")
    counted = {"boots": 0, "events": 0, "actions": 0}
    decided: Merges = {}
    difference = ""
    for path in files:
        difference = difference or _one_boot(path, counted, decided)
    difference = difference or _against_readable(folder / "journal.sqlite", decided)
    return Replayed(**counted, versions=len(decided), difference=difference)


def _one_boot(path: Path, counted: dict[str, int], decided: Merges) -> str:
    core: CoordinatorCore | None = None
    try:
        for frame in recorded(path):
            if isinstance(frame, Beginning):
                if frame.schema != DECISIONS_SCHEMA:
                    return f"{path.name}: schema {frame.schema}, this version reads {DECISIONS_SCHEMA}"
                core = CoordinatorCore(frame.config, unpack_state(frame.state))
                counted["boots"] += 1
                continue
            if core is None:
                return f"{path.name} does not begin with a state"
            actions = core.handle(frame.event, frame.now)
            counted["events"] += 1
            counted["actions"] += len(actions)
            if digest_of(actions) != frame.digest:
                return (
                    f"{path.name}: event {frame.event.id}, {type(frame.event).__name__} at {frame.now:.3f} s: "
                    f"decided then {list(frame.actions)}, now {list(names_of(actions))}"
                )
            for action in actions:
                if isinstance(action, a.CommitVersion):
                    decided[action.version] = [(x.task, x.samples, x.factor) for x in action.updates]
    except (DecisionsBroken, msgspec.MsgspecError, AssertionError) as error:
        return f"{path.name}: {error}"
    except OSError as error:
        return f"{path.name}, which cannot be read: {error.strerror}"
    return ""


def _against_readable(path: Path, decided: Merges) -> str:
    try:
        return _against_journal(path, decided)
    except (sqlite3.DatabaseError, OSError) as error:
        return f"{path.name}, which is damaged: {error}"


def _against_journal(path: Path, decided: Merges) -> str:
    """What was committed is what was decided, but for updates that turned out unfit while they were merged."""
    if not path.exists():
        return f"{path.name}, which is not there" if decided else ""
    with copied(path) as db:  # reading it where it lies would leave files of SQLite's beside it
        rows = db.execute(
            "SELECT version, task, samples, factor FROM merges ORDER BY version, position"
        ).fetchall()
        versions = [row[0] for row in db.execute("SELECT version FROM versions WHERE version > 0")]
    committed: Merges = {version: [] for version in versions}
    for version, task, samples, factor in rows:
        committed.setdefault(version, []).append((task, samples, factor))
    for version, items in sorted(committed.items()):
        wanted = decided.get(version)
        if wanted is None:
            return f"version {version} was committed and never decided"
        if [item for item in wanted if item in items] != items:
            return f"version {version} was committed as {items}, decided was {wanted}"
    return ""
