"""Opening, sending, closing and settling tasks: what rounds, uploads and hellos have in common."""

from __future__ import annotations

import msgspec

from coordinator import actions as a
from coordinator import inline
from coordinator.policies import Timings
from coordinator.policies.selection import statistical_utility
from coordinator.state import FINAL, LOST, OUTCOME_STATES, Agent, Round, Task, TaskState
from coordinator.turn import Turn, derive_seed
from coordinator.uplink import give_uplink
from wire import messages as m

S = TaskState
DEADLINE_LEFT_MIN_S = 0.1  # the message must carry a positive number; the agent then gives up by itself


def open_task(turn: Turn, round_: Round, agent: Agent) -> Task:
    """A new task of an open round for a free agent; sent at once."""
    state, now = turn.state, turn.now
    state.tasks_made += 1
    task = Task(
        id=f"r{round_.number}-t{state.tasks_made}",
        agent=agent.name,
        round=round_.number,
        version=round_.version,
        seed=derive_seed(
            turn.config.seed, "train", round_.number, agent.name, round_.attempts.get(agent.name, 0)
        ),
        deadline=round_.deadline,
        opened=now,
        since=now,
        phase_since=now,
        heard=now,
    )
    task.story.append(f"{now:.3f} open: round {round_.number}, version {round_.version}")
    round_.attempts[agent.name] = round_.attempts.get(agent.name, 0) + 1
    round_.tasks.append(task.id)
    state.tasks[task.id] = state.unended[task.id] = task
    agent.task, agent.last_task = task.id, state.tasks_made
    give_time(turn, round_, task)
    left = task.deadline - now
    turn.emit(
        a.JournalTask(
            task=task.id,
            agent=task.agent,
            round=task.round,
            version=task.version,
            seed=task.seed,
            deadline_s=left,
        )
    )
    turn.record(
        "task_opened",
        task=task.id,
        agent=task.agent,
        round=task.round,
        version=task.version,
        deadline_s=round(left, 3),
    )
    send_task(turn, task)
    return task


def give_time(turn: Turn, round_: Round | None, task: Task) -> None:
    """What the task is given from now: its device's own time, within the deadline of its round while that is open."""
    policy, now = turn.policy, turn.now
    task.deadline_s = policy.task_deadline_s(turn.state.agents[task.agent].timings)
    task.deadline = now + task.deadline_s
    mine = round_ is not None and task.round == round_.number
    if policy.streams:
        task.expires = task.deadline
        return
    if round_ is not None and mine:
        task.deadline = min(task.deadline, round_.deadline)
    if policy.carries:
        task.expires = (round_.deadline if round_ is not None and mine else now) + policy.carry_s


def learn_timings(turn: Turn, agent: Agent, timings: Timings) -> None:
    """Durable with the next commit: a restart begins with what was known."""
    agent.timings, turn.slow = timings, None
    turn.emit(a.JournalMemo(key=f"timings/{agent.name}", value=msgspec.json.encode(timings).decode()))


def send_task(turn: Turn, task: Task) -> None:
    """Send it (again); agents treat a task they have as no news."""
    task.heard = turn.now
    task.uplink = task.uplink or give_uplink(turn, task)
    turn.emit(
        a.SendTask(
            agent=task.agent,
            task=task.id,
            round=task.round,
            version=task.version,
            seed=task.seed,
            deadline_s=max(task.deadline - turn.now, DEADLINE_LEFT_MIN_S),
            uplink=task.uplink,
            inline_bytes=inline.reserve(turn, task),
        )
    )


def reopen(turn: Turn, task: Task, why: str) -> None:
    """The agent lost what it had made: from the start, in the same task."""
    release_grant(turn, task)
    if task.state is not S.OPEN:
        task.go(S.OPEN, turn.now, why)
    task.sha256, task.bytes, task.report = "", 0, None
    task.phase, task.phase_since = "sent", turn.now
    send_task(turn, task)


def release_grant(turn: Turn, task: Task) -> None:
    """Give its room back, whether it was reserved, granted or still in the line."""
    inline.release(turn, task)
    if task.id in turn.state.offers:
        turn.state.offers.remove(task.id)
    freed = turn.state.grants.pop(task.id, None)
    if freed is not None:
        turn.state.granted_bytes -= freed
        turn.emit(a.DropAssembly(agent=task.agent, task=task.id))


