"""Who could be given a task now, and what is known of them: the views that policies choose from.

A task needs its version to be there for as long as it is open, and only `VERSIONS_LIVE_MAX` versions are kept to be
fetched. So a task is opened only while the versions that open tasks name leave room for the next one, and devices that
are much slower than the others, which hold a version for long, share `SLOW_VERSIONS_MAX` of them: they start together
with others of their kind instead of holding one version each, and never keep the fast ones waiting.
"""

from __future__ import annotations

from collections import Counter
from statistics import median

from coordinator.config import SLOW_TIMES, SLOW_VERSIONS_MAX, UNSETTLED_PER_AGENT_MAX, VERSIONS_LIVE_MAX
from coordinator.policies import AgentView, Fleet
from coordinator.state import Agent, TaskState
from coordinator.turn import Turn

S = TaskState


def free(turn: Turn) -> list[Agent]:
    """Here, and without a task."""
    return [agent for agent in turn.state.agents.values() if agent.online and not agent.task]


def available(turn: Turn) -> list[Agent]:
    """Free, with room on its disk for another update without an outcome, and a version to train on."""
    found = free(turn)
    if not turn.policy.carries or not found:
        return found  # every task ends with its round: one version, one update each
    state = turn.state
    named = {task.version for task in state.under_way}
    if len(named | {state.version}) >= VERSIONS_LIVE_MAX:
        return []
    unsettled = Counter(task.agent for task in state.unended.values() if task.state is S.ACKED)
    found = [agent for agent in found if unsettled[agent.name] < UNSETTLED_PER_AGENT_MAX]
    if turn.slow is None:
        turn.slow = _slow(turn)
    slow = turn.slow
    held = {task.version for task in state.under_way if task.agent in slow}
    if slow and len(held | {state.version}) > SLOW_VERSIONS_MAX:
        found = [agent for agent in found if agent.name not in slow]
    return found


def _slow(turn: Turn) -> frozenset[str]:
    """Devices that are expected to need `SLOW_TIMES` as long as the median of the fleet."""
    known = {a.name: a.timings.expected_s for a in turn.state.agents.values() if a.timings.known}
    if not known:
        return frozenset()
    limit_s = SLOW_TIMES * median(known.values())
    return frozenset(name for name, expected_s in known.items() if expected_s > limit_s)


def views(turn: Turn, agents: list[Agent]) -> list[AgentView]:
    made = turn.state.tasks_made
    return [_view(agent, made, turn.state.version) for agent in agents]


def _view(agent: Agent, tasks_made: int, version: int) -> AgentView:
    power, probed = agent.power, agent.probed
    return AgentView(
        name=agent.name,
        timings=agent.timings,
        passed_over=tasks_made - agent.last_task,
        merged=agent.merged,
        charge=power.charge if power is not None else 1.0,
        plugged=power.plugged if power is not None else True,
        delivered=agent.delivered,
        lost=agent.lost,
        utility=agent.utility,
        used_round=agent.used_round,
        samples=agent.samples,
        loss=probed.loss if probed is not None and probed.version == version else None,
    )


def known(turn: Turn) -> Fleet:
    """Of the run as a whole."""
    state = turn.state
    return Fleet(len(state.agents), state.rounds_done + 1, tuple(state.gains))
