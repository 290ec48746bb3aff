"""The journal: what a coordinator must not forget, in one SQLite file.

`synchronous=FULL` with WAL: a commit that has returned survives a power cut. Actions are applied to the open
transaction in order, `commit` ends it; the service acknowledges nothing before. The rows are the truth of a run: they
are what recovery rebuilds the state from and what the audit recomputes the model from.
Snapshots of the exact master (version 0 and every tenth) lie in the same file and hence in the same transaction as
their version: there is no moment at which one is there without the other.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from coordinator import actions as a
from coordinator import merge, retention, rows
from coordinator.fresh import FRESH_BYTES_MAX, Fresh, FreshUpdates
from coordinator.merges import EMPTY, FEDAVG, Item, MergeSpec, State, pack_state, state_sha256
from coordinator.schema import JOURNAL_SCHEMA, TABLES
from wire.codecs import model as versions
from wire.codecs.arrays import Float32
from wire.codecs.model import Patterns

# Versions: one that can be rounded without the one before; recovery repeats nine merges at most.
SNAPSHOT_EVERY = versions.KEY_EVERY
BUSY_S = 5.0  # an audit may read while the run writes; WAL makes that short


class JournalError(Exception):
    """The journal cannot be used: it is another run's, another schema's, or damaged. Exit code 3."""


class JournalFull(Exception):
    """A write failed for want of space or of a working disk; nothing of the transaction is in the file."""


class Committed(msgspec.Struct, frozen=True):
    """What a `CommitVersion` made: the exact master, the server's state, and the version as its bit patterns."""

    version: int
    sha256: str
    master: Float32
    state: State
    patterns: Patterns
    refused: tuple[tuple[str, str], ...]
    round: int = 0


class _Steps(msgspec.Struct):
    steps: int = 1


def steps_of(report: str | None, samples: int, spec: MergeSpec) -> int:
    """The local steps that a recorded report claims, capped; 1 where the report was lost."""
    try:
        claimed = msgspec.json.decode(report or "null", type=_Steps | None)
    except msgspec.MsgspecError:
        claimed = None
    return spec.counted_steps(claimed.steps if claimed is not None else 1, samples)


# Where the values of a dense update begin: behind the header and the head of their stream (wire.codecs.payload).
VALUES_AT = 21
CACHE_LINE_BYTES = 64


def aligned(payload: bytes) -> memoryview:
    """The same bytes, at an address where the values of a dense update lie on a cache line: numbers that lie across
    words are read at half the speed."""
    lead = -VALUES_AT % CACHE_LINE_BYTES
    buffer = np.empty(len(payload) + 2 * CACHE_LINE_BYTES, np.uint8)
    # `buffer.ctypes` makes three objects to say the same.
    address: int = buffer.__array_interface__["data"][0]
    lead += -address % CACHE_LINE_BYTES
    view = buffer[lead : lead + len(payload)]
    view[:] = np.frombuffer(payload, np.uint8)
    view.flags.writeable = False
    return view.data


def sha256_of(vector: Float32) -> str:
    return hashlib.sha256(vector.astype("<f4", copy=False).tobytes()).hexdigest()