def close_task(turn: Turn, task: Task, to: TaskState, reason: str, *, tell: bool = True) -> None:
    """End a task that never came to an ack."""
    release_grant(turn, task)
    _end(turn, task, to, reason)
    turn.emit(a.JournalClose(task=task.id, state=to.value, reason=reason))
    _record_closed(turn, task)
    if not tell:
        return
    if to is S.REFUSED:
        turn.send(task.agent, outcome_of(task))
    else:
        turn.send(task.agent, m.Cancel(task=task.id, reason=reason))


def discard(turn: Turn, task: Task, to: TaskState, reason: str) -> None:
    """Settle an acked update that no version will have."""
    _end(turn, task, to, reason)
    outcome = OUTCOME_STATES[to]
    turn.emit(a.JournalClose(task=task.id, state=to.value, reason=reason, outcome=outcome))
    turn.record(
        "update_discarded", task=task.id, agent=task.agent, sha256=task.sha256, outcome=outcome, reason=reason
    )
    _record_closed(turn, task)
    turn.send(task.agent, outcome_of(task))


def staleness(turn: Turn, task: Task) -> int:
    """Versions between the one it is trained on and the one it would be merged onto now."""
    return turn.state.version - task.version


def discarded_as_stale(turn: Turn, task: Task) -> bool:
    """End a task whose update is, or would be, too old to be merged. What is offered already is taken first."""
    age = staleness(turn, task)
    if turn.policy.factor(age) is not None or task.state not in (S.OPEN, S.TRAINING, S.ACKED):
        return False
    reason = f"trained on version {task.version}, {age} versions before this one"
    if task.state is S.ACKED:
        discard(turn, task, S.STALE, reason)
    else:
        close_task(turn, task, S.CANCELLED, reason)
    return True


def merged(turn: Turn, task: Task, version: int) -> None:
    """Settle an update that `version` has; its row is in the version's own transaction."""
    task.version_merged = version
    turn.state.agents[task.agent].merged += 1
    _end(turn, task, S.MERGED, f"version {version}")
    _record_closed(turn, task)
    turn.send(task.agent, outcome_of(task))


def delivered(turn: Turn, task: Task) -> None:
    """The journal has its update: what selection goes by from now, as `coordinator.recovery` finds it."""
    agent = turn.state.agents[task.agent]
    agent.delivered += 1
    agent.utility, agent.used_round = utility_of(task), task.round


def utility_of(task: Task) -> float:
    return statistical_utility(task.samples, task.report.loss if task.report is not None else None)


def outcome_of(task: Task) -> m.Outcome:
    """Of a task in an outcome state. Without an ack there is no sha256 to settle."""
    return m.Outcome(
        task=task.id,
        sha256=(task.sha256 or None) if task.position >= 0 else None,
        outcome=OUTCOME_STATES[task.state],
        version=task.version_merged,
        reason=task.reason,
    )


def _end(turn: Turn, task: Task, to: TaskState, reason: str) -> None:
    task.go(to, turn.now, reason)
    task.reason = reason[:512]
    task.report = None
    turn.state.unended.pop(task.id, None)
    agent = turn.state.agents[task.agent]
    agent.lost += to in LOST
    if to is S.TIMED_OUT and turn.now >= task.deadline:
        learn_timings(turn, agent, agent.timings.timed_out())
    if agent.task == task.id:
        agent.task = ""
    remember_settled(turn, agent, task)


def remember_settled(turn: Turn, agent: Agent, task: Task) -> None:
    """Keep what an agent may still ask for; the oldest goes, so memory does not grow with the rounds."""
    if len(agent.settled) == agent.settled.maxlen:
        turn.state.tasks.pop(agent.settled[0], None)
    agent.settled.append(task.id)


def _record_closed(turn: Turn, task: Task) -> None:
    assert task.state in FINAL
    turn.record(
        "task_closed",
        task=task.id,
        agent=task.agent,
        round=task.round,
        state=task.state.value,
        reason=task.reason,
    )
