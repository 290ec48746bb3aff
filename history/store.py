"""`run.sqlite`: the merged history and what follows from it, for questions that the report does not answer.

Derived data: the producers' files are the record, this can be written again from them. Times are seconds
since the run's first event (`at_s`), sizes bytes, rates bit/s.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from history.events import Event
from history.record import Record
from history.summary import DeviceSummary, Summary

STORE_SCHEMA = 2
STORE_NAME = "run.sqlite"

_SCHEMA = """
CREATE TABLE events (id INTEGER PRIMARY KEY, node TEXT NOT NULL, boot TEXT NOT NULL, seq INTEGER NOT NULL,
  mono_s REAL NOT NULL, wall_s REAL NOT NULL, at_s REAL NOT NULL, event TEXT NOT NULL, task TEXT, agent TEXT,
  round INTEGER, fields TEXT NOT NULL);
CREATE INDEX events_by_event ON events(event, mono_s);
CREATE INDEX events_by_node ON events(node, boot, seq);
CREATE INDEX events_by_task ON events(task) WHERE task IS NOT NULL;
CREATE TABLE runs (run TEXT PRIMARY KEY, name TEXT, verdict TEXT, runtime TEXT, seed INTEGER, topology_sha256
TEXT,
  started_at TEXT, wall_s REAL, rounds INTEGER, final_accuracy REAL, uplink_bytes INTEGER,
  uplink_bytes_float32 INTEGER, backend TEXT, summary TEXT NOT NULL, plan TEXT NOT NULL);
CREATE TABLE devices (name TEXT PRIMARY KEY, "group" TEXT, profile TEXT, cpu_requested REAL, cpu_effective
REAL,
  cpu_ok INTEGER, throttled_share REAL, peak_rss_mb REAL, updates_merged INTEGER, updates_discarded INTEGER,
  uplink_bytes INTEGER, uplink_bytes_sent INTEGER, downlink_bytes INTEGER, boots INTEGER, offline_s REAL);
CREATE TABLE links (device TEXT NOT NULL, direction TEXT NOT NULL, name TEXT, backend TEXT, quantity TEXT NOT
NULL,
  requested REAL, effective REAL, error REAL, ok INTEGER, PRIMARY KEY (device, direction, quantity));
CREATE TABLE rounds (round INTEGER PRIMARY KEY, base_version INTEGER, version INTEGER, opened_s REAL, closed_s
REAL,
  deadline_s REAL, quorum INTEGER, cohort TEXT, merged INTEGER, missing TEXT, reason TEXT);
CREATE TABLE tasks (task TEXT PRIMARY KEY, agent TEXT NOT NULL, round INTEGER, version INTEGER, opened_s REAL,
  offered_s REAL, granted_s REAL, received_s REAL, journalled_s REAL, acked_s REAL, closed_s REAL, state TEXT,
  reason TEXT);
CREATE INDEX tasks_by_agent ON tasks(agent);
CREATE TABLE updates (task TEXT PRIMARY KEY, agent TEXT NOT NULL, sha256 TEXT, bytes INTEGER, payload_bytes
INTEGER,
  float32_bytes INTEGER, chunks INTEGER, sent_payload_bytes INTEGER, resent_chunks INTEGER, agent_acked TEXT,
  merged_in INTEGER, weight REAL, discarded TEXT, discard_reason TEXT, report TEXT);
CREATE TABLE versions (version INTEGER, position INTEGER, sha256 TEXT, round INTEGER, committed_s REAL, task
TEXT,
  agent TEXT, update_sha256 TEXT, weight REAL, samples INTEGER, factor REAL, base_version INTEGER, staleness INTEGER);
CREATE INDEX versions_by_version ON versions(version, position);
CREATE TABLE evaluations (version INTEGER, round INTEGER, at_s REAL, accuracy REAL, loss REAL, samples
INTEGER,
  per_class TEXT, uplink_bytes INTEGER, f1 REAL, mse REAL, perplexity REAL, confusion TEXT);
