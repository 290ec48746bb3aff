"""What the run is doing at this moment, as the core sees it: counted, with whom it waits for. Pure.

All times are seconds relative to the moment it was taken, so that they mean the same on every clock.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, field

from coordinator import survey, waiting
from coordinator.state import Agent, RunPhase, TaskState
from coordinator.turn import Turn


class Device(Struct, frozen=True):
    name: str
    online: bool
    task: str
    phase: str  # what it last said it does; empty without a task
    merged: int
    delivered: int
    lost: int
    charge: float | None  # None on mains


class Picture(Struct, frozen=True, kw_only=True):
    """`waiting` has whom, since when, until when, and what each one last said; `why` what it is all for."""

    run: str
    epoch: int
    state: str
    why: str
    round: int
    rounds: int
    version: int
    accuracy: float | None
    have: int = 0
    want: int = 0
    need: int = 0
    extensions: int = 0
    deadline_s: float | None = None  # until the round's; None without an open round
    waiting: list[dict[str, object]] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)  # that have no outcome yet, by state
    granted_bytes: int = 0
    reserved_bytes: int = 0


def take(turn: Turn) -> Picture:
    state, round_ = turn.state, turn.state.round
    have, want, need = waiting.needs(turn) or (0, 0, 0)
    return Picture(
        run=turn.config.run,
        epoch=state.epoch,
        state=state.phase.value if state.started else "starting",
        why=_why(turn),
        round=round_.number if round_ is not None else state.rounds_done,
        rounds=turn.config.rounds,
        version=state.version,
        accuracy=state.accuracy,
        have=have,
        want=want,
        need=need,
        extensions=round_.extensions if round_ is not None else 0,
        deadline_s=round(round_.deadline - turn.now, 1) if round_ is not None else None,
        waiting=[waiting.described(awaited) for awaited in _awaited(turn)],
        devices=[_device(turn, agent) for agent in state.agents.values()],
        tasks=dict(Counter(task.state.value for task in state.unended.values())),
        granted_bytes=state.granted_bytes,
        reserved_bytes=state.reserved_bytes,
    )


def _why(turn: Turn) -> str:
    state, now = turn.state, turn.now
    since = f"for {now - state.phase_since:.0f} s"
    match state.phase:
        case RunPhase.GATHERING:
            return f"agents of round {state.rounds_done + 1}, {since}"
        case RunPhase.PROBING:
            return f"losses that the selection of round {state.rounds_done + 1} goes by, {since}"
        case RunPhase.COLLECTING if state.round is not None and state.round.committing:
            return f"the commit of version {state.round.version + 1}"
        case RunPhase.COLLECTING:
            return f"updates of round {state.rounds_done + 1}, {since}"
        case RunPhase.EVALUATING:
            left = state.phase_since + turn.config.evaluation_wait_s - now
            return f"the evaluation of version {state.version}, {since}, at most {max(left, 0.0):.0f} s more"
        case RunPhase.SURVEYING:
            left = state.survey.deadline - now if state.survey is not None else 0.0
            return f"devices that test version {state.version}, {since}, at most {max(left, 0.0):.0f} s more"
        case RunPhase.FINISHING:
            left = state.phase_since + turn.config.finish_wait_s - now
            return f"agents that have to go, {since}, at most {max(left, 0.0):.0f} s more"
    return ""


def _awaited(turn: Turn) -> list[waiting.Awaited]:
    match turn.state.phase:
        case RunPhase.GATHERING:
            return waiting.absent(turn)
        case RunPhase.PROBING:
            return waiting.probed(turn)
        case RunPhase.COLLECTING:
            return waiting.owing(turn)
        case RunPhase.SURVEYING:
            return survey.owing(turn)
        case RunPhase.FINISHING:
            return waiting.leaving(turn)
    return []


def _device(turn: Turn, agent: Agent) -> Device:
    task = turn.state.tasks.get(agent.task)
    said = "received" if task is not None and task.state is TaskState.RECEIVED else task.phase if task else ""
    power = agent.power
    return Device(
        name=agent.name,
        online=agent.online,
        task=agent.task,
        phase=said,
        merged=agent.merged,
        delivered=agent.delivered,
        lost=agent.lost,
        charge=power.charge if power is not None else None,
    )
