"""The coordinator's decisions: `handle(event, now) -> actions`, and when to be called again.

Pure: no socket, file, thread, clock or global random. `coordinator.service` executes the actions (the contract is in
`coordinator.actions`) and feeds results back as events; `simulation` does the same in virtual time.

Theory of operation
-------------------
The run gathers agents, opens a round, collects updates, has a version committed and evaluated, and opens the next
round, until the target or the number of rounds is reached; then it says goodbye. A round is the making of one version.

    gathering -> [probing] -> collecting -> [commit] -> evaluating (with a target, or at the end) -> gathering ...
    any of them -> [surveying] (devices test the last version on their own data) -> finishing -> done

How a round begins, whom it asks, when its updates are enough and whether tasks outlive it is the schedule's
(`coordinator.policies`): with synchronous rounds a task ends with its round; where a schedule carries, its update waits
in a pool for the version that is next, and the version it was trained on stays live meanwhile (`coordinator.versions`).

The states of a task and the table of their transitions are in `coordinator.state`. What happens when things go wrong:

* *An agent is killed.* Its last will makes it offline; its task survives until the round closes, or its own time is
  over. Back in time it says in its hello what it still has: a spooled update is granted (only the missing chunks), a
  task in hand goes on, and when it has nothing the same task is sent again. A round that has its quorum waits
  `drop_after_s` for it, not longer.
* *A message is lost.* Nothing waits for one message: tasks and grants without a sign are sent again, hellos bring both
  sides to the same view, and what the journal has is acked again, never merged again.
* *The broker forgets everything.* On every connection live versions are published again and everybody is asked for
  a hello; nobody counts as online before that.
* *The coordinator dies.* `coordinator.recovery` rebuilds this state from the journal; the open round goes on with a
  fresh deadline, for its downtime is not the agents' fault.
* *Nobody comes.* Every wait has an end: probes by their deadline, rounds by `extensions_max`, gathering by
  `start_timeout_s`, evaluation by `evaluation_wait_s`, goodbye by `finish_wait_s`.
"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator import actions as a
from coordinator import events as e
from coordinator import picture, presence, probing, run, survey, uplink, uploads, waiting
from coordinator.config import CoordinatorConfig
from coordinator.invariants import check
from coordinator.policies import Policy, make_policy
from coordinator.state import Agent, CoordinatorState, RunPhase, TaskState
from coordinator.turn import Turn
from wire import messages as m

S = TaskState
ARRIVAL_S_MAX = 3600.0  # next_wakeup never promises to sleep longer; waking for nothing once an hour is free


def fresh_state(config: CoordinatorConfig) -> CoordinatorState:
    return CoordinatorState(agents={name: Agent(name) for name in config.agents})


class CoordinatorCore:
    """`state` comes from `fresh_state` or `coordinator.recovery.restore`; the core owns it from then on."""

    def __init__(
        self, config: CoordinatorConfig, state: CoordinatorState, policy: Policy | None = None
    ) -> None:
        self.config, self.state = config, state
        self.policy = policy or make_policy(config.policy)
        self._turn = Turn(config, state, self.policy, first_action=1)

    def handle(self, event: e.Event, now: float) -> list[a.Action]:
        """Take one event at `now` (seconds of a clock that never goes back). Raises IllegalTransition on our bugs."""
        turn = self._turn
        turn.begin(event.id, now)
        self._dispatch(turn, event)
        if not event.more:
            run.advance(turn)
        return turn.actions

    def _dispatch(self, turn: Turn, event: e.Event) -> None:
        match event:
            case e.MessageArrived():
                self._message(turn, event.agent, event.message)
            case e.StatusRefused():
                presence.status_refused(turn, event)
            case e.ChunksHeard():
                uploads.chunks_heard(turn, event)
            case e.UpdateReceived():
                uplink.measure(turn, event)
                uploads.received(turn, event)
            case e.OfferedWhole():
                room = self.state.reserved.get(event.received.task, 0)
                self._message(turn, event.agent, event.offer, whole=True)
                if event.received.bytes <= room:  # else it is a mere offer: its bytes come again with a grant
                    uploads.received(turn, event.received)
            case e.UpdateJournalled():
                uploads.journalled(turn, event)
            case e.UpdateBroken():
                uploads.broken(turn, event)
            case e.VersionCommitted():
                run.committed(turn, event)
            case e.Evaluated():
                run.evaluated(turn, event)
            case e.EvaluationFailed():
                run.evaluation_failed(turn, event)
            case e.Started():
                run.started(turn, event)
            case e.Connected():
                presence.connected(turn, event)
            case e.Disconnected() | e.Tick():
                pass
            case _:
                raise TypeError(f"no handler for {type(event).__name__}")

    def _message(self, turn: Turn, name: str, message: m.Up, *, whole: bool = False) -> None:
        agent = self.state.agents.get(name)
        if agent is None:
            turn.refuse(name, type(message).__name__.lower(), "unknown_agent")
            return
        if not isinstance(message, m.Status | m.Hello):
            presence.came_back(turn, agent)
        match message:
            case m.Hello():
                presence.hello(turn, agent, message)
            case m.Status():
                presence.status(turn, agent, message)
            case m.Offer():
                uploads.offered(turn, name, message, whole=whole)
            case m.Progress():
                presence.progress(turn, agent, message)
            case m.Failed():
                presence.failed(turn, agent, message)
            case m.Probed():
                probing.answered(turn, agent, message)
            case m.Surveyed():
                survey.answered(turn, agent, message)
            case m.Ask():
                presence.answer_asked(turn, agent, message.tasks)

    def next_wakeup(self, now: float) -> float:
        """When to send a `Tick` if nothing happens before."""
        return min((moment for moment in self._moments() if moment > now), default=now + ARRIVAL_S_MAX)

    def _moments(self) -> Iterator[float]:
        config, state = self.config, self.state
        since = state.phase_since
        match state.phase:
            case RunPhase.GATHERING:
                yield max(state.waiting_recorded, since) + config.waiting_every_s
                yield since + config.start_timeout_s
                yield since + 2 * config.start_timeout_s
                yield from (task.expires for task in state.under_way)
            case RunPhase.PROBING if state.probe is not None:
                yield from probing.moments(self._turn, state.probe)
                yield from (task.expires for task in state.under_way)
            case RunPhase.COLLECTING:
                yield from self._collecting_moments()
            case RunPhase.EVALUATING:
                yield since + config.evaluation_wait_s
            case RunPhase.SURVEYING:
                yield from survey.moments(state, config)
            case RunPhase.FINISHING:
                yield state.goodbye_from
                yield since + config.finish_wait_s

    def _collecting_moments(self) -> Iterator[float]:
        config, state = self.config, self.state
        if state.round is None:
            return
        yield state.round.deadline
        yield state.wait_until
        yield waiting.next_record(state, self.policy, config)
        for task in state.under_way:
            agent = state.agents[task.agent]
            yield task.deadline
            yield task.expires
            if not agent.online:
                yield agent.away_since + config.drop_after_s
            elif task.state is S.OPEN:
                yield task.heard + config.nudge_s
            elif task.state is S.GRANTED:
                yield task.heard + config.grant_idle_s
            elif task.state is S.RECEIVED:
                yield state.round.deadline + 1.0

    def picture(self, now: float) -> picture.Picture:
        """What the run is doing and whom it waits for. Looks, and changes nothing."""
        turn = Turn(self.config, self.state, self.policy, first_action=1)
        turn.begin(0, now)
        return picture.take(turn)

    def validate(self) -> None:
        """Check every invariant of the state; raises AssertionError with the story. For tests and simulation."""
        check(self.config, self.state, self.policy)