CREATE TABLE faults (fault TEXT PRIMARY KEY, kind TEXT, targets TEXT, "trigger" TEXT, planned INTEGER,
  applied INTEGER, verified INTEGER, healed INTEGER, at_s REAL, lateness_s REAL, lasted_s REAL, overlapped
  INTEGER, detail TEXT);
CREATE TABLE lapses (what TEXT, node TEXT, requested TEXT, effective TEXT, detail TEXT, at_s REAL, source
TEXT); CREATE TABLE expectations (metric TEXT, op TEXT, value REAL, observed REAL, held INTEGER);
CREATE TABLE checks (name TEXT PRIMARY KEY, title TEXT, outcome TEXT, detail TEXT, problems TEXT);
"""

Row = Sequence[object]
_INTEGER_MAX = (1 << 63) - 1


def write_store(path: Path, events: list[Event], record: Record, summary: Summary) -> None:
    """Write the whole database beside its place and rename it there. Raises OSError or sqlite3.Error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = OFF")  # a crash leaves a temporary file, never half a database
            db.execute("PRAGMA synchronous = OFF")  # one fsync below, before the rename
            db.executescript(_SCHEMA)
            db.execute("BEGIN")
            _fill(db, events, record, summary)
            db.execute("COMMIT")
            db.execute(f"PRAGMA user_version = {STORE_SCHEMA}")
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def open_store(path: Path) -> sqlite3.Connection:
    """Read only. Raises sqlite3.Error, or ValueError for a database of another schema."""
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found != STORE_SCHEMA:
        db.close()
        raise ValueError(
            f"{path}: schema {found}, this version reads {STORE_SCHEMA}; `edgerig report` writes it again"
        )
    return db


def _fill(db: sqlite3.Connection, events: list[Event], record: Record, summary: Summary) -> None:
    _insert(db, "events", (_event_row(record, event) for event in events))
    _insert(db, "runs", [_run_row(record, summary)])
    _insert(db, "devices", (_device_row(device) for device in summary.devices))
    _insert(db, "links", (row for device in summary.devices for row in _link_rows(device)))
    _insert(db, "rounds", _round_rows(record))
    _insert(db, "tasks", _task_rows(record))
    _insert(db, "updates", _update_rows(record))
    _insert(db, "versions", _version_rows(record))
    _insert(db, "evaluations", _evaluation_rows(record, summary))
    _insert(db, "faults", (_flat(fault) for fault in summary.faults))
    _insert(db, "lapses", (_flat(lapse) for lapse in summary.lapses))
    _insert(db, "expectations", (_flat(item) for item in summary.expectations))
    _insert(db, "checks", (_flat(item) for item in summary.checks))


def _insert(db: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    columns = len(db.execute(f"PRAGMA table_info({table})").fetchall())
    db.executemany(
        f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})", ([*map(_held, row)] for row in rows)
    )


def _held(value: object) -> object:
    """An integer that SQLite cannot hold, as the nearest float."""
    return float(value) if isinstance(value, int) and abs(value) > _INTEGER_MAX else value


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _flat(item: msgspec.Struct) -> Row:
    """A struct's fields in their order, lists as JSON."""
    values = msgspec.structs.astuple(item)
    return [_json(value) if isinstance(value, tuple | list | dict) else value for value in values]


def _small(value: object) -> object:
    """Text, or an integer that SQLite can hold; else nothing (the whole is in `fields` anyway)."""
    if isinstance(value, str):
        return value
    return value if isinstance(value, int) and abs(value) <= _INTEGER_MAX else None


def _event_row(record: Record, event: Event) -> Row:
    at_s = event.mono_s - (record.began_at or 0.0)
    named = [_small(event.get(key)) for key in ("task", "agent", "round")]
    envelope = [event.node, event.boot, _small(event.seq), event.mono_s, event.wall_s, at_s, event.event]
    return [None, *envelope, *named, _json(event.fields)]