class Journal:
    """Opened for one run. Not safe for several threads: it belongs to the service's loop."""

    def __init__(self, path: Path, connection: sqlite3.Connection, wall: Callable[[], float]) -> None:
        self.path = path
        self.db = connection
        self._wall = wall
        self._fresh = FreshUpdates()

    @staticmethod
    def open(
        path: str | Path, *, run: str, plan_sha256: str, wall: Callable[[], float] = time.time
    ) -> Journal:
        """Open or make it. Raises JournalError when it is not this run's, JournalFull when the disk says no."""
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            db = connect(path)
            journal = Journal(path, db, wall)
            journal._prepare(run, plan_sha256)
        except sqlite3.DatabaseError as error:
            raise _explained(path, error) from error
        except OSError as error:
            raise JournalFull(f"{path}: {error}") from error
        return journal

    def _prepare(self, run: str, plan_sha256: str) -> None:
        fresh = not self.db.execute("SELECT name FROM sqlite_master WHERE name = 'meta'").fetchone()
        if fresh:
            self.db.execute("BEGIN IMMEDIATE")
            for statement in TABLES.split(";\n"):
                if statement.strip():
                    self.db.execute(statement)
            entries = {
                "schema": str(JOURNAL_SCHEMA),
                "run": run,
                "plan_sha256": plan_sha256,
                "epoch": "0",
                "noise_seed": str(secrets.randbits(127)),
            }
            self.db.executemany("INSERT INTO meta VALUES (?, ?)", entries.items())
            self.db.execute("COMMIT")
        for key, mine in (("schema", str(JOURNAL_SCHEMA)), ("run", run), ("plan_sha256", plan_sha256)):
            found = self.meta(key)
            if found != mine:
                raise JournalError(
                    f"{self.path} has {key} {found!r}, this run has {mine!r}. It is another run's journal: "
                    "move it away, or start the coordinator on the folder it belongs to"
                )

    def meta(self, key: str) -> str | None:
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def next_epoch(self) -> int:
        """Count this boot; durable when it returns."""
        with self.transaction():
            epoch = int(self.meta("epoch") or 0) + 1
            self.set_meta("epoch", str(epoch))
        return epoch

    def set_meta(self, key: str, value: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def memos(self, prefix: str) -> dict[str, str]:
        """What policies have learned (`JournalMemo`), by the rest of the key."""
        begin = f"memo/{prefix}"
        rows = self.db.execute("SELECT key, value FROM meta WHERE substr(key, 1, ?) = ?", (len(begin), begin))
        return {str(key)[len(begin) :]: str(value) for key, value in rows.fetchall()}

    def transaction(self) -> Transaction:
        return Transaction(self.db)

    # --- actions ---------------------------------------------------------------------------------------------

    def apply(self, action: a.JournalAction, payload: bytes = b"") -> None:
        """Write one action into the open transaction. `payload`: the bytes of a JournalUpdate."""
        match action:
            case a.JournalRound():
                self._round(action)
            case a.JournalTask():
                self.add_tasks([action])
            case a.JournalUpdate():
                self.add_updates([action], {action.sha256: payload})
            case a.JournalClose():
                self._close(action)
            case a.JournalEvaluation():
                self.db.execute(
                    "UPDATE versions SET accuracy = ?, loss = ? WHERE version = ?",
                    (action.accuracy, action.loss, action.version),
                )
            case a.JournalMemo():
                self.remember([action])
            case a.JournalFinish():
                self.set_meta("finished", action.reason)
            case _:
                raise TypeError(f"no rows for {type(action).__name__}")

    def _round(self, action: a.JournalRound) -> None:
        cohort = msgspec.json.encode(action.cohort).decode()
        row = (action.round, action.version, cohort, action.target, action.quorum, action.deadline_s)
        self.db.execute(
            "INSERT OR REPLACE INTO rounds (round, version, cohort, target, quorum, deadline_s, extensions)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, action.extensions),
        )

    def add_tasks(self, actions: Sequence[a.JournalTask]) -> None:
        made = [
            (x.task, x.agent, x.round, x.version, x.seed, x.deadline_s, int(x.task.rpartition("-t")[2]))
            for x in actions
        ]
        rows.insert(
            self.db, "INSERT INTO tasks (task, agent, round, version, seed, deadline_s, number)", made
        )

    def add_updates(self, actions: Sequence[a.JournalUpdate], payloads: Mapping[str, bytes]) -> None:
        """`payloads`: by their sha256."""
        made = []
        for x in actions:
            payload, report = payloads[x.sha256], msgspec.json.encode(x.report).decode()
            row = (x.task, x.agent, x.sha256, x.samples, x.position, report, x.defect, len(payload), payload)
            made.append(row)
            if len(payload) <= FRESH_BYTES_MAX:
                self._fresh.put(x.task, Fresh(x.sha256, aligned(payload), report))
        rows.insert(self.db, "INSERT INTO updates", made)

    def remember(self, actions: Sequence[a.JournalMemo]) -> None:
        """The last of each key counts."""
        made = {f"memo/{x.key}": x.value for x in actions}
        rows.insert(self.db, "INSERT OR REPLACE INTO meta", list(made.items()))

    def _close(self, action: a.JournalClose) -> None:
        self.db.execute(
            "UPDATE tasks SET state = ?, reason = ? WHERE task = ?",
            (action.state, action.reason, action.task),
        )
        if action.outcome is not None:
            self.db.execute(
                "INSERT INTO outcomes VALUES (?, ?, ?, NULL)", (action.task, action.outcome, action.reason)
            )

    # --- versions --------------------------------------------------------------------------------------------

    def begin_model(self, initial: Float32, patterns: Patterns) -> None:
        """Version 0, once."""
        self._version_row(0, versions.version_sha256(patterns), sha256_of(initial), EMPTY, 0, 0.0)
        self._snapshot(0, initial, EMPTY)

    def commit_version(
        self,
        action: a.CommitVersion,
        master: Float32,
        rounding: versions.Rounding | versions.Dtype,
        spec: MergeSpec = FEDAVG,
        state: State = EMPTY,
        before: Patterns | None = None,
    ) -> Committed:
        """Merge in the recorded order and write the version, its merges and outcomes. One transaction: the open one."""
        spec = self.spec_of(spec, action.version, action.server_lr)
        merged = merge.apply(master, self._items(action, spec), spec, state)
        patterns = versions.as_rounding(rounding).patterns(action.version, merged.master, before)
        name = versions.version_sha256(patterns)
        digest = sha256_of(merged.master)
        self._version_row(action.version, name, digest, merged.state, action.round, action.server_lr)
        self._merges(action, merged.refused)
        # What was left out the core settles, by a JournalClose of its own.
        refused = tuple((action.updates[position].task, why) for position, why in merged.refused.items())
        self.db.execute("UPDATE rounds SET closed = 1 WHERE round = ?", (action.round,))
        if action.version % SNAPSHOT_EVERY == 0:
            self._snapshot(action.version, merged.master, merged.state)
        # A version that differs from the one before in a share of its parameters cannot be told from a snapshot alone.
        anywhere = versions.as_rounding(rounding).share >= 1
        retention.trim(
            self.db,
            action.version,
            spec.rule.journal_bytes_max,
            (lambda: self._snapshot(action.version, merged.master, merged.state)) if anywhere else None,
        )
        return Committed(action.version, name, merged.master, merged.state, patterns, refused, action.round)

    def _merges(self, action: a.CommitVersion, refused: Collection[int]) -> None:
        made = [
            (action.version, position, x.task, x.samples, x.factor)
            for position, x in enumerate(action.updates)
            if position not in refused
        ]
        rows.insert(self.db, "INSERT INTO merges", made)
        mine = (action.version,)
        of_it = "SELECT task FROM merges WHERE version = ?"
        self.db.execute(f"UPDATE tasks SET state = 'merged' WHERE task IN ({of_it})", mine)
        self.db.execute(
            "INSERT INTO outcomes SELECT task, 'merged', '', version FROM merges WHERE version = ?", mine
        )

    def spec_of(self, spec: MergeSpec, version: int, server_lr: float) -> MergeSpec:
        """How this version is merged: the run's way, with what is the version's own."""
        seed = int(self.meta("noise_seed") or 0)
        return msgspec.structs.replace(spec, version=version, server_lr=server_lr, noise_seed=seed)

    def _items(self, action: a.CommitVersion, spec: MergeSpec) -> Iterator[Item]:
        """One update at a time: memory stays at one payload and what is fresh, whatever the cohort."""
        for item in action.updates:
            fresh = self._fresh.take(item.task, item.sha256)
            yield self._item(item.task, item.samples, item.factor, spec, fresh)

    def _item(
        self, task: str, samples: int, factor: float, spec: MergeSpec, fresh: Fresh | None = None
    ) -> Item:
        payload, report = (fresh.payload, fresh.report) if fresh is not None else self._update_of(task)
        return Item(payload, samples, factor, steps_of(report, samples, spec), task)

    def recorded_items(self, version: int, spec: MergeSpec) -> Iterator[Item]:
        """The list of a version as it was committed, one update at a time."""
        rows = self.db.execute(
            "SELECT task, samples, factor FROM merges WHERE version = ? ORDER BY position", (version,)
        )
        for task, samples, factor in rows.fetchall():
            yield self._item(task, samples, factor, spec)

    def payload(self, task: str) -> memoryview:
        return self._update_of(task)[0]

    def _update_of(self, task: str) -> tuple[memoryview, str | None]:
        """Bytes, held against their sha256, and report."""
        row = self.db.execute(
            "SELECT payload, sha256, report FROM updates WHERE task = ?", (task,)
        ).fetchone()
        if row is None:
            raise JournalError(f"{self.path} has no update of task {task}")
        if row[0] is None:
            raise JournalError(
                f"{self.path}: the bytes of task {task} were let go; a later snapshot has them"
            )
        if hashlib.sha256(row[0]).hexdigest() != row[1]:
            raise JournalError(f"{self.path}: the update of task {task} is not what its sha256 says")
        return aligned(row[0]), row[2]

    def _version_row(
        self, version: int, sha256: str, master: str, state: State, round_: int, server_lr: float
    ) -> None:
        self.db.execute(
            "INSERT INTO versions (version, sha256, master_sha256, state_sha256, round, server_lr, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (version, sha256, master, state_sha256(state), round_, server_lr, self._wall()),
        )

    def _snapshot(self, version: int, master: Float32, state: State) -> None:
        row = (version, sha256_of(master), master.astype("<f4", copy=False).tobytes(), pack_state(state))
        self.db.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?)", row)

    def close(self) -> None:
        self.db.close()


class Transaction:
    """`with journal.transaction():` commits at the end; an error rolls back. A failing disk raises JournalFull."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise JournalFull(str(error)) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is None:
            try:
                self._db.execute("COMMIT")
                return
            except sqlite3.OperationalError as failed:
                error = failed
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError):
            raise JournalFull(str(error)) from error


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection with the journal's settings, in explicit transactions."""
    if read_only:
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_S)
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
    # Of a new file. Updates are tens of kB and more: in pages of 4 kB they are chains of many, and take a tenth longer.
    db.execute("PRAGMA page_size = 16384")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    return db


def _explained(path: Path, error: sqlite3.DatabaseError) -> Exception:
    if isinstance(error, sqlite3.OperationalError):
        return JournalFull(f"{path}: {error}")
    return JournalError(f"{path} is no journal of this schema, or damaged: {error}")


def as_vector(blob: bytes) -> Float32:
    """A stored master as a fresh native float32 vector."""
    return np.frombuffer(blob, "<f4").astype(np.float32)
