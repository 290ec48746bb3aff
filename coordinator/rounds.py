"""The life of a round: opened, its lack of agents made good, extended, closed."""

from __future__ import annotations

from typing import NamedTuple

from coordinator import actions as a
from coordinator import tasks, uploads
from coordinator.policies import Close, Extend, Fail, Replace, RoundView, Wait
from coordinator.presence import away
from coordinator.state import UNDER_WAY, Agent, Round, Task, TaskState
from coordinator.turn import Turn

S = TaskState


class Awaited(NamedTuple):
    """Whom we wait for: for how long already, and for how long at most from now."""

    agent: str
    phase: str
    since_s: float
    until_s: float


def free_agents(turn: Turn) -> list[Agent]:
    return [agent for agent in turn.state.agents.values() if agent.online and not agent.task]


def open_round(turn: Turn, free: list[Agent]) -> None:
    state, policy = turn.state, turn.policy
    number = state.rounds_done + 1
    cohort = policy.select([agent.name for agent in free], turn.rng("select", number))
    round_ = Round(
        number=number,
        version=state.version,
        target=policy.target,
        quorum=policy.quorum,
        opened=turn.now,
        deadline_s=policy.deadline_s,
        deadline=turn.now + policy.deadline_s,
        cohort=cohort,
    )
    state.round = round_
    journal_round(turn, round_)
    turn.record(
        "round_opened",
        round=number,
        version=round_.version,
        cohort=cohort,
        deadline_s=round_.deadline_s,
        quorum=round_.quorum,
    )
    for name in cohort:
        tasks.open_task(turn, round_, state.agents[name])


def journal_round(turn: Turn, round_: Round) -> None:
    turn.emit(
        a.JournalRound(
            round=round_.number,
            version=round_.version,
            cohort=tuple(round_.cohort),
            target=round_.target,
            quorum=round_.quorum,
            deadline_s=round_.deadline_s,
            extensions=round_.extensions,
        )
    )


def tasks_of(turn: Turn, round_: Round) -> list[Task]:
    return [turn.state.tasks[name] for name in round_.tasks if name in turn.state.tasks]


def spare_agents(turn: Turn, round_: Round) -> list[Agent]:
    """Free, online, and neither has it given this round an update nor used up its attempts."""
    gave = {task.agent for task in tasks_of(turn, round_) if task.state is S.ACKED}
    attempts = turn.config.attempts_max * (1 + round_.extensions)
    return [
        agent
        for agent in free_agents(turn)
        if agent.name not in gave and round_.attempts.get(agent.name, 0) < attempts
    ]


def view(turn: Turn, round_: Round) -> RoundView:
    under_way = [task for task in tasks_of(turn, round_) if task.state in UNDER_WAY]
    gone = [task for task in under_way if task.state is not S.RECEIVED and away(turn, task)]
    return RoundView(
        target=round_.target,
        quorum=round_.quorum,
        mergeable=sum(task.mergeable for task in tasks_of(turn, round_)),
        expected=len(under_way) - len(gone),
        away=len(gone),
        receiving=sum(task.state is S.RECEIVED for task in under_way),
        spare=len(spare_agents(turn, round_)),
        deadline=round_.deadline,
        deadline_s=round_.deadline_s,
        extensions=round_.extensions,
    )


def collect(turn: Turn) -> str:
    """Ask the policy until it wants to wait. Every other answer uses something up, so this ends.

    Returns why the run has failed, or an empty string.
    """
    while (round_ := turn.state.round) is not None and not round_.committing:
        match turn.policy.decide(view(turn, round_), turn.now):
            case Wait():
                break
            case Close(reason=reason):
                _close_round(turn, round_, reason)
            case Replace(count=count):
                _replace(turn, round_, count)
            case Extend(deadline=deadline):
                _extend(turn, round_, deadline)
            case Fail(reason=reason):
                return reason
    if turn.state.round is not None:
        _nudge(turn)
        record_waiting(turn)
    return ""


def _replace(turn: Turn, round_: Round, count: int) -> None:
    spare = spare_agents(turn, round_)
    drawn = turn.rng("replace", round_.number, len(round_.tasks)).sample(
        sorted(agent.name for agent in spare), min(count, len(spare))
    )
    assert drawn, "the policy asked for replacements where there are none"
    round_.cohort += [name for name in drawn if name not in round_.cohort]
    journal_round(turn, round_)
    for name in drawn:
        tasks.open_task(turn, round_, turn.state.agents[name])


