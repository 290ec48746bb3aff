"""From the journal back to a running coordinator: the master, the live versions, the core's state.

Whatever is in the journal has happened, whatever is not has not. Tasks without an update go back to `open` (their
agents say in their hellos how far they are), updates without an outcome are `acked` and wait for their round, rounds
that are not closed go on.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

import msgspec

from coordinator import merge
from coordinator.adaptive import UplinkRate
from coordinator.config import SETTLED_KEPT_PER_AGENT, CoordinatorConfig
from coordinator.core import fresh_state
from coordinator.journal import Journal, JournalError, as_vector, sha256_of
from coordinator.merges import EMPTY, FEDAVG, MergeSpec, State, state_sha256, unpack_state
from coordinator.policies import Timings
from coordinator.policies.selection import statistical_utility
from coordinator.state import (
    FINAL,
    LOST,
    UNDER_WAY,
    CoordinatorState,
    ProbedLoss,
    Round,
    RunPhase,
    Task,
    TaskState,
    Tiers,
)
from wire.codecs import model as versions
from wire.codecs.arrays import Float32
from wire.codecs.model import Patterns
from wire.messages import Report

S = TaskState


class Model(NamedTuple):
    """`recent`: the patterns of the last versions, oldest first; the last one is the current version."""

    master: Float32
    recent: tuple[tuple[int, Patterns], ...]
    state: State = EMPTY


def restore_model(
    journal: Journal,
    rounding: versions.Rounding | versions.Dtype,
    keep: int,
    spec: MergeSpec = FEDAVG,
    also: frozenset[int] = frozenset(),
) -> Model | None:
    """Snapshot plus merges, compared with the recorded sha256 of every step. None for a journal without version 0.

    `also`: older versions wanted beside the last `keep`; those that the journal no longer leads to are left out.
    Raises JournalError when the recorded versions cannot be reached.
    """
    last = journal.db.execute("SELECT max(version) FROM versions").fetchone()[0]
    if last is None:
        return None
    row = journal.db.execute(
        "SELECT version, sha256, master, state FROM snapshots WHERE version <= ? ORDER BY version DESC LIMIT 1",
        (max(min({max(0, last - keep + 1), *also}), _first_replayable(journal)),),
    ).fetchone()
    if row is None:
        raise JournalError(f"{journal.path} has versions but no snapshot to start from")
    version, master = row[0], as_vector(row[2])
    if sha256_of(master) != row[1]:
        raise JournalError(f"{journal.path}: the snapshot of version {version} is damaged")
    state = _state_of(journal, version, row[3])
    recent: deque[tuple[int, Patterns]] = deque(maxlen=keep)
    older: list[tuple[int, Patterns]] = []
    rounding = versions.as_rounding(rounding)
    recent.append((version, rounding.patterns(version, master, None)))
    while version < last:
        version += 1
        master, state = next_model(journal, version, master, state, spec)
        if len(recent) == keep and recent[0][0] in also:
            older.append(recent[0])
        recent.append((version, rounding.patterns(version, master, recent[-1][1])))
    _expect(journal, version, versions.version_sha256(recent[-1][1]), "sha256")
    return Model(master, (*older, *recent), state)


def named_versions(journal: Journal) -> frozenset[int]:
    """What tasks without an update were opened on: their agents may still have to fetch it."""
    rows = journal.db.execute(
        "SELECT DISTINCT version FROM tasks WHERE state = 'open' AND task NOT IN (SELECT task FROM updates)"
    )
    return frozenset(row[0] for row in rows.fetchall())


def _first_replayable(journal: Journal) -> int:
    """The oldest snapshot from which every later version can be repeated: older bytes were let go."""
    return int(
        journal.db.execute(
            "SELECT coalesce(min(version), 0) FROM snapshots WHERE version >= (SELECT coalesce(max(m.version), 0)"
            " FROM merges m JOIN updates u ON u.task = m.task WHERE u.payload IS NULL)"
        ).fetchone()[0]
    )


def _state_of(journal: Journal, version: int, packed: bytes) -> State:
    try:
        state = unpack_state(packed)
    except (msgspec.MsgspecError, ValueError) as error:
        raise JournalError(
            f"{journal.path}: the server state of version {version} is damaged: {error}"
        ) from None
    _expect(journal, version, state_sha256(state), "state_sha256")
    return state


def next_model(
    journal: Journal, version: int, master: Float32, state: State, spec: MergeSpec
) -> tuple[Float32, State]:
    """Repeat the merge of `version` from its recorded list. Raises JournalError when its sha256 is not met."""
    row = journal.db.execute("SELECT server_lr FROM versions WHERE version = ?", (version,)).fetchone()
    if row is None:
        raise JournalError(f"{journal.path} has no version {version}")
    spec = journal.spec_of(spec, version, row[0])
    merged = merge.apply(master, journal.recorded_items(version, spec), spec, state)
    if merged.refused:
        raise JournalError(
            f"{journal.path}: version {version} has updates that cannot be merged: {merged.refused}"
        )
    _expect(journal, version, sha256_of(merged.master), "master_sha256")
    _expect(journal, version, state_sha256(merged.state), "state_sha256")
    return merged.master, merged.state


def _expect(journal: Journal, version: int, found: str, column: str) -> None:
    row = journal.db.execute(f"SELECT {column} FROM versions WHERE version = ?", (version,)).fetchone()
    if row is None or row[0] != found:
        raise JournalError(
            f"{journal.path}: version {version} comes out as {found[:12]}, recorded is {row and row[0][:12]}"
        )


def restore_state(
    journal: Journal, config: CoordinatorConfig, reachable: frozenset[int] | None = None
) -> CoordinatorState:
    """The core's state as of the last commit. Times are set by the core when it starts.

    `reachable`: versions of which `restore_model` has a copy; tasks of others cannot go on.
    """
    state = fresh_state(config)
    state.reachable = reachable
    db = journal.db
    state.epoch = int(journal.meta("epoch") or 1)
    version = db.execute(
        "SELECT version, sha256, round FROM versions ORDER BY version DESC LIMIT 1"
    ).fetchone()
    if version is not None:
        state.version, state.version_sha256, state.rounds_done = version
    evaluated = db.execute(
        "SELECT version, accuracy FROM versions WHERE loss IS NOT NULL ORDER BY version DESC LIMIT 1"
    ).fetchone()
    if evaluated is not None:
        state.evaluated_version, state.accuracy = evaluated
        first = "SELECT accuracy FROM versions WHERE accuracy IS NOT NULL ORDER BY version LIMIT 1"
        state.first_accuracy = (db.execute(first).fetchone() or (None,))[0]
        target = config.stop_at_accuracy
        met = target is not None and evaluated[1] is not None and evaluated[1] >= target
        state.target_met = met and state.evaluated_version > 0
    state.tasks_made = db.execute("SELECT coalesce(max(number), 0) FROM tasks").fetchone()[0]
    state.positions_made = db.execute("SELECT coalesce(max(position) + 1, 0) FROM updates").fetchone()[0]
    state.finish_reason = journal.meta("finished") or ""
    state.round = _open_round(journal)
    if state.round is not None:
        state.phase = RunPhase.COLLECTING
    for agent in config.agents:
        _restore_tasks(journal, state, agent)
    if state.round is not None:
        _list_tasks(journal, state.round)
    _restore_agents(journal, state)
    return state


def _restore_agents(journal: Journal, state: CoordinatorState) -> None:
    """What policies go by: when each had its last task, what was merged of it, how fast it is."""
    last = journal.db.execute("SELECT agent, max(number) FROM tasks GROUP BY agent").fetchall()
    merged = journal.db.execute(
        "SELECT t.agent, count(*) FROM merges m JOIN tasks t ON t.task = m.task GROUP BY t.agent"
    ).fetchall()
    for name, number in last:
        if name in state.agents:
            state.agents[name].last_task = number
    for name, count in merged:
        if name in state.agents:
            state.agents[name].merged = count
    _restore_selection(journal, state)
    for name, value in journal.memos("timings/").items():
        if name in state.agents:
            state.agents[name].timings = msgspec.json.decode(value, type=Timings)
    for value in journal.memos("tiers/").values():
        state.tiers = msgspec.json.decode(value, type=Tiers)
    for name, value in journal.memos("loss/").items():
        if name in state.agents:
            state.agents[name].probed = msgspec.json.decode(value, type=ProbedLoss)
    for name, value in journal.memos("uplink/").items():
        if name in state.agents:
            state.agents[name].uplink = msgspec.json.decode(value, type=UplinkRate)


def _restore_selection(journal: Journal, state: CoordinatorState) -> None:
    """What was counted and reported: as `coordinator.tasks` keeps it while we live."""
    for name, ended, count in journal.db.execute(
        "SELECT agent, state, count(*) FROM tasks GROUP BY agent, state"
    ):
        if name in state.agents and ended in LOST:
            state.agents[name].lost += count
    loss = "json_extract(u.report, '$.loss')"
    # Of the newest update of each; SQLite takes the other columns from the row of the maximum.
    last = f"SELECT u.agent, count(*), max(u.position), u.samples, {loss}, t.round"
    rows = journal.db.execute(f"{last} FROM updates u JOIN tasks t ON t.task = u.task GROUP BY u.agent")
    for name, count, _position, samples, value, round_ in rows.fetchall():
        if name in state.agents:
            agent = state.agents[name]
            agent.delivered, agent.used_round = count, round_
            agent.utility = statistical_utility(samples, value)
    merged: dict[int, list[float]] = {version: [] for version in range(1, state.version + 1)}
    for version, samples, value in journal.db.execute(
        f"SELECT m.version, u.samples, {loss} FROM merges m JOIN updates u ON u.task = m.task"
    ):
        merged[version].append(statistical_utility(samples, value))
    state.gains = [math.fsum(merged[version]) for version in sorted(merged)]


def _open_round(journal: Journal) -> Round | None:
    if journal.meta("finished"):
        return None
    row = journal.db.execute(
        "SELECT round, version, cohort, target, quorum, deadline_s, extensions FROM rounds WHERE closed = 0"
        " ORDER BY round DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    return Round(
        number=row[0],
        version=row[1],
        cohort=msgspec.json.decode(row[2], type=list[str]),
        target=row[3],
        quorum=row[4],
        deadline_s=row[5],
        extensions=row[6],
        opened=0.0,
        deadline=row[5],
    )


def _list_tasks(journal: Journal, round_: Round) -> None:
    rows = journal.db.execute(
        "SELECT t.task, t.agent, u.defect FROM tasks t LEFT JOIN updates u ON u.task = t.task"
        " WHERE t.round = ? ORDER BY t.number",
        (round_.number,),
    )
    for task, agent, defect in rows.fetchall():
        round_.tasks.append(task)
        if defect != "":  # no update, or one that cannot be merged
            round_.attempts[agent] = round_.attempts.get(agent, 0) + 1


_TASKS = """
SELECT t.task, t.agent, t.round, t.version, t.seed, t.deadline_s, t.state, t.reason,
       u.sha256, u.samples, u.position, u.report, u.defect, u.bytes, o.version
