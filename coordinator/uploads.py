"""From an offer to an ack: grants within the budget, updates received, journalled, acknowledged."""

from __future__ import annotations

import msgspec

from coordinator import actions as a
from coordinator import events as e
from coordinator import figures, inline, tasks
from coordinator.state import ENDED_WITHOUT_UPDATE, Task, TaskState
from coordinator.turn import Turn
from wire import messages as m

S = TaskState
REGRANT_S = 2.0  # longer than any pair of messages of one agent is apart, shorter than its own patience


def offered(turn: Turn, agent: str, offer: m.Offer, *, whole: bool = False) -> None:
    """`whole`: its update is with it, and waits for leave to come in."""
    turn.state.agents[agent].power = offer.power
    report = figures.of_offer(turn, agent, offer)
    take_offer(turn, agent, offer.task, offer.sha256, offer.bytes, report, whole=whole)


def take_offer(
    turn: Turn,
    agent: str,
    name: str,
    sha256: str,
    size: int,
    report: m.Report | None,
    *,
    whole: bool = False,
) -> None:
    """An offer, or a spooled update in a hello (then without a report, if none came before)."""
    task = turn.task_of(agent, name)
    if task is None:
        turn.refuse(agent, "offer", "unknown_task" if name not in turn.state.tasks else "not_its_task")
        turn.send(agent, m.Cancel(task=name, reason="unknown task"))
    elif task.state in ENDED_WITHOUT_UPDATE:
        turn.send(agent, m.Cancel(task=name, reason=task.reason))
    elif task.state is S.ACKED or task.outcome is not None:
        answer_known(turn, task)
    elif task.state is not S.RECEIVED:
        kept = inline.release(turn, task)
        _enter_line(turn, task, sha256, size, report, at_once=whole and size <= kept)
    # RECEIVED: its bytes are on their way to the journal, the ack follows.


def answer_known(turn: Turn, task: Task) -> None:
    """The second copy of something that is in the journal: acknowledged with what is there, never merged again."""
    if task.position >= 0:
        turn.send(task.agent, m.Ack(task=task.id, sha256=task.sha256))
    if task.outcome is not None:
        turn.send(task.agent, tasks.outcome_of(task))


def _enter_line(
    turn: Turn, task: Task, sha256: str, size: int, report: m.Report | None, *, at_once: bool
) -> None:
    """`at_once`: there is room that was kept for it, and it is here."""
    if size > turn.config.update_bytes_max:
        if task.state is not S.OFFERED:
            _go_offered(turn, task, sha256, size, report)
        reason = f"{size} bytes offered, a model of {turn.config.parameters} parameters needs no more than "
        tasks.close_task(turn, task, S.REFUSED, reason + str(turn.config.update_bytes_max))
        grant_waiting(turn)
        return
    same = task.sha256 == sha256 and task.bytes == size
    if same and task.report is None and report is not None:
        task.report, task.samples = report, _counted_samples(turn, task.agent, report)
    if task.state is S.GRANTED and same:
        # A hello and the offer repeated after it arrive together: one grant answers both.
        if report is None or turn.now - task.heard >= REGRANT_S:
            regrant(turn, task)
    elif task.state is not S.OFFERED or not same:
        _go_offered(turn, task, sha256, size, report)
        if at_once:
            _grant(turn, task)
        else:
            grant_waiting(turn)
    else:
        grant_waiting(turn)  # whoever holds the room may have gone meanwhile


def _go_offered(turn: Turn, task: Task, sha256: str, size: int, report: m.Report | None) -> None:
    if task.state is S.GRANTED:
        tasks.release_grant(turn, task)  # the agent lost its spool, trained again and has other bytes now
    if task.state is not S.OFFERED:
        task.go(S.OFFERED, turn.now, f"{size} bytes, {sha256[:8]}")
    if task.id not in turn.state.offers:
        turn.state.offers.append(task.id)
    task.sha256, task.bytes, task.report = sha256, size, report or task.report
    task.samples = _counted_samples(turn, task.agent, task.report)
    task.enter_phase("waiting", turn.now)
    turn.record(
        "update_offered",
        task=task.id,
        agent=task.agent,
        sha256=sha256,
        bytes=size,
        report=msgspec.to_builtins(task.report) if task.report else None,
    )


def _counted_samples(turn: Turn, agent: str, report: m.Report | None) -> int:
    """A claim counts up to what the device's shard holds. Without a report (it was lost) the shard is believed."""
    held = turn.config.samples_of(agent)
    return held if report is None else min(report.samples, held)


def grant_waiting(turn: Turn) -> None:
    """Grant in the order of the offers while the budget lasts; a single update always passes.

    Those who are here go first: a grant to a device that is away holds room and moves nothing.
    """
    state = turn.state
    while state.offers:
        here = next((name for name in state.offers if _is_here(turn, name)), None)
        task = state.tasks[here or state.offers[0]]
        taken = state.granted_bytes + state.reserved_bytes
        if state.grants and taken + task.bytes > turn.config.open_grant_bytes_max:
            if here is None or not (inline.take_back(turn) or _take_back(turn)):
                return
            continue
        _grant(turn, task)
        regrant(turn, task)


