"""Why the run is waiting: for whom, since when, until when, and what each one last said. Recorded now and then.

All times are seconds relative to the event, so that they mean the same on every clock.
"""

from __future__ import annotations

from typing import NamedTuple

from coordinator.config import CoordinatorConfig
from coordinator.policies import Policy
from coordinator.state import CoordinatorState, Task
from coordinator.turn import Turn


class Awaited(NamedTuple):
    """Whom we wait for: in this phase for how long already, and for how long at most from now."""

    agent: str
    phase: str
    since_s: float
    until_s: float
    task: str = ""
    version: int | None = None  # it trains on
    heard_s: float | None = None  # since its last sign


def next_record(state: CoordinatorState, policy: Policy, config: CoordinatorConfig) -> float:
    """When it is due. A round that waits for its cohort has just told all; a stream of versions never pauses."""
    since = state.waiting_recorded
    if state.round is not None and (not policy.streams or since == float("-inf")):
        since = max(since, state.round.opened)
    return since + config.waiting_every_s


def record_waiting(turn: Turn) -> None:
    """In an open round: every task under way, of whichever round."""
    state, round_ = turn.state, turn.state.round
    if round_ is None:
        return
    if turn.now < next_record(state, turn.policy, turn.config):
        return
    state.waiting_recorded = turn.now
    awaited = owing(turn)
    if awaited:
        record_waiting_for(turn, round_.number, awaited)


def owing(turn: Turn) -> list[Awaited]:
    """Those with a task under way."""
    return [_awaited(turn, task) for task in turn.state.under_way]


def absent(turn: Turn) -> list[Awaited]:
    """Those that are not there, while a round waits for agents; it gives up after twice the start's timeout."""
    state = turn.state
    return _gone(turn, "absent", state.phase_since + 2 * turn.config.start_timeout_s - turn.now, online=False)


def probed(turn: Turn) -> list[Awaited]:
    """Those whose loss the selection of the next round waits for."""
    probe = turn.state.probe
    if probe is None:
        return []
    left_s, since_s = probe.deadline - turn.now, turn.now - probe.since
    return [
        Awaited(name, "probing", since_s, left_s, probe.task, probe.version, turn.now - heard)
        for name, heard in sorted(probe.owing.items())
    ]


def record_probed(turn: Turn) -> None:
    state, probe = turn.state, turn.state.probe
    if probe is None or turn.now < max(state.waiting_recorded, probe.since) + turn.config.waiting_every_s:
        return
    state.waiting_recorded = turn.now
    record_waiting_for(turn, probe.round, probed(turn))


def leaving(turn: Turn) -> list[Awaited]:
    """Those that are still there after the run's end."""
    state = turn.state
    return _gone(turn, "leaving", state.phase_since + turn.config.finish_wait_s - turn.now, online=True)


def _gone(turn: Turn, phase: str, left_s: float, *, online: bool) -> list[Awaited]:
    state = turn.state
    return [
        Awaited(agent.name, phase, turn.now - (state.phase_since if online else agent.away_since), left_s)
        for agent in sorted(state.agents.values(), key=lambda agent: agent.name)
        if agent.online is online
    ]


def _awaited(turn: Turn, task: Task) -> Awaited:
    agent, round_ = turn.state.agents[task.agent], turn.state.round
    ends = [task.expires, task.deadline if turn.policy.streams or round_ is None else round_.deadline]
    if round_ is not None and task.round != round_.number:
        ends = [task.expires]
    return Awaited(
        agent=task.agent,
        phase=task.phase if agent.online else "away",
        since_s=turn.now - (task.phase_since if agent.online else agent.away_since),
        until_s=min(ends) - turn.now,
        task=task.id,
        version=task.version,
        heard_s=turn.now - task.heard,
    )


def record_waiting_for(turn: Turn, number: int, awaited: list[Awaited]) -> None:
    counts = needs(turn)
    known = counts._asdict() if counts is not None else {}
    turn.record("waiting", round=number, **known, **{"for": [described(x) for x in awaited]})


class Needs(NamedTuple):
    """`have` of `want` updates are there; `need` are enough at the deadline."""

    have: int
    want: int
    need: int


def needs(turn: Turn) -> Needs | None:
    """Of the round that is open."""
    round_ = turn.state.round
    if round_ is None:
        return None
    have = len([t for t in turn.state.pool if turn.policy.carries or t.round == round_.number])
    return Needs(have, round_.target, round_.quorum)


def described(x: Awaited) -> dict[str, object]:
    described: dict[str, object] = {
        "agent": x.agent,
        "phase": x.phase,
        "since_s": round(x.since_s, 1),
        "until_s": round(x.until_s, 1),
    }
    if x.task:
        described |= {"task": x.task, "version": x.version, "heard_s": round(x.heard_s or 0.0, 1)}
    return described