def _run_row(record: Record, summary: Summary) -> Row:
    head = [
        summary.run,
        summary.name,
        summary.verdict,
        summary.runtime,
        summary.seed,
        summary.topology_sha256,
    ]
    figures = [summary.started_at, summary.wall_s, summary.rounds, summary.final_accuracy]
    size = [summary.uplink_bytes, summary.uplink_bytes_float32, summary.emulation.backend]
    return [*head, *figures, *size, _json(summary), _json(record.plan)]


def _device_row(d: DeviceSummary) -> Row:
    cpu = [d.cpu_requested, d.cpu_effective, d.cpu_ok, d.throttled_share, d.peak_rss_mb]
    traffic = [d.updates_merged, d.updates_discarded, d.uplink_bytes, d.uplink_bytes_sent, d.downlink_bytes]
    return [d.name, d.group, d.profile, *cpu, *traffic, d.boots, d.offline_s]


def _link_rows(device: DeviceSummary) -> Iterable[Row]:
    for way, direction in (("up", device.link.up), ("down", device.link.down)):
        for quantity in ("rate_bit_s", "delay_s", "jitter_s", "loss"):
            values = [
                getattr(part, quantity, None)
                for part in (direction.requested, direction.effective, direction.error)
            ]
            yield [device.name, way, device.link.name, device.link.backend, quantity, *values, direction.ok]


def _at(record: Record, at: float | None) -> float | None:
    return None if at is None else round(record.since(at), 6)


def _round_rows(record: Record) -> Iterable[Row]:
    for r in record.rounds.values():
        times = [_at(record, r.opened_at), _at(record, r.closed_at), r.deadline_s, r.quorum]
        yield [
            r.number,
            r.base_version,
            r.version,
            *times,
            _json(r.cohort),
            r.merged,
            _json(r.missing),
            r.reason,
        ]


def _task_rows(record: Record) -> Iterable[Row]:
    for t in record.tasks.values():
        moments = (
            t.opened_at,
            t.offered_at,
            t.granted_at,
            t.received_at,
            t.journalled_at,
            t.acked_at,
            t.closed_at,
        )
        yield [t.id, t.agent, t.round, t.version, *(_at(record, at) for at in moments), t.state, t.reason]


def _update_rows(record: Record) -> Iterable[Row]:
    for t in record.tasks.values():
        if not (t.received or t.agent_acked or t.merged_in or t.discarded):
            continue
        sizes = [t.bytes, t.payload_bytes, t.raw_bytes or record.parameters * 4, t.chunks]
        agent = [t.sent_payload_bytes, t.resent_chunks, _json(sorted(t.agent_acked))]
        fate = [t.merged_in[0] if t.merged_in else None, t.weight, t.discarded, t.discard_reason]
        yield [t.id, t.agent, t.sha256, *sizes, *agent, *fate, _json(t.report)]


def _version_rows(record: Record) -> Iterable[Row]:
    """A row per merged update, in the order of the merge; a version without any has one row with position
    NULL.
    """
    for v in record.versions:
        head, at = [v.sha256, v.round], _at(record, v.committed_at)
        if not v.updates:
            yield [v.version, None, *head, at, *[None] * 8]
        for position, u in enumerate(v.updates):
            counted = [u.weight, u.samples, u.factor, u.base_version, u.staleness]
            yield [v.version, position, *head, at, u.task, u.agent, u.sha256, *counted]


def _evaluation_rows(record: Record, summary: Summary) -> Iterable[Row]:
    ordered = sorted(record.evaluations, key=lambda e: (e.version, e.at))
    for e, point in zip(ordered, summary.accuracy, strict=True):
        yield [
            e.version,
            e.round,
            point.at_s,
            e.accuracy,
            e.loss,
            e.samples,
            _json(e.per_class),
            point.uplink_bytes,
            *(e.metrics.get(name) for name in ("f1", "mse", "perplexity")),
            _json(e.confusion),
        ]
