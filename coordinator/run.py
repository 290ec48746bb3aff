"""The life of the run around its rounds: gather agents, commit versions, evaluate, finish."""

from __future__ import annotations

import math

from coordinator import actions as a
from coordinator import events as e
from coordinator import fleet, probing, rounds, survey, tasks, tiers, uploads, versions, waiting
from coordinator.state import UNDER_WAY, Agent, Round, RunPhase, TaskState
from coordinator.turn import Turn
from wire import messages as m

S = TaskState


def advance(turn: Turn) -> None:
    """Let the run go on as far as it can now. Called at the end of every turn."""
    state = turn.state
    if not state.started:
        return
    if state.phase is RunPhase.EVALUATING and turn.now >= state.phase_since + turn.config.evaluation_wait_s:
        turn.record(
            "lapse",
            what="evaluation",
            node="coordinator",
            requested="before the next round",
            effective=f"none within {turn.config.evaluation_wait_s:g} s",
            detail="the run goes on without it",
        )
        enter(turn, RunPhase.GATHERING)
    if not state.finish_reason:
        rounds.end_stale(turn)
    if state.phase is RunPhase.PROBING and probing.over(turn):
        _choose(turn, probing.end(turn))
    waiting.record_probed(turn)
    if state.phase is RunPhase.GATHERING:
        _gather(turn)
    if state.phase is RunPhase.COLLECTING:
        failure = rounds.collect(turn)
        if failure:
            fail(turn, failure)
    uploads.grant_waiting(turn)  # what has ended in this turn has left its room
    versions.withdraw_unneeded(turn)
    if state.phase is RunPhase.SURVEYING and survey.advance(turn):
        _part(turn)
    if state.phase is RunPhase.FINISHING:
        _say_goodbye(turn)


def enter(turn: Turn, phase: RunPhase) -> None:
    turn.state.phase, turn.state.phase_since = phase, turn.now


def _gather(turn: Turn) -> None:
    state, policy, config = turn.state, turn.policy, turn.config
    if state.rounds_done >= config.rounds:
        finish(turn, "rounds")
        return
    rounds.end_expired(turn)
    free = fleet.available(turn)
    if _enough(turn, len(free)):
        if probing.begin(turn, free):
            enter(turn, RunPhase.PROBING)
        else:
            _open(turn, free)
    elif turn.now >= state.phase_since + 2 * config.start_timeout_s and not state.unended:
        fail(
            turn,
            f"only {len(free)} of the {policy.quorum} agents that a round needs were there "
            f"after {turn.now - state.phase_since:.0f} s; missing: {', '.join(_absent(turn))[:300]}",
        )
    else:
        _record_absent(turn)


def _open(turn: Turn, free: list[Agent]) -> None:
    rounds.open_round(turn, free)
    enter(turn, RunPhase.COLLECTING)


def _choose(turn: Turn, silent: frozenset[str]) -> None:
    """The round opens with those that are here now; without the silent, if they are not needed for a quorum."""
    rounds.end_expired(turn)
    free = fleet.available(turn)
    if not _enough(turn, len(free), probed=True):
        enter(turn, RunPhase.GATHERING)
        return
    heard = [agent for agent in free if agent.name not in silent]
    _open(turn, heard if len(heard) >= turn.policy.quorum else free)


def _enough(turn: Turn, free: int, *, probed: bool = False) -> bool:
    """Whether the next round can begin. The first waits for everybody it wants, up to the start's timeout, unless
    it has waited for them already: `probed`.
    """
    state, policy = turn.state, turn.policy
    if state.rounds_done == 0 and not probed:
        patient = turn.now < state.phase_since + turn.config.start_timeout_s
        return free >= (policy.wanted(len(state.agents)) if patient else policy.quorum)
    if not policy.carries:
        return free >= policy.quorum
    # What is carried counts: updates that are there, and tasks whose agents are.
    carried = sum(t.mergeable or state.agents[t.agent].online for t in state.unended.values())
    return policy.streams or (free > 0 and free + carried >= policy.quorum)


def _absent(turn: Turn) -> list[str]:
    return sorted(agent.name for agent in turn.state.agents.values() if not agent.online)


def _record_absent(turn: Turn) -> None:
    """Who has not come yet, since when we wait, and how long we still do."""
    state, config = turn.state, turn.config
    if turn.now < max(state.waiting_recorded, state.phase_since) + config.waiting_every_s:
        return
    state.waiting_recorded = turn.now
    waiting.record_waiting_for(turn, state.rounds_done + 1, waiting.absent(turn))