FROM tasks t LEFT JOIN updates u ON u.task = t.task LEFT JOIN outcomes o ON o.task = t.task
WHERE t.agent = ? ORDER BY t.number DESC LIMIT ?
"""


def _restore_tasks(journal: Journal, state: CoordinatorState, agent: str) -> None:
    """The newest of one agent: at most one under way, a few acked, and those it may still ask for."""
    rows = journal.db.execute(_TASKS, (agent, SETTLED_KEPT_PER_AGENT + 2)).fetchall()
    for row in reversed(rows):
        task = _restored(row)
        if task.state in FINAL:
            settled = state.agents[agent].settled
            if len(settled) == settled.maxlen:
                state.tasks.pop(settled[0], None)
            settled.append(task.id)
        else:
            state.unended[task.id] = task
        if task.state in UNDER_WAY:
            state.agents[agent].task = task.id
        state.tasks[task.id] = task


def _restored(row: tuple[Any, ...]) -> Task:
    task = Task(
        id=row[0], agent=row[1], round=row[2], version=row[3], seed=row[4], deadline=row[5], reason=row[7]
    )
    if row[8] is not None:
        task.sha256, task.samples, task.position, task.defect, task.bytes = (
            row[8],
            row[9],
            row[10],
            row[12],
            row[13],
        )
        task.report = msgspec.json.decode(row[11], type=Report | None)
    task.state = TaskState(row[6])
    if task.state is S.OPEN and row[8] is not None:
        task.state = S.ACKED  # its commit returned; whether the ack was still sent, the next hello shows
    if task.state is S.MERGED:
        task.version_merged = row[14]
    task.story.append(f"restored as {task.state}")
    return task