def _extend(turn: Turn, round_: Round, deadline: float) -> None:
    """Past the deadline without a quorum: recorded, and the agents are told how long they have now."""
    have = sum(task.mergeable for task in tasks_of(turn, round_))
    round_.extensions += 1
    round_.deadline = deadline
    journal_round(turn, round_)
    turn.record(
        "lapse",
        what="round_deadline",
        node="coordinator",
        requested=f"{round_.quorum} updates in {round_.deadline_s:g} s",
        effective=f"{have} updates",
        detail=f"round {round_.number} extended, {round_.extensions} of {turn.config.extensions_max}",
    )
    for task in tasks_of(turn, round_):
        if task.state in UNDER_WAY:
            task.deadline = deadline
            if task.state in (S.OPEN, S.TRAINING):
                tasks.send_task(turn, task)


def _close_round(turn: Turn, round_: Round, reason: str) -> None:
    """Take the first `target` updates by arrival, settle everything else, and have the version committed."""
    mine = tasks_of(turn, round_)
    usable = sorted((task for task in mine if task.mergeable), key=lambda task: task.position)
    taken, surplus = usable[: round_.target], usable[round_.target :]
    round_.committing, round_.close_reason = True, reason
    gave = {task.agent for task in taken}
    round_.missing = tuple(sorted({task.agent for task in mine} - gave))
    for task in surplus:
        tasks.discard(turn, task, S.SURPLUS, f"round {round_.number} had its {round_.target} updates")
    for task in mine:
        if task.state in UNDER_WAY and task.state is not S.RECEIVED:
            tasks.close_task(turn, task, *_why_without(turn, task, reason))
    updates = tuple(a.MergeItem(t.id, t.agent, t.sha256, t.samples) for t in taken)
    turn.emit(
        a.CommitVersion(
            version=round_.version + 1,
            round=round_.number,
            server_lr=turn.config.policy.server_lr,
            updates=updates,
        )
    )


def _why_without(turn: Turn, task: Task, reason: str) -> tuple[TaskState, str]:
    if away(turn, task):
        since = turn.now - turn.state.agents[task.agent].away_since
        return S.DROPPED, f"away for {since:.1f} s when the round closed"
    if reason == "complete":
        return S.CANCELLED, "the round is complete"
    return S.TIMED_OUT, "the round closed at its deadline" if reason == "deadline" else "the round closed"


def _nudge(turn: Turn) -> None:
    """One lost message must not cost a round: ask again where there was no sign for too long."""
    config = turn.config
    for agent in turn.state.agents.values():
        task = turn.state.tasks.get(agent.task)
        if task is None or not agent.online:
            continue
        if task.state is S.OPEN and turn.now >= task.heard + config.nudge_s:
            tasks.send_task(turn, task)
        elif task.state is S.GRANTED and turn.now >= task.heard + config.grant_idle_s:
            uploads.regrant(turn, task)


def record_waiting(turn: Turn) -> None:
    """For whom, for how long already and for how long yet (seconds, relative to the event)."""
    state, round_ = turn.state, turn.state.round
    if round_ is None:
        return
    # Sums as in `core.next_wakeup`: a difference may round the other way, and we would sleep past the moment.
    if turn.now < max(state.waiting_recorded, round_.opened) + turn.config.waiting_every_s:
        return
    owing = [task for task in tasks_of(turn, round_) if task.state in UNDER_WAY]
    state.waiting_recorded = turn.now
    if not owing:
        return
    record_waiting_for(
        turn,
        round_.number,
        [
            Awaited(
                task.agent,
                task.phase if state.agents[task.agent].online else "away",
                turn.now - task.phase_since,
                round_.deadline - turn.now,
            )
            for task in owing
        ],
    )


def record_waiting_for(turn: Turn, number: int, awaited: list[Awaited]) -> None:
    described = [
        {"agent": x.agent, "phase": x.phase, "since_s": round(x.since_s, 1), "until_s": round(x.until_s, 1)}
        for x in awaited
    ]
    turn.record("waiting", round=number, **{"for": described})
