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
    owing = state.under_way
    if owing:
        record_waiting_for(turn, round_.number, [_awaited(turn, task) for task in owing])


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
    """`have` of `want` updates are there; `need` are enough at the deadline."""
    round_ = turn.state.round
    counts = {}
    if round_ is not None:
        have = len([t for t in turn.state.pool if turn.policy.carries or t.round == round_.number])
        counts = {"have": have, "want": round_.target, "need": round_.quorum}
    turn.record("waiting", round=number, **counts, **{"for": [_described(x) for x in awaited]})


def _described(x: Awaited) -> dict[str, object]:
    described: dict[str, object] = {
        "agent": x.agent,
        "phase": x.phase,
        "since_s": round(x.since_s, 1),
        "until_s": round(x.until_s, 1),
    }
    if x.task:
        described |= {"task": x.task, "version": x.version, "heard_s": round(x.heard_s or 0.0, 1)}
    return described
