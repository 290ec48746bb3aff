"""Who is here: statuses, hellos and their answers, progress, questions."""

from __future__ import annotations

from coordinator import actions as a
from coordinator import events as e
from coordinator import inline, probing, survey, tasks, uploads
from coordinator.state import UNDER_WAY, Agent, RunPhase, Task, TaskState
from coordinator.turn import Turn
from wire import messages as m

S = TaskState


def connected(turn: Turn, event: e.Connected) -> None:
    """Publish what lives again and ask everybody for a hello: this broker may remember nothing."""
    turn.emit(a.Republish())
    for agent in turn.state.agents.values():
        if agent.online:
            agent.online, agent.away_since = False, turn.now
        turn.send(agent.name, m.Resync(epoch=turn.state.epoch))


def status(turn: Turn, agent: Agent, message: m.Status) -> None:
    """Only `offline` of the boot we know counts; an old boot's will may arrive after the new boot's hello."""
    if message.online or message.boot != agent.boot:
        return
    if agent.online:
        agent.online, agent.away_since = False, turn.now
    _announce(turn, agent, online=False)


def status_refused(turn: Turn, event: e.StatusRefused) -> None:
    """Gone until it says otherwise: rounds must not wait for a device whose last will cannot be read. If it is here, it
    answers the resync.
    """
    agent = turn.state.agents.get(event.agent)
    if agent is None or not agent.announced:
        return
    if agent.online:
        agent.online, agent.away_since = False, turn.now
    _announce(turn, agent, online=False)
    turn.send(agent.name, m.Resync(epoch=turn.state.epoch))


def _announce(turn: Turn, agent: Agent, *, online: bool) -> None:
    if agent.announced != online:
        agent.announced = online
        turn.record("agent_online" if online else "agent_offline", agent=agent.name, boot=agent.boot)


def hello(turn: Turn, agent: Agent, message: m.Hello) -> None:
    """Bring both sides to the same view: acks and outcomes that were lost, closed tasks, the open task."""
    if agent.announced and agent.boot != message.boot:
        _announce(turn, agent, online=False)  # its will got lost with a broker
    if message.boot not in agent.boots:  # else it may be an old hello, from before something was merged
        agent.boots.append(message.boot)
        _look_for_variate(turn, agent, message)
    agent.boot, agent.version, agent.online = message.boot, message.version, True
    agent.power = message.power
    agent.samples = min(message.samples, turn.config.samples_of(agent.name))
    _announce(turn, agent, online=True)
    turn.record(
        "hello",
        agent=agent.name,
        boot=message.boot,
        version=message.version,
        task=message.task,
        spool=[item.task for item in message.spool],
        unsettled=list(message.unsettled),
    )
    if agent.task in turn.state.reserved:
        inline.release(turn, turn.state.tasks[agent.task])  # it was told so on a connection that may be lost
        uploads.grant_waiting(turn)
    message = survey.hello(turn, agent, message)
    for item in message.spool:
        uploads.take_offer(turn, agent.name, item.task, item.sha256, item.bytes, None)
    answer_asked(turn, agent, message.unsettled)
    probing.said_hello(turn, agent, message)
    _task_in_hand(turn, agent, message)
    if turn.state.phase is RunPhase.FINISHING:
        turn.send(agent.name, m.Finish(reason=turn.state.finish_reason))


def _look_for_variate(turn: Turn, agent: Agent, message: m.Hello) -> None:
    """SCAFFOLD: a device that lost its disk begins with c_i = 0, and what it had moved c by stays there for ever: a
    bias that nothing else would show. What it still has to settle has not moved its c_i yet.
    """
    settled = agent.merged - len(
        {message.task, *message.unsettled, *(item.task for item in message.spool)} - {None}
    )
    if turn.config.control is None or message.variate or settled <= agent.variate_lost:
        return
    agent.variate_lost = settled
    turn.record(
        "lapse",
        what="variate_lost",
        node=agent.name,
        requested=f"a control variate moved by {settled} merged updates",
        effective="none",
        detail="the device has lost its disk; what it had moved c by stays in c",
    )


