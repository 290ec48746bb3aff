"""Recompute a run from its journal and hold every witness against it.

    audit(root) -> AuditResult        python -m coordinator.audit RUN      exit code 0, or 1 with the problems

Checked, each on its own, so that one forged place cannot hide behind another:
- every update's bytes against its sha256, its order of arrival and its weight against its samples;
- every version recomputed from the nearest snapshot, master and published bits compared by sha256;
- versions without a gap, merged once, every acked update with an outcome;
- the coordinator's history: the versions it says it committed, the control variates it says it published;
- the agents' histories: what they saw acked must be in the journal with the same bytes, and what they were told became
  of it must be what the journal says.
The journal is copied before it is opened: an audit never writes to its evidence.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import MsgspecError, Struct, structs

from coordinator import controls, merge
from coordinator.journal import as_vector, connect, sha256_of, steps_of
from coordinator.merges import EMPTY, FEDAVG, Item, MergeSpec, State, state_sha256, unpack_state
from coordinator.merging import merge_spec, statistics_of
from coordinator.retention import stretches
from coordinator.schema import JOURNAL_SCHEMA
from coordinator.witnesses import Witnesses
from history.reader import read_history
from topology.plan import load_plan
from wire.codecs import CodecError
from wire.codecs import model as versions
from wire.codecs.arrays import Float32
from wire.topics import COORDINATOR

PROBLEMS_MAX = 200  # a broken file would name thousands; the first ones say enough


class AuditResult(Struct, frozen=True, kw_only=True):
    """`versions`: how many were recomputed bit for bit. `acked`: how many acks of agents were compared.

    `not_recomputed`: versions whose updates were let go (`merge.journal_bytes_max`), as (first, last) of each stretch;
    a later snapshot stands for them. `unverified`: where a history bears no witness for or against
    the journal.
    """

    ok: bool
    versions: int
    updates: int
    acked: int
    problems: tuple[str, ...]
    not_recomputed: tuple[tuple[int, int], ...] = ()
    unverified: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """A sentence about what was let go; empty if nothing was."""
        if not self.not_recomputed:
            return ""
        ranges = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in self.not_recomputed)
        return f"versions {ranges} cannot be recomputed: their updates were let go (merge.journal_bytes_max)"


class Known(NamedTuple):
    """The exact model of a version."""

    master: Float32
    state: State


def _names(model: Known) -> tuple[str, str]:
    return sha256_of(model.master), state_sha256(model.state)


def _state(packed: bytes) -> State:
    try:
        return unpack_state(packed)
    except (MsgspecError, ValueError):
        return EMPTY  # its sha256 says so


class Audit:
    """One pass over one journal; problems are collected, not raised."""

    def __init__(self, db: sqlite3.Connection, rounding: versions.Rounding, spec: MergeSpec = FEDAVG) -> None:
        self._db, self._rounding, self._spec = db, rounding, spec
        self._before: versions.Patterns | None = None  # of the last version that was recomputed
        self.problems: list[str] = []
        self.controls: dict[int, str] = {}  # what was published beside a version, by its sha256
        self.recomputed = 0
        self.skipped: list[int] = []

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._db.execute(query, values).fetchall()

    def note(self, problem: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)

    # --- the journal against itself ----------------------------------------------------------------------------

    def check_updates(self) -> int:
        count = 0
        for task, sha256, payload in self._db.execute("SELECT task, sha256, payload FROM updates"):
            count += 1
            if payload is not None and hashlib.sha256(payload).hexdigest() != sha256:
                self.note(f"update {task}: its bytes are not what its sha256 says")
        return count

    def check_let_go(self) -> None:
        """Bytes may be missing only where the topology allows it, oldest first, and under a snapshot."""
        newest = self.rows("SELECT coalesce(max(version), 0) FROM snapshots")[0][0]
        for task, version in self.rows(
            "SELECT u.task, o.version FROM updates u LEFT JOIN outcomes o ON o.task = u.task"
            " WHERE u.payload IS NULL AND (o.task IS NULL OR coalesce(o.version, 0) > ?)",
            newest,
        ):
            self.note(
                f"update {task}: its bytes are gone, and no snapshot holds what it did (version {version})"
            )
        total, held = self.rows(
            "SELECT coalesce(sum(bytes), 0), coalesce(sum(CASE WHEN payload IS NULL THEN 0 ELSE bytes END), 0)"
            " FROM updates"
        )[0]
        if total != held and total <= self._spec.rule.journal_bytes_max:
            self.note(
                f"{total - held} bytes of updates are gone, although all {total} fit into journal_bytes_max"
            )

    def check_order_of_letting_go(self) -> None:
        """Oldest first: what is gone had no elder of its own or an earlier version left."""
        kept = 1 << 62  # the earliest version of which an elder is kept
        for task, version, gone in self.rows(
            "SELECT u.task, m.version, u.payload IS NULL FROM updates u JOIN merges m ON m.task = u.task"
            " ORDER BY u.position"
        ):
            if gone and kept <= version:
                self.note(
                    f"update {task}: its bytes are gone, those of an older one of version {kept} are not"
                )
            elif not gone:
                kept = min(kept, version)

    def check_outcomes(self) -> None:
        for task, outcome in self.rows(
            "SELECT o.task, o.outcome FROM outcomes o LEFT JOIN updates u ON u.task = o.task WHERE u.task IS NULL"
        ):
            self.note(f"update {task}: it has the outcome {outcome}, but the update itself is gone")
        for (task,) in self.rows(
            "SELECT o.task FROM outcomes o LEFT JOIN merges m ON m.task = o.task"
            " WHERE o.outcome = 'merged' AND (m.task IS NULL OR m.version IS NOT o.version)"
        ):
            self.note(f"update {task}: it counts as merged, but not in the version its outcome names")
        finished = bool(self.rows("SELECT 1 FROM meta WHERE key = 'finished'"))
        unsettled = self.rows(
            "SELECT u.task FROM updates u LEFT JOIN outcomes o ON o.task = u.task WHERE o.task IS NULL"
        )
        for (task,) in unsettled if finished else []:
            self.note(f"update {task}: acked, and the run ended without an outcome for it")

    def check_merges(self) -> None:
        """Weights and order, beside the bits: equal updates could be swapped without changing a bit."""
        last: tuple[int, int] = (-1, -1)
        for version, position, task, counted, samples, arrived, outcome, defect in self.rows(
            "SELECT m.version, m.position, m.task, m.samples, u.samples, u.position, o.outcome, u.defect"
            " FROM merges m LEFT JOIN updates u ON u.task = m.task LEFT JOIN outcomes o ON o.task = m.task"
            " ORDER BY m.version, m.position"
        ):
            where = f"version {version}, place {position}"
            if samples is None:
                self.note(f"{where}: the update of {task} is gone")
                continue
            if counted != samples:
                self.note(f"{where}: {task} counts with {counted} samples, its update has {samples}")
            if (version, arrived) < last:
                self.note(f"{where}: {task} stands behind an update that arrived after it")
            if outcome != "merged" or defect:
                self.note(f"{where}: {task} is in it, its outcome is {outcome} {defect}")
            last = (version, arrived)

    # --- versions --------------------------------------------------------------------------------------------

    def check_versions(self) -> None:
        numbers = [number for (number,) in self.rows("SELECT version FROM versions ORDER BY version")]
        for missing in sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers)):
            self.note(f"version {missing} is missing")
        if not numbers:
            self.note("there is no version at all")
        for version, count in self.rows(
            "SELECT m.version, count(*) FROM merges m LEFT JOIN versions v ON v.version = m.version"
            " WHERE v.version IS NULL GROUP BY m.version"
        ):
            self.note(f"{count} merges belong to version {version}, which is missing")
        model: Known | None = None
        for version in numbers:
            model = self._recompute(version, model)

    def _recompute(self, version: int, before: Known | None) -> Known | None:
        """The model of `version`, or None when it cannot be had from here; a later snapshot may help."""
        snapshot = self._snapshot(version)
        row = self.rows(
            "SELECT sha256, master_sha256, state_sha256, server_lr FROM versions WHERE version = ?", version
        )[0]
        if snapshot is not None and _names(snapshot) != (row[1], row[2]):
            self.note(f"version {version}: its snapshot is another model than the recorded one")
        # Its updates were let go, or they are here and those of the version before are not.
        if version > 0 and (self._let_go(version) or (before is None and self.skipped)):
            self.skipped.append(version)
            self._before = None
            if snapshot is not None:
                self._published(version, snapshot.master)  # what the next version is rounded against
            return snapshot
        model = snapshot
        if version > 0:
            computed = self._merged(version, before, row[3]) if before is not None else None
            if before is None:
                self.note(f"version {version} cannot be recomputed: the version before it is not known")
            model = computed if computed is not None else snapshot
        if model is None:
            return None
        if _names(model) != (row[1], row[2]) or self._published(version, model.master) != row[0]:
            found = sha256_of(model.master)
            what = f"comes out as {found[:12]}, recorded is {row[1][:12]}"
            self.note(
                f"version {version} {what if found != row[1] else 'comes out with another server state'}"
            )
            return snapshot
        self.recomputed += 1
        self._note_control(version, model)
        return model

    def _note_control(self, version: int, model: Known) -> None:
        dtype = self._rounding.dtype
        control = controls.published(self._spec.rule, model.state, model.master.size, dtype)
        if control is not None:
            self.controls[version] = versions.version_sha256(control)

    def _let_go(self, version: int) -> bool:
        return bool(
            self.rows(
                "SELECT 1 FROM merges m JOIN updates u ON u.task = m.task"
                " WHERE m.version = ? AND u.payload IS NULL LIMIT 1",
                version,
            )
        )

    def _published(self, version: int, master: Float32) -> str:
        try:
            self._before = self._rounding.patterns(version, master, self._before)
            return versions.version_sha256(self._before)
        except CodecError:
            return ""

    def _merged(self, version: int, before: Known, server_lr: float) -> Known:
        seed = self.rows("SELECT value FROM meta WHERE key = 'noise_seed'")
        spec = structs.replace(
            self._spec, server_lr=server_lr, version=version, noise_seed=int(seed[0][0]) if seed else 0
        )
        merged = merge.apply(before.master, self._items(version, spec), spec, before.state)
        for index, reason in merged.refused.items():
            self.note(f"version {version}: its update number {index} cannot be merged: {reason}")
        return Known(merged.master, merged.state)

    def _items(self, version: int, spec: MergeSpec) -> Iterator[Item]:
        rows = self._db.execute(
            "SELECT u.payload, m.samples, m.factor, u.report FROM merges m JOIN updates u ON u.task = m.task"
            " WHERE m.version = ? ORDER BY m.position",
            (version,),
        )
        for payload, samples, factor, report in rows:
            yield Item(payload, samples, factor, steps_of(report, samples, spec))

    def _snapshot(self, version: int) -> Known | None:
        found = self.rows("SELECT sha256, master, state FROM snapshots WHERE version = ?", version)
        if not found:
            if version == 0:
                self.note("the initial model is gone")
            return None
        model = Known(as_vector(found[0][1]), _state(found[0][2]))
        if sha256_of(model.master) != found[0][0]:
            self.note(f"the snapshot of version {version} is damaged")
        return model


@contextmanager
def copied(journal: Path) -> Iterator[sqlite3.Connection]:
    """A journal opened on a copy of it: nothing done to evidence."""
    with tempfile.TemporaryDirectory(prefix="edgerig-audit-") as folder:
        for suffix in ("", "-wal"):
            source = journal.with_name(journal.name + suffix)
            if source.exists():
                shutil.copyfile(source, Path(folder) / source.name)
        db = connect(Path(folder) / journal.name)
        try:
            yield db
        finally:
            db.close()


def audit(root: str | Path) -> AuditResult:
    """Audit the run in `root`. What cannot be read at all is a problem too, never an exception."""
    root = Path(root)
    journal = root / "nodes" / COORDINATOR / "journal.sqlite"
    if not journal.exists():
        return _unreadable(f"{journal} is not there")
    try:
        plan = load_plan(root / "plan.json")
        spec = merge_spec(plan, *statistics_of(root / "model" / "artifact.bin"))
        with copied(journal) as db:
            return _audit(root, Audit(db, plan.compression.downlink.rounding, spec))
    except (OSError, ValueError, sqlite3.DatabaseError) as error:
        return _unreadable(f"{type(error).__name__}: {error}")


def _audit(root: Path, work: Audit) -> AuditResult:
    schema = work.rows("SELECT value FROM meta WHERE key = 'schema'")
    if not schema or schema[0][0] != str(JOURNAL_SCHEMA):
        return _unreadable(f"journal schema {schema}, this version reads {JOURNAL_SCHEMA}")
    updates = work.check_updates()
    work.check_let_go()
    work.check_order_of_letting_go()
    work.check_outcomes()
    work.check_merges()
    work.check_versions()
    history = read_history(root)
    witnesses = Witnesses(work.rows, work.note, work.controls)
    witnesses.check_readable(history.defects)
    acked = witnesses.check_history(history.events)
    if not any(event.node == COORDINATOR for event in history.events):
        work.note("the coordinator's history is missing or empty: nothing bears witness for the journal")
    return AuditResult(
        ok=not work.problems,
        versions=work.recomputed,
        updates=updates,
        acked=acked,
        problems=tuple(work.problems),
        not_recomputed=stretches(work.skipped),
        unverified=tuple(islice(witnesses.unverified(history.defects), PROBLEMS_MAX)),
    )


def _unreadable(problem: str) -> AuditResult:
    return AuditResult(ok=False, versions=0, updates=0, acked=0, problems=(problem,))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m coordinator.audit RUN", file=sys.stderr)
        return 2
    result = audit(arguments[0])
    for problem in result.problems:
        print(f"audit: {problem}")
    for limit in (*filter(None, [result.missing]), *result.unverified):
        print(f"audit: {limit}")
    verdict = "nothing is amiss" if result.ok else f"{len(result.problems)} problems"
    print(
        f"audit: {result.versions} versions recomputed, {result.updates} updates, {result.acked} acks: {verdict}"
    )
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
