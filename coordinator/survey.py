"""The survey at the end of a run: every device tests the last version on its own data, where the topology asks for it.

It comes after the last version and before the goodbye, when every task is settled. Who is not here for longer than the
grace, or does not answer in time, is not awaited: its figures of an earlier version stand. Nothing of it is in the
journal. A coordinator that dies in it, or after it, holds it again for whoever comes back.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from coordinator import actions as a
from coordinator import figures, waiting
from coordinator.config import CoordinatorConfig
from coordinator.state import Agent, CoordinatorState, RunPhase, Survey
from coordinator.turn import Turn, derive_seed
from wire import messages as m


def wanted(turn: Turn, reason: str) -> bool:
    return turn.config.train.evaluate and reason != "failed"


def begin(turn: Turn) -> None:
    state = turn.state
    wait_s = max(turn.config.survey_wait_s, turn.config.policy.deadline_s)
    state.survey = Survey(
        task=f"survey-v{state.version}",
        deadline=turn.now + wait_s,
        asked=dict.fromkeys(state.agents, float("-inf")),
    )


def advance(turn: Turn) -> bool:
    """Ask who is here and has not been asked lately; returns whether the survey is over."""
    state, survey = turn.state, turn.state.survey
    if survey is None or turn.now >= survey.deadline:
        return True
    left = _awaited(turn, survey)
    for agent in left:
        if agent.online and turn.now >= survey.asked[agent.name] + turn.config.nudge_s:
            _ask(turn, survey, agent)
    if left and turn.now >= max(state.waiting_recorded, state.phase_since) + turn.config.waiting_every_s:
        state.waiting_recorded = turn.now
        waiting.record_waiting_for(turn, state.rounds_done, owing(turn))
    return not left


def owing(turn: Turn) -> list[waiting.Awaited]:
    """Whom the survey waits for."""
    survey = turn.state.survey
    return [_described(turn, survey, agent) for agent in _awaited(turn, survey)] if survey is not None else []


def moments(state: CoordinatorState, config: CoordinatorConfig) -> Iterator[float]:
    """When something is due."""
    if state.survey is None:
        return
    yield state.survey.deadline
    yield max(state.waiting_recorded, state.phase_since) + config.waiting_every_s
    for name, asked in state.survey.asked.items():
        agent = state.agents[name]
        yield asked + config.nudge_s if agent.online else agent.away_since + config.drop_after_s


def _awaited(turn: Turn, survey: Survey) -> list[Agent]:
    """Not answered yet, and here, or away for no longer than a reconnect takes."""
    agents = [turn.state.agents[name] for name in survey.asked]
    return [agent for agent in agents if not turn.gone(agent)]


def _described(turn: Turn, survey: Survey, agent: Agent) -> waiting.Awaited:
    since = turn.now - (turn.state.phase_since if agent.online else agent.away_since)
    phase = "testing" if agent.online else "away"
    return waiting.Awaited(agent.name, phase, since, survey.deadline - turn.now)


def _ask(turn: Turn, survey: Survey, agent: Agent) -> None:
    survey.asked[agent.name] = turn.now
    turn.emit(
        a.SendTask(
            agent=agent.name,
            task=survey.task,
            round=turn.state.rounds_done + 1,
            version=turn.state.version,
            seed=derive_seed(turn.config.seed, "survey", agent.name, turn.state.version),
            deadline_s=max(1.0, survey.deadline - turn.now),
            uplink=m.UplinkSpec(),
            survey=True,
        )
    )


# --- what agents say ----------------------------------------------------------------------------------------------


def concerns(turn: Turn, task: str | None) -> bool:
    """Whether a message is about the survey, over or not, and about no task of a round."""
    survey = turn.state.survey
    return survey is not None and task == survey.task


def hello(turn: Turn, agent: Agent, message: m.Hello) -> m.Hello:
    """Whoever comes (back) without the survey in hand is asked at once. Its task is none of a round's."""
    survey = turn.state.survey
    if survey is None or turn.state.phase is not RunPhase.SURVEYING:
        return message
    if message.task != survey.task and agent.name in survey.asked:
        survey.asked[agent.name] = float("-inf")
    return msgspec.structs.replace(message, task=None) if message.task == survey.task else message


def answered(turn: Turn, agent: Agent, message: m.Surveyed) -> None:
    """The first answer counts. One that makes no sense is not asked for again."""
    survey = turn.state.survey
    if survey is None or message.task != survey.task:
        turn.refuse(agent.name, "surveyed", "unknown_task")
        return
    if survey.asked.pop(agent.name, None) is None:
        return
    reason = figures.problem(turn, agent.name, message.figures, turn.state.version)
    if reason:
        turn.refuse(agent.name, "surveyed", reason)
    else:
        figures.record(turn, agent.name, message.figures, task=message.task, round=None)


def failed(turn: Turn, agent: Agent) -> None:
    """This device has no figures of the last version."""
    if turn.state.survey is not None:
        turn.state.survey.asked.pop(agent.name, None)