def _task_in_hand(turn: Turn, agent: Agent, message: m.Hello) -> None:
    held = {item.task for item in message.spool} | set(message.unsettled)
    in_hand = turn.task_of(agent.name, message.task) if message.task else None
    probed = message.task is not None and probing.is_probe(message.task)
    if in_hand is not None and (in_hand.state is S.ACKED or in_hand.outcome is not None):
        # An old hello that comes late, or a disk that was lost. A cancel could overtake the ack, and the agent
        # would give content back to its residual that the journal has.
        uploads.answer_known(turn, in_hand)
    elif message.task and not probed and (in_hand is None or in_hand.state not in UNDER_WAY):
        turn.send(
            agent.name, m.Cancel(task=message.task, reason=in_hand.reason if in_hand else "unknown task")
        )
    elif in_hand is not None and in_hand.id not in held:
        _back_to_training(turn, in_hand)
    ours = turn.state.tasks.get(agent.task)
    if ours is None or ours is in_hand or ours.id in held or ours.state is S.RECEIVED:
        return
    tasks.reopen(turn, ours, f"boot {agent.boot} has nothing of it")
    uploads.grant_waiting(turn)


def _back_to_training(turn: Turn, task: Task) -> None:
    """It works on it (again): what it may have offered before is gone with its disk."""
    if task.state in (S.OFFERED, S.GRANTED):
        tasks.release_grant(turn, task)
        task.go(S.OPEN, turn.now, "in hand again, so its offer is void")
        uploads.grant_waiting(turn)
    if task.state is S.OPEN:
        task.go(S.TRAINING, turn.now, "in hand, says its hello")


def answer_asked(turn: Turn, agent: Agent, names: tuple[str, ...]) -> None:
    """Outcomes of acked updates; silence while there is none yet."""
    for name in names:
        task = turn.task_of(agent.name, name)
        if task is None:
            turn.refuse(agent.name, "ask", "unknown_task" if name not in turn.state.tasks else "not_its_task")
            turn.send(agent.name, m.Cancel(task=name, reason="unknown task"))
        elif task.outcome is not None:
            turn.send(agent.name, tasks.outcome_of(task))
        elif task.ended:
            turn.send(agent.name, m.Cancel(task=name, reason=task.reason))


def progress(turn: Turn, agent: Agent, message: m.Progress) -> None:
    task = turn.task_of(agent.name, message.task)
    if task is None and probing.heard(turn, agent, message.task):
        return
    if task is None:
        if not survey.concerns(turn, message.task):
            turn.refuse(agent.name, "progress", "unknown_task")
        return
    if task.state is S.OPEN:
        task.go(S.TRAINING, turn.now, message.phase)
    if task.state in UNDER_WAY and task.enter_phase(message.phase, turn.now):
        turn.record("task_progress", task=task.id, agent=agent.name, phase=message.phase)


def failed(turn: Turn, agent: Agent, message: m.Failed) -> None:
    task = turn.task_of(agent.name, message.task)
    if task is None and probing.failed(turn, agent, message.task):
        return
    if task is None and survey.concerns(turn, message.task):
        survey.failed(turn, agent)
    elif task is None:
        turn.refuse(agent.name, "failed", "unknown_task")
    elif task.state in UNDER_WAY and task.state is not S.RECEIVED:
        tasks.close_task(turn, task, S.FAILED, message.reason, tell=False)
        uploads.grant_waiting(turn)


def came_back(turn: Turn, agent: Agent) -> None:
    """A message of an agent that we thought gone: it is here, if this connection had its hello."""
    if not agent.online and agent.boot and agent.announced:
        agent.online = True


def away(turn: Turn, task: Task) -> bool:
    """Whether the task's agent has been gone for longer than the grace."""
    return turn.gone(turn.state.agents[task.agent])
