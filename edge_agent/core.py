"""The agent's decisions: `handle(event, now) -> actions`, and when to be called again.

Pure: no socket, file, thread, clock or randomness. `edge_agent.service` executes the actions in order and feeds results
back as events (the contract is in `edge_agent.actions`); `simulation` does the same in virtual time. The phases of a
task, the prose about them and the table of their transitions are in `edge_agent.state`.

Who may be trusted with what: results of our own work must fit the phase, or it is our bug and raises with the story.
Messages never raise: what makes no sense is counted, recorded once per reason, and changes nothing.

What repeats, and why nothing waits for one message:
* an offer, until a grant, an ack or the task's end, with growing waits;
* a question for the outcome of acked updates, every 15 s and after every hello;
* a hello, after every connection, every resync, and when nothing was heard at all;
* a task that is sent again is answered with what there is: progress, the offer, the question, the failure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from edge_agent import actions as a
from edge_agent import answers, hand, items
from edge_agent import events as e
from edge_agent.limits import Limits
from edge_agent.state import IN_HAND, UNACKED, AgentState, Phase, Restored
from edge_agent.turn import Turn
from wire import messages as m

P = Phase
WAKE_S_MAX = 3600.0  # next_wakeup never promises to sleep longer; waking for nothing once an hour is free


class AgentCore:
    """One device. `restored` is what its disk still knew; `samples` the size of its shard."""

    def __init__(
        self,
        *,
        boot: str,
        samples: int,
        software: str = "",
        restored: Restored | None = None,
        limits: Limits | None = None,
        power: Callable[[], m.Power | None] = lambda: None,
    ) -> None:
        self.limits = limits or Limits()
        self.software = software
        restored = restored or Restored()
        self.state = AgentState(
            boot=boot,
            samples=samples,
            version=restored.version,
            version_sha256=restored.version_sha256,
            graph_sha256=restored.graph_sha256,
            control_sha256=restored.control_sha256,
            variate=restored.variate,
            items={item.task: item for item in restored.items},
            story=deque(maxlen=self.limits.story_lines),
        )
        self._turn = Turn(self.state, self.limits, power)

    def handle(self, event: e.Event, now: float) -> list[a.Action]:
        """Take one event at `now` (seconds of a clock that never goes back)."""
        turn = self._turn
        turn.begin(now)
        if self.state.finished:
            return turn.actions
        self._dispatch(turn, event)
        if not self.state.finished:
            self._advance(turn)
        return turn.actions

    def _dispatch(self, turn: Turn, event: e.Event) -> None:
        match event:
            case e.MessageArrived():
                self._message(turn, event.message)
            case e.Connected():
                self._connected(turn, event)
            case e.Disconnected():
                self._disconnected(turn, event)
            case e.ObjectReady():
                hand.object_ready(turn, event)
            case e.ObjectFailed():
                hand.object_failed(turn, event)
            case e.Trained():
                hand.trained(turn, event)
            case e.Probed():
                answers.probed(turn, event)
            case e.Surveyed():
                answers.surveyed(turn, event)
            case e.Encoded():
                hand.encoded(turn, event)
            case e.Spooled():
                hand.spooled(turn, event)
            case e.WorkFailed() | e.SpoolFailed():
                hand.work_failed(turn, event)
            case e.WorkStopped():
                hand.work_stopped(turn, event)
            case e.WorkProgressed():
                hand.progressed(turn, event)
            case e.UploadProgressed():
                items.upload_progressed(turn, event)
            case e.UploadDone():
                items.upload_done(turn, event)
            case e.Settled():
                items.settled(turn, event)
            case e.SettleFailed():
                items.settle_failed(turn, event)
            case e.Tick():
                pass
            case _:
                raise TypeError(f"no handler for {type(event).__name__}")

    def _advance(self, turn: Turn) -> None:
        """Whatever is due now, whichever event came."""
        hand.give_up(turn)
        items.settle_due(turn)
        hand.begin_waiting(turn)
        items.start_upload(turn)
        if not self.state.online:
            return
        if turn.now >= self.state.hello_at:
            self._hello(turn)
        items.offer_due(turn)
        items.ask_due(turn)

    # --- messages --------------------------------------------------------------------------------------------

    def _message(self, turn: Turn, message: m.Down) -> None:
        self._heard(turn)
        match message:
            case m.Task():
                hand.task_arrived(turn, message)
            case m.Grant():
                items.granted(turn, message)
            case m.Ack():
                self._acked(turn, message)
            case m.Outcome() | m.Cancel():
                self._task_over(turn, message)
            case m.Resync():
                self._hello(turn)
            case m.Finish():
                self._finish(turn, message)

    def _heard(self, turn: Turn) -> None:
        self.state.hellos = 0
        self.state.hello_at = turn.now + self.limits.hello_again_max_s

    def _task_over(self, turn: Turn, message: m.Outcome | m.Cancel) -> None:
        """Whatever there is of this task ends; a task that was never heard of is remembered as over."""
        state = self.state
        kind = "cancel" if isinstance(message, m.Cancel) else "outcome"
        item = state.items.get(message.task)
        if item is not None and isinstance(message, m.Cancel):
            items.cancelled(turn, item, message)
        elif item is not None and isinstance(message, m.Outcome):
            items.outcome(turn, item, message)
        elif state.hand is not None and state.hand.task == message.task:
            if state.hand.phase is P.SPOOLING:
                state.hand.fate = message
            else:
                hand.stop(turn, "cancelled", message.reason or kind)
        elif state.waiting is not None and state.waiting.task == message.task:
            state.waiting = None
            turn.remember_ended(message.task, "cancelled", message.reason or kind)
        elif message.task not in state.ended or state.ended[message.task].kind == "superseded":
            turn.remember_ended(message.task, "cancelled", message.reason or kind)

    def _acked(self, turn: Turn, message: m.Ack) -> None:
        """Of a task that is still in hand: a life before this one, which lost its disk, had sent its update."""
        working = self.state.hand
        if working is not None and working.task == message.task and working.phase is not P.SPOOLING:
            hand.stop(turn, "cancelled", "an earlier update of this task was taken")
        else:
            items.acked(turn, message)

    def _finish(self, turn: Turn, message: m.Finish) -> None:
        """What is on disk stays there as it is; what runs is stopped."""
        state = self.state
        if state.hand is not None and state.hand.phase in IN_HAND - {P.STOPPING, P.SPOOLING}:
            hand.stop(turn, "cancelled", "the run is over")
        items.connection_lost(turn)
        state.finished = True
        turn.emit(a.Stop(reason=message.reason or "the run is over"))

    # --- connection ------------------------------------------------------------------------------------------

    def _connected(self, turn: Turn, event: e.Connected) -> None:
        state = self.state
        if state.online:
            self._disconnected(turn, e.Disconnected(reason="a new connection"))
        state.online = True
        state.hellos = 0
        turn.record("connected", session_present=event.session_present)
        self._hello(turn)

    def _disconnected(self, turn: Turn, event: e.Disconnected) -> None:
        if self.state.online:
            turn.record("disconnected", reason=event.reason[:512])
        self.state.online = False
        items.connection_lost(turn)

    def _hello(self, turn: Turn) -> None:
        """Everything the coordinator needs to bring both sides to one view; questions and offers follow it."""
        state, limits = self.state, self.limits
        items.room_is_over(turn)
        wait_s = min(limits.hello_again_s * 2.0**state.hellos, limits.hello_again_max_s)
        state.hellos = min(state.hellos + 1, 16)
        state.hello_at = turn.now + wait_s
        state.ask_at = turn.now
        working = state.hand if state.hand is not None and state.hand.phase is not P.STOPPING else None
        spool = [item for item in state.items.values() if item.phase in UNACKED]
        turn.send(
            m.Hello(
                boot=state.boot,
                version=state.version,
                version_sha256=state.version_sha256,
                task=working.task if working else state.waiting.task if state.waiting else None,
                spool=tuple(m.SpoolItem(task=i.task, sha256=i.sha256, bytes=i.bytes) for i in spool),
                unsettled=items.unsettled(turn),
                samples=state.samples,
                software=self.software[:512],
                power=turn.power(),
                # While an update is settled its content may be what moves the variate; the disk says so in a moment.
                variate=state.variate or any(i.phase is P.SETTLING for i in state.items.values()),
            )
        )
        for item in spool:
            if item.phase is P.OFFERED and item.grant is None:
                item.offer_at = turn.now

    # --- time ------------------------------------------------------------------------------------------------

    def next_wakeup(self, now: float) -> float:
        """When to send a `Tick` if nothing happens before."""
        return min(self._moments(), default=now + WAKE_S_MAX)

    def _moments(self) -> Iterator[float]:
        state = self.state
        if state.finished:
            return
        if state.hand is not None and state.hand.phase in (P.FETCHING, P.TRAINING):
            yield state.hand.give_up_at
        for item in state.items.values():
            if (
                item.phase is P.SETTLING
                and not item.settle_sent
                and not self._waits_for_worker(item.give_back)
            ):
                yield item.settle_at
            if state.online and item.phase in (P.OFFERED, P.SENT) and item.grant is None:
                yield item.offer_at
            if state.online and item.phase is P.ACKED:
                yield state.ask_at
        if state.online:
            yield state.hello_at

    def _waits_for_worker(self, give_back: bool) -> bool:
        return give_back and self.state.hand is not None and self.state.hand.residual_busy

    # --- checks ----------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Every invariant of the state; raises AssertionError with the story. For tests and simulation."""
        state = self.state
        story = "\n  ".join(state.story)
        uploading = [item.task for item in state.items.values() if item.phase is P.UPLOADING]
        checks = {
            "at most one upload": len(uploading) <= 1,
            "no upload without a connection": state.online or not uploading,
            "no grant kept without a connection": state.online
            or all(i.grant is None for i in state.items.values()),
            "bounded pending updates": len(state.items) <= self.limits.pending_max,
            "bounded memory of ended tasks": len(state.ended) <= self.limits.done_max,
            "items are under their own name": all(name == item.task for name, item in state.items.items()),
            "items are in a phase of items": all(
                i.phase not in IN_HAND | {P.ENDED} for i in state.items.values()
            ),
            "acked means acked": all(i.was_acked for i in state.items.values() if i.phase is P.ACKED),
            "only merged, refused and forgotten content is kept": all(
                i.give_back == (i.outcome not in ("merged", "refused", "forgotten"))
                for i in state.items.values()
                if i.phase is P.SETTLING
            ),
            "a task is in hand or an item": state.hand is None or state.hand.task not in state.items,
            "in hand means being worked on": state.hand is None or state.hand.phase in IN_HAND,
            "a task waits only for the worker": state.waiting is None or state.hand is not None,
            "room for what is being made": state.hand is None
            or not state.hand.residual_busy
            or len(state.items) < self.limits.pending_max,
            "nothing unsettled is forgotten": all(name not in state.ended for name in state.items),
        }
        broken = [name for name, holds in checks.items() if not holds]
        assert not broken, f"{'; '.join(broken)}\n  {story}"
