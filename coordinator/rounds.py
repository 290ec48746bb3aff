"""The life of a round: opened, its lack of agents made good, extended, closed.

A round is the making of one version. Where the schedule carries, tasks and updates of older rounds go on beside it.
"""

from __future__ import annotations

from collections import Counter

from coordinator import actions as a
from coordinator import fleet, tasks, tiers, uploads, waiting
from coordinator.policies import Close, Extend, Fail, Replace, RoundView, Wait
from coordinator.presence import away
from coordinator.state import UNDER_WAY, Agent, Round, Task, TaskState
from coordinator.turn import Turn

S = TaskState


def open_round(turn: Turn, free: list[Agent]) -> None:
    state, policy = turn.state, turn.policy
    number = state.rounds_done + 1
    cohort = policy.choose(fleet.views(turn, free), fleet.known(turn), turn.rng("select", number))
    target, quorum = policy.size(len(cohort))
    deadline_s = policy.round_deadline_s([state.agents[name].timings for name in cohort])
    round_ = Round(
        number=number,
        version=state.version,
        target=target,
        quorum=quorum,
        opened=turn.now,
        quiet_since=turn.now,
        deadline_s=deadline_s,
        deadline=turn.now + deadline_s,
        cohort=cohort,
    )
    state.round = round_
    journal_round(turn, round_)
    turn.record(
        "round_opened",
        round=number,
        version=round_.version,
        # Where versions follow each other in a stream, everybody may give this one an update.
        cohort=sorted(state.agents) if policy.streams else list(cohort),
        target=target,
        carried=len(state.unended),
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
    """Those that can be given a task, and have not used up their attempts.

    A round that waits for its cohort takes one update of each; where versions follow each other in a stream a fast
    agent may be in one twice.
    """
    gave: set[str] = set()
    if not turn.policy.streams:
        gave = {task.agent for task in tasks_of(turn, round_) if task.state is S.ACKED}
    attempts = turn.config.attempts_max * (1 + round_.extensions + _silences(turn, round_))
    return [
        agent
        for agent in fleet.available(turn)
        if agent.name not in gave and round_.attempts.get(agent.name, 0) < attempts
    ]


def _silences(turn: Turn, round_: Round) -> int:
    """Deadlines that passed without an update where rounds have no extensions: each gives everybody new attempts.

    Without them a fleet that failed early (its disks were full) would sit idle until its patience is over, though well.
    """
    return int((turn.now - round_.quiet_since) // round_.deadline_s) if turn.policy.streams else 0


def usable(turn: Turn, round_: Round) -> list[Task]:
    """Updates that the round's version could have, in the order of their arrival."""
    pool = turn.state.pool
    return pool if turn.policy.carries else [task for task in pool if task.round == round_.number]


def view(turn: Turn, round_: Round) -> RoundView:
    counts: Counter[str] = Counter()
    for task in turn.state.under_way:
        mine = task.round == round_.number
        if task.state is S.RECEIVED:
            counts["receiving"] += mine
        elif away(turn, task):
            counts["away"] += 1
            continue
        elif turn.now >= task.deadline and turn.now < round_.deadline:
            continue  # out of its own time: nobody waits for it any more
        counts["expected" if mine else "carried"] += 1
    mergeable, spare = usable(turn, round_), spare_agents(turn, round_)
    return RoundView(
        target=round_.target,
        quorum=round_.quorum,
        mergeable=len(mergeable),
        expected=counts["expected"],
        carried=counts["carried"],
        away=counts["away"],
        receiving=counts["receiving"],
        spare=len(spare),
        deadline=round_.deadline,
        deadline_s=round_.deadline_s,
        extensions=round_.extensions,
        quiet_since=round_.quiet_since,
        groups=tiers.views(turn, mergeable, spare),
    )


def collect(turn: Turn) -> str:
    """Ask the policy until it wants to wait. Every other answer uses something up, so this ends.

    Returns why the run has failed, or an empty string.
    """
    end_expired(turn)
    while (round_ := turn.state.round) is not None and not round_.committing:
        match turn.policy.decide(view(turn, round_), turn.now):
            case Wait(until=until):
                turn.state.wait_until = until
                break
            case Close(reason=reason, group=group):
                _close_round(turn, round_, reason, group)
            case Replace(count=count, group=group):
                _replace(turn, round_, count, group)
            case Extend(deadline=deadline):
                _extend(turn, round_, deadline)
            case Fail(reason=reason):
                return reason
    if turn.state.round is not None:
        _nudge(turn)
        waiting.record_waiting(turn)
    return ""


def end_expired(turn: Turn) -> None:
    """Tasks that outlive their round end by themselves; whoever holds one can be given another then."""
    for task in turn.state.under_way:
        if turn.now >= task.expires and task.state is not S.RECEIVED:
            tasks.close_task(
                turn, task, S.TIMED_OUT, f"not here {turn.now - task.since:.0f} s after {task.state}"
            )


def end_stale(turn: Turn) -> None:
    """A new version makes everything older: what is too old now ends."""
    if turn.policy.carries:
        for task in list(turn.state.unended.values()):
            tasks.discarded_as_stale(turn, task)


def _replace(turn: Turn, round_: Round, count: int, group: int | None) -> None:
    spare = spare_agents(turn, round_)
    if group is not None:
        spare = [agent for agent in spare if tiers.group_of(turn, agent.name) == group]
    seen = fleet.views(turn, spare)
    rng = turn.rng("replace", round_.number, len(round_.tasks))
    drawn = turn.policy.refill(seen, count, fleet.known(turn), rng)
    assert drawn, "the policy asked for replacements where there are none"
    fresh = [name for name in drawn if name not in round_.cohort]
    if fresh:
        round_.cohort += fresh
        journal_round(turn, round_)
    for name in drawn:
        tasks.open_task(turn, round_, turn.state.agents[name])


def _extend(turn: Turn, round_: Round, deadline: float) -> None:
    """Past the deadline without a quorum: recorded, and the agents are told how long they have now."""
    have = len(usable(turn, round_))
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
            task.expires = max(task.expires, deadline + turn.policy.carry_s)
            if task.state in (S.OPEN, S.TRAINING):
                tasks.send_task(turn, task)


def _close_round(turn: Turn, round_: Round, reason: str, group: int | None) -> None:
    """Take the first `target` updates by arrival, or all of the group, and have the version committed. Without
    carrying, settle the rest.
    """
    pool = usable(turn, round_)
    taken, rest = pool[: round_.target], pool[round_.target :]
    if group is not None:
        taken, rest = tiers.taken(turn, pool, group), []
        round_.share = tiers.closing(turn, group)
    round_.committing, round_.close_reason = True, reason
    round_.taken = [task.id for task in taken]
    gave = {task.agent for task in taken}
    round_.missing = tuple(sorted({task.agent for task in tasks_of(turn, round_)} - gave))
    if not turn.policy.carries:
        _settle_rest(turn, round_, rest, reason)
    updates = tuple(
        a.MergeItem(t.id, t.agent, t.sha256, t.samples, round_.share * _factor(turn, t)) for t in taken
    )
    turn.emit(
        a.CommitVersion(
            version=round_.version + 1, round=round_.number, server_lr=turn.policy.merge_lr, updates=updates
        )
    )


def _factor(turn: Turn, task: Task) -> float:
    age = tasks.staleness(turn, task)
    factor = turn.policy.factor(age)
    assert factor is not None, f"{task.id} is {age} versions old and still here: {list(task.story)}"
    return factor


def _settle_rest(turn: Turn, round_: Round, surplus: list[Task], reason: str) -> None:
    for task in surplus:
        tasks.discard(turn, task, S.SURPLUS, f"round {round_.number} had its {round_.target} updates")
    for task in tasks_of(turn, round_):
        if task.state in UNDER_WAY and task.state is not S.RECEIVED:
            tasks.close_task(turn, task, *_why_without(turn, task, reason))


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
    for task in turn.state.under_way:
        if not turn.state.agents[task.agent].online:
            continue
        if task.state is S.OPEN and turn.now >= task.heard + config.nudge_s:
            tasks.send_task(turn, task)
        elif task.state is S.GRANTED and turn.now >= task.heard + config.grant_idle_s:
            uploads.regrant(turn, task)