# --- commit and evaluate ------------------------------------------------------------------------------------------


def committed(turn: Turn, event: e.VersionCommitted) -> None:
    """The version is durable: everybody may know."""
    state, round_ = turn.state, turn.state.round
    if round_ is None or not round_.committing or event.version != state.version + 1:
        raise AssertionError(
            f"version {event.version} was committed, but version {state.version} has no such round"
        )
    refused = dict(event.refused)
    taken = [state.tasks[name] for name in round_.taken]
    kept = [task for task in taken if task.id not in refused]
    turn.record(
        "version_committed",
        version=event.version,
        sha256=event.sha256,
        round=round_.number,
        updates=[versions.describe_merged(turn, task, round_.share) for task in kept],
    )
    state.version, state.version_sha256 = event.version, event.sha256
    state.gains.append(math.fsum(tasks.utility_of(task) for task in kept))
    versions.publish(turn, round_.number)
    for task in taken:
        if task.id in refused:
            tasks.discard(turn, task, S.REFUSED, refused[task.id])
        else:
            tasks.merged(turn, task, event.version)
    _end_round(turn, round_, len(kept))


def _end_round(turn: Turn, round_: Round, merged: int) -> None:
    state = turn.state
    turn.record(
        "round_closed",
        round=round_.number,
        version=state.version,
        merged=merged,
        missing=list(round_.missing),
        reason=round_.close_reason,
        wall_s=round(turn.now - round_.opened, 3),
    )
    state.round = None
    state.rounds_done = round_.number
    if state.target_met:  # an earlier version met it while this one was being committed
        finish(turn, "target")
        return
    _evaluate(turn)
    enter(turn, _after_version(turn))


def _evaluate(turn: Turn) -> None:
    """Where versions follow each other in a stream, those that come while one is evaluated are passed over."""
    state = turn.state
    if turn.policy.streams and state.evaluating is not None and state.rounds_done < turn.config.rounds:
        return
    state.evaluating = state.version
    turn.emit(a.Evaluate(version=state.version, round=state.rounds_done))


def _evaluation_over(turn: Turn, version: int) -> None:
    """The newest version is next, if it was passed over."""
    state = turn.state
    if state.evaluating is None or state.evaluating > version:
        return
    state.evaluating = None
    if turn.policy.streams and version < state.version and not state.finish_reason and not state.target_met:
        _evaluate(turn)


def _after_version(turn: Turn) -> RunPhase:
    """With a target, a round that the target makes needless is not begun; the last version is always evaluated."""
    state = turn.state
    last = state.rounds_done >= turn.config.rounds
    wait = last or (turn.config.stop_at_accuracy is not None and not turn.policy.streams)
    return RunPhase.EVALUATING if wait else RunPhase.GATHERING


def evaluated(turn: Turn, event: e.Evaluated) -> None:
    state, target = turn.state, turn.config.stop_at_accuracy
    turn.emit(a.JournalEvaluation(version=event.version, accuracy=event.accuracy, loss=event.loss))
    turn.record(
        "evaluated",
        version=event.version,
        round=event.version,
        accuracy=event.accuracy,
        loss=event.loss,
        samples=event.samples,
        per_class=list(event.per_class),
        metrics=event.metrics,
        confusion=[list(row) for row in event.confusion],
    )
    if event.version > state.evaluated_version:
        state.evaluated_version, state.accuracy = event.version, event.accuracy
        if event.accuracy is not None:
            state.first_accuracy = event.accuracy if state.first_accuracy is None else state.first_accuracy
            state.accuracies.append((event.version, event.accuracy))
    if state.finish_reason:
        return
    met = target is not None and event.accuracy is not None and event.accuracy >= target
    if met and event.version > 0:
        state.target_met = True
    if state.target_met and not (state.round and state.round.committing):
        finish(turn, "target")
    elif state.phase is RunPhase.EVALUATING and event.version == state.version:
        enter(turn, RunPhase.GATHERING)
    _evaluation_over(turn, event.version)


def evaluation_failed(turn: Turn, event: e.EvaluationFailed) -> None:
    turn.record(
        "lapse",
        what="evaluation",
        node="coordinator",
        requested=f"version {event.version}",
        effective="not evaluated",
        detail=event.reason[:500],
    )
    if turn.state.phase is RunPhase.EVALUATING and event.version == turn.state.version:
        enter(turn, RunPhase.GATHERING)
    _evaluation_over(turn, event.version)