def _grant(turn: Turn, task: Task) -> None:
    state = turn.state
    state.offers.remove(task.id)
    state.grants[task.id] = task.bytes
    state.granted_bytes += task.bytes
    task.go(S.GRANTED, turn.now, f"{state.granted_bytes} bytes granted in all")
    task.enter_phase("uploading", turn.now)
    turn.record("update_granted", task=task.id, agent=task.agent, sha256=task.sha256)


def _is_here(turn: Turn, name: str) -> bool:
    return turn.state.agents[turn.state.tasks[name].agent].online


def _take_back(turn: Turn) -> bool:
    """One grant of a device that went away goes to the end of the line; returns whether there was one."""
    for name in turn.state.grants:
        task = turn.state.tasks[name]
        if turn.gone(turn.state.agents[task.agent]):
            tasks.release_grant(turn, task)
            task.go(S.OFFERED, turn.now, "away, and others wait for its room")
            task.enter_phase("waiting", turn.now)
            turn.state.offers.append(name)
            return True
    return False


def regrant(turn: Turn, task: Task) -> None:
    """(Again) ask for what is missing; the service knows which chunks it has."""
    link = turn.config.agents[task.agent]
    task.heard = turn.now
    turn.emit(
        a.SendGrant(
            agent=task.agent,
            task=task.id,
            sha256=task.sha256,
            bytes=task.bytes,
            chunk_bytes=link.chunk_bytes,
            window_bytes=link.window_bytes,
        )
    )


def chunks_heard(turn: Turn, event: e.ChunksHeard) -> None:
    task = turn.task_of(event.agent, event.task)
    if task is not None and task.state is S.GRANTED:
        task.heard = turn.now


def received(turn: Turn, event: e.UpdateReceived) -> None:
    task = turn.task_of(event.agent, event.task)
    if task is None or task.state is not S.GRANTED or task.sha256 != event.sha256:
        return  # closed or offered anew while the last chunk was under way; the agent has been told
    state = turn.state
    # The bytes go to the journal from the assembly: only the room in the budget is given back here.
    state.granted_bytes -= state.grants.pop(task.id)
    task.go(S.RECEIVED, turn.now, f"{event.chunks} chunks")
    task.defect = event.defect or ("" if task.samples else "it claims to have trained on no samples")
    task.position = state.positions_made
    state.positions_made += 1
    turn.record(
        "update_received",
        task=task.id,
        agent=task.agent,
        sha256=event.sha256,
        bytes=event.bytes,
        payload_bytes=event.payload_bytes,
        chunks=event.chunks,
    )
    turn.emit(
        a.JournalUpdate(
            task=task.id,
            agent=task.agent,
            sha256=task.sha256,
            bytes=task.bytes,
            samples=task.samples,
            position=task.position,
            report=task.report,
            defect=task.defect,
        )
    )
    agent = state.agents[task.agent]
    agent.update_bytes = event.bytes
    if task.opened is not None and task.report is not None:
        took_s = turn.now - task.opened
        tasks.learn_timings(turn, agent, agent.timings.finished(took_s, task.report.train_s))
    grant_waiting(turn)


def broken(turn: Turn, event: e.UpdateBroken) -> None:
    task = turn.task_of(event.agent, event.task)
    turn.refuse(event.agent, "update", event.reason)
    if task is None or task.state is not S.GRANTED:
        return
    task.broken += 1
    if task.broken < turn.config.broken_max:
        regrant(turn, task)
    else:
        tasks.close_task(turn, task, S.FAILED, f"its bytes were broken {task.broken} times: {event.reason}")
        grant_waiting(turn)


def journalled(turn: Turn, event: e.UpdateJournalled) -> None:
    """The commit has returned: from here the update is ours, and the agent may forget its bytes."""
    task = turn.task_of(event.agent, event.task)
    if task is None or task.state is not S.RECEIVED:
        raise AssertionError(
            f"journalled an update that nobody received: {event}, {task and list(task.story)}"
        )
    task.go(S.ACKED, turn.now, "committed")
    agent = turn.state.agents[task.agent]
    if agent.task == task.id:
        agent.task = ""
    tasks.delivered(turn, task)
    turn.record("update_journalled", task=task.id, agent=task.agent, sha256=task.sha256)
    turn.send(task.agent, m.Ack(task=task.id, sha256=task.sha256))
    turn.record("update_acked", task=task.id, agent=task.agent, sha256=task.sha256)
    _into_the_pool(turn, task)


def _into_the_pool(turn: Turn, task: Task) -> None:
    """The update waits for its version, unless none will take it."""
    round_, carries = turn.state.round, turn.policy.carries
    mine = round_ is not None and task.round == round_.number and not round_.committing
    if task.defect:
        tasks.discard(turn, task, S.REFUSED, task.defect)
    elif turn.state.finish_reason:
        tasks.discard(turn, task, S.LATE, f"the run has ended: {turn.state.finish_reason}")
    elif not mine and not carries:
        tasks.discard(turn, task, S.LATE, f"round {task.round} was closed")
    elif not tasks.discarded_as_stale(turn, task) and round_ is not None:
        round_.quiet_since = turn.now
        if round_.attempts.get(task.agent, 0) > 0 and mine:
            round_.attempts[task.agent] -= 1
