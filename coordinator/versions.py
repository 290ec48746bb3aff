"""Versions that can be fetched: the current one, and those that open tasks name. At most `VERSIONS_LIVE_MAX`."""

from __future__ import annotations

from coordinator import actions as a
from coordinator import tasks
from coordinator.state import Task, TaskState
from coordinator.turn import Turn

S = TaskState


def named(turn: Turn) -> set[int]:
    return {task.version for task in turn.state.under_way}


def publish(turn: Turn, round_: int) -> None:
    """Make the newest version the current one; older ones stay while open tasks name them."""
    state = turn.state
    keep = sorted(named(turn) - {state.version})
    state.live = [*keep, state.version]
    turn.emit(a.PublishVersion(version=state.version, round=round_, keep=tuple(keep)))


def withdraw_unneeded(turn: Turn) -> None:
    state = turn.state
    if len(state.live) < 2:
        return
    needed = named(turn) | {state.version}
    for version in [v for v in state.live if v not in needed]:
        state.live.remove(version)
        turn.emit(a.WithdrawVersion(version=version))


def end_unreachable(turn: Turn) -> None:
    """After a restart: tasks of a version that the journal cannot lead back to have nothing to be sent again with."""
    state = turn.state
    for task in state.under_way:
        if state.reachable is not None and task.version not in state.reachable:
            tasks.close_task(turn, task, S.CANCELLED, f"version {task.version} is no longer there")


def describe_merged(turn: Turn, task: Task, share: float) -> dict[str, object]:
    """One row of a version for the history, as of before its commit counts."""
    age = tasks.staleness(turn, task)
    factor = share * (turn.policy.factor(age) or 0.0)
    return {
        "task": task.id,
        "agent": task.agent,
        "sha256": task.sha256,
        "weight": task.samples * factor,
        "samples": task.samples,
        "factor": factor,
        "version": task.version,
        "staleness": age,
    }