# --- finish -------------------------------------------------------------------------------------------------------


def fail(turn: Turn, reason: str) -> None:
    turn.record(
        "lapse",
        what="run_failed",
        node="coordinator",
        requested="the run's rounds",
        effective="failed",
        detail=reason,
    )
    finish(turn, "failed")


def finish(turn: Turn, reason: str) -> None:
    """Settle every task, hold the survey where there is one, tell everybody, then wait for them to go."""
    state = turn.state
    for task in list(state.tasks.values()):
        if task.state is S.ACKED:
            tasks.discard(turn, task, S.LATE, f"the run has ended: {reason}")
        elif task.state in UNDER_WAY and task.state is not S.RECEIVED:
            tasks.close_task(turn, task, S.CANCELLED, f"the run has ended: {reason}")
    state.round = state.probe = None
    state.finish_reason = reason
    turn.emit(a.JournalFinish(reason=reason))
    if survey.wanted(turn, reason):
        enter(turn, RunPhase.SURVEYING)
        survey.begin(turn)
    else:
        _part(turn)


def _part(turn: Turn) -> None:
    """Nothing more is wanted of anybody."""
    state, reason = turn.state, turn.state.finish_reason
    enter(turn, RunPhase.FINISHING)
    turn.record("run_finished", reason=reason, version=state.version, accuracy=state.accuracy)
    for name in state.agents:
        turn.send(name, m.Finish(reason=reason))


def _say_goodbye(turn: Turn) -> None:
    """Done when all agents have gone, or have had long enough to."""
    state = turn.state
    unwritten = any(task.state is S.RECEIVED for task in state.tasks.values())
    gone = not any(agent.announced for agent in state.agents.values())
    late = turn.now >= state.phase_since + turn.config.finish_wait_s
    if unwritten or turn.now < state.goodbye_from or not (gone or late):
        return
    enter(turn, RunPhase.DONE)
    turn.emit(a.Stop(ok=state.finish_reason != "failed", reason=state.finish_reason))


# --- start --------------------------------------------------------------------------------------------------------


def started(turn: Turn, event: e.Started) -> None:
    """Begin, or go on where the journal ends. Clocks begin anew: our downtime is nobody's fault."""
    state, now = turn.state, turn.now
    state.started = True
    state.phase_since = now
    for agent in state.agents.values():
        agent.away_since = now
    turn.record(
        "run_started",
        run=turn.config.run,
        epoch=state.epoch,
        devices=sorted(state.agents),
        parameters=turn.config.parameters,
        resumed=event.resumed,
    )
    tiers.record(turn, state.tiers)
    versions.end_unreachable(turn)
    versions.publish(turn, state.rounds_done)
    if state.finish_reason:
        reason, state.finish_reason = state.finish_reason, ""
        state.goodbye_from = now + turn.config.drop_after_s
        finish(turn, reason)
        return
    _settle_orphans(turn)
    if state.round is not None:
        _resume_round(turn, state.round)
    if state.evaluated_version < state.version or state.version == 0:
        _evaluate(turn)
        if state.round is None and state.version > 0:
            enter(turn, _after_version(turn))
    elif state.target_met:
        finish(turn, "target")


def _settle_orphans(turn: Turn) -> None:
    """Whose round was closed, or whose content was found unfit, when the last life ended before it could say so."""
    state = turn.state
    mine = state.round.number if state.round is not None else None
    for task in list(state.unended.values()):
        if task.state is S.ACKED and task.defect:
            tasks.discard(turn, task, S.REFUSED, task.defect)
        elif turn.policy.carries:
            tasks.discarded_as_stale(turn, task)
        elif task.state is S.ACKED and task.round != mine:
            tasks.discard(turn, task, S.LATE, f"round {task.round} was closed")
        elif task.state in UNDER_WAY and task.round != mine:
            tasks.close_task(turn, task, S.TIMED_OUT, f"round {task.round} was closed")
    for task in state.under_way:
        task.since = task.phase_since = task.heard = turn.now
        task.story.append(f"{turn.now:.3f} {task.state}: resumed in epoch {state.epoch}")
        tasks.give_time(turn, None, task)


def _resume_round(turn: Turn, round_: Round) -> None:
    now = turn.now
    round_.opened = round_.quiet_since = now
    round_.deadline = now + round_.deadline_s
    for task in turn.state.under_way:
        tasks.give_time(turn, round_, task)
    enter(turn, RunPhase.COLLECTING)
