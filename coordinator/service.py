"""The coordinator's loop: deliveries in, core, journal, deliveries out. One thread decides; others only enqueue.

A turn takes what is in the inbox, lets the core decide on all of it, commits every journal action of the turn at once
(one fsync covers many updates), and only then does the rest: acks leave after the commit that they speak of.
While the journal cannot be written nothing is decided and nothing is acknowledged; agents keep their spools.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from coordinator import actions as a
from coordinator import controls
from coordinator import events as e
from coordinator.chronicle import Chronicle
from coordinator.core import CoordinatorCore
from coordinator.drift import DriftWorker
from coordinator.evaluation import EvaluationWorker
from coordinator.inbound import Complete, Inbound
from coordinator.inbox import Delivery, Inbox
from coordinator.journal import Committed, Journal, JournalFull
from coordinator.merges import MergeSpec
from coordinator.mqtt import SYS_TOPICS, BrokerLink
from coordinator.outbound import Outbound
from coordinator.recovery import Model
from coordinator.refusals import RefusalLog
from coordinator.samples import BrokerSamples
from wire.codecs import model as versions
from wire.codecs.model import Patterns

BATCH_MAX = 1_024  # items of one turn: bounds how long an ack waits for the commit it shares
TURN_S_MAX = 1.0  # the health file and the refusal log want attention once a second
# Under load one commit serves what came in this time; after an idle moment nothing waits. An fsync costs as much on an
# SD card, and what a turn costs beside its events grows with the fleet.
TURN_SPACING_S = 0.02
JOURNAL_RETRY_S = (0.5, 10.0)
FLUSH_S = 5.0  # the last messages are some hundred bytes for each agent


class Service:
    """Everything comes in ready-made (`coordinator.setup`), so that tests can run it on their own parts."""

    def __init__(
        self,
        *,
        core: CoordinatorCore,
        journal: Journal,
        model: Model,
        merging: MergeSpec,
        rounding: versions.Rounding,
        inbox: Inbox,
        link: BrokerLink,
        inbound: Inbound,
        outbound: Outbound,
        evaluation: EvaluationWorker,
        chronicle: Chronicle,
        refusals: RefusalLog,
        alive: Path | None,
        sign: Callable[[str], object] = lambda _trouble: None,
        drift: DriftWorker | None = None,
        mono: Callable[[], float] = time.monotonic,
        wait: Callable[[float], Any] = time.sleep,
    ) -> None:
        self._core, self._journal, self._rounding, self._merging = core, journal, rounding, merging
        self._master, self._server_state = model.master, model.state
        self._patterns: dict[int, Patterns] = dict(model.recent)
        self._control = self._published_control()
        self._inbox, self._link, self._inbound, self._outbound = inbox, link, inbound, outbound
        self._evaluation, self._chronicle, self._refusals = evaluation, chronicle, refusals
        self._sign, self._trouble = sign, ""
        self._drift = drift
        self._alive, self._mono, self._wait = alive, mono, wait
        self._samples = BrokerSamples()
        self._payloads: dict[str, bytes] = {}  # by their sha256
        self._next_event = 1
        self._stopping = False
        self._housekept = float("-inf")
        self._turned_away = 0
        self._turned = float("-inf")
        self._result: a.Stop | None = None

    def request_stop(self) -> None:
        """From a signal handler or another thread: end soon, with everything durable that is acknowledged."""
        self._stopping = True
        self._inbox.wake()

    @property
    def stopping(self) -> bool:
        return self._stopping

    def run(self, *, resumed: bool) -> a.Stop | None:
        """Until the run ends (its Stop) or somebody asks us to stop (None). Raises EnvironmentFault."""
        try:
            self._touch()
            self._turn([e.Started(resumed=resumed)])
            self._link.start(self._given_up)
            while self._result is None and not self._stopping:
                self._step()
        finally:
            self._record_refusals(everything=True)
            self._record_drift(last=True)
            self._link.stop(FLUSH_S)
            self._evaluation.stop()
            self._chronicle.close()
            self._journal.close()
        return self._result

    def _given_up(self) -> bool:
        """Asked again and again while the first connection is awaited; waiting for a broker is no illness."""
        self._touch()
        return self._stopping

    def _step(self) -> None:
        now = self._mono()
        wait_s = min(self._core.next_wakeup(now) - now, TURN_S_MAX)
        if self._inbox.waiting() and (spare_s := self._turned + TURN_SPACING_S - now) > 0:
            self._wait(spare_s)
        items = self._inbox.take(wait_s, BATCH_MAX)
        events = [event for item in items if (event := self._event_of(item)) is not None]
        # A tick with every turn: a busy inbox must not keep a deadline from being seen.
        self._turn([*events, e.Tick()])
        self._turned = self._mono()
        if self._mono() >= self._housekept + TURN_S_MAX:
            self._housekeeping()

    # --- in --------------------------------------------------------------------------------------------------

    def _event_of(self, item: e.Event | Delivery) -> e.Event | None:
        if not isinstance(item, Delivery):
            return item
        if item.topic in SYS_TOPICS:
            self._broker_figure(item)
            return None
        taken = self._inbound.take(item, self._mono())
        if isinstance(taken, Complete):
            self._payloads[taken.sha256] = taken.payload
            return taken.event
        return taken

    def _broker_figure(self, item: Delivery) -> None:
        moved = self._samples.note(SYS_TOPICS[item.topic], item.payload)
        if moved:
            self._chronicle.lapse("broker_dropped", "no message dropped", f"{moved} dropped by the broker")

    def refuse(self, agent: str, topic: str, reason: str, size: int) -> None:
        refusal = self._refusals.note(agent, topic, reason, size, self._mono())
        if refusal is not None:
            self._chronicle.append("message_refused", msgspec.structs.asdict(refusal))

    # --- decide, commit, do ----------------------------------------------------------------------------------

    def _turn(self, events: list[e.Event]) -> None:
        waiting = deque(events)
        while waiting:
            actions: list[a.Action] = []
            while waiting:
                # Looking at the whole run costs as much as there are agents: once for all that came together.
                event = waiting.popleft()
                event = msgspec.structs.replace(event, id=self._next_event, more=bool(waiting))
                self._next_event += 1
                actions += self._core.handle(event, self._mono())
            if not self._commit(actions, waiting):
                return
            for action in actions:
                if not isinstance(action, a.JournalAction):
                    self._execute(action)
        self._payloads.clear()  # what the core did not want
        self._chronicle.sync()

    def _commit(self, actions: list[a.Action], results: deque[e.Event]) -> bool:
        """All journal actions in one transaction, tried until the disk takes it. False: stopped while it did not."""
        writes = [action for action in actions if isinstance(action, a.JournalAction)]
        if not writes:
            return True
        delay_s, since = JOURNAL_RETRY_S[0], None
        while True:
            try:
                with self._journal.transaction():
                    made = self._write(writes)
                break
            except JournalFull as error:
                if since is None:
                    since = self._mono()
                    self._trouble = f"nothing is acknowledged: {error}"
                    self._chronicle.lapse("journal", "a commit", "paused", self._trouble)
                if not self._pause(delay_s):
                    return False
                delay_s = min(delay_s * 2, JOURNAL_RETRY_S[1])
        if since is not None:
            self._trouble = ""
            self._chronicle.lapse("journal", "a commit", f"resumed after {self._mono() - since:.1f} s")
        for event in made:
            results.append(self._adopt(event) if isinstance(event, Committed) else event)
        return True

    def _pause(self, seconds: float) -> bool:
        deadline = self._mono() + seconds
        while self._mono() < deadline:
            if self._stopping:
                return False
            self._touch()
            self._wait(min(0.25, seconds))
        return True

    def _write(self, actions: list[a.JournalAction]) -> list[e.Event | Committed]:
        """In their order, what is alike and stands together at once; memos last, no other row speaks of them."""
        made: list[e.Event | Committed] = []
        memos = [action for action in actions if isinstance(action, a.JournalMemo)]
        for kind, alike in groupby((x for x in actions if not isinstance(x, a.JournalMemo)), type):
            self._write_alike(kind, list(alike), made)
        self._journal.remember(memos)
        return made

    def _write_alike(self, kind: type, actions: list[Any], made: list[e.Event | Committed]) -> None:
        if kind is a.JournalUpdate:
            self._journal.add_updates(actions, self._payloads)
            made += [e.UpdateJournalled(agent=x.agent, task=x.task, sha256=x.sha256) for x in actions]
        elif kind is a.JournalTask:
            self._journal.add_tasks(actions)
        elif kind is a.CommitVersion:
            made += [self._commit_version(action) for action in actions]
        else:
            for action in actions:
                self._journal.apply(action)

    def _commit_version(self, action: a.CommitVersion) -> Committed:
        before = self._patterns.get(action.version - 1)
        return self._journal.commit_version(
            action, self._master, self._rounding, self._merging, self._server_state, before
        )

    def _adopt(self, made: Committed) -> e.VersionCommitted:
        """Only now that it is durable does it become our model."""
        self._master, self._server_state = made.master, made.state
        self._patterns[made.version] = made.patterns
        self._control = self._published_control()
        if self._drift is not None:
            self._drift.submit(made.version, made.round)
        return e.VersionCommitted(version=made.version, sha256=made.sha256, refused=made.refused)

    def _published_control(self) -> Patterns | None:
        """What devices correct their gradients with, as of the last version."""
        rule, dtype = self._merging.rule, self._rounding.dtype
        return controls.published(rule, self._server_state, self._master.size, dtype)

    def _execute(self, action: a.Action) -> None:
        match action:
            case a.Record():
                self._chronicle.append(action.event, action.fields)
            case a.Send():
                self._outbound.send(action)
            case a.SendTask():
                self._outbound.send_task(action)
            case a.SendGrant():
                self._outbound.send_grant(action)
            case a.DropAssembly():
                self._inbound.drop(action.agent, action.task)
            case a.PublishVersion():
                self._publish_version(action)
            case a.WithdrawVersion():
                self._outbound.withdraw(action.version)
            case a.Republish():
                self._outbound.republish()
            case a.Evaluate():
                self._evaluation.submit(
                    action.version, versions.from_patterns(self._patterns[action.version])
                )
            case a.Refused():
                self.refuse(action.agent, action.kind, action.reason, 0)
            case a.Stop():
                self._result = action
            case _:
                raise TypeError(f"nobody executes {type(action).__name__}")

    def _publish_version(self, action: a.PublishVersion) -> None:
        """Also walks through the recent versions after a restart, so that the chain of deltas is there again."""
        objects = []
        for version in sorted(v for v in self._patterns if v <= action.version):
            if version > self._outbound.current:
                named = version == action.version or version in action.keep
                # A task is only ever given on the newest version where there are control variates.
                control = self._control if version == action.version else None
                objects = self._outbound.make_current(
                    version, self._patterns[version], keep=action.keep, announce=named, control=control
                )
        for version in [v for v in self._patterns if v < action.version]:
            del self._patterns[version]
        described = [{"name": o.ref.name, "bytes": o.ref.bytes, "chunks": o.ref.chunks} for o in objects]
        fields: dict[str, Any] = {"version": action.version, "objects": described}
        if self._control is not None:
            fields["control"] = versions.version_sha256(self._control)
        self._chronicle.append("version_published", fields)

    # --- once a second ---------------------------------------------------------------------------------------

    def _housekeeping(self) -> None:
        now = self._housekept = self._mono()
        self._touch()
        self._inbound.expire(now)
        self._record_refusals()
        self._record_drift()
        lost = self._inbox.overflowed()
        if lost:
            self._chronicle.lapse("inbox", "every message", f"{lost} turned away", "the queue was full")
        if self._turned_away:
            count, self._turned_away = self._turned_away, 0
            self._chronicle.lapse("outbox", "every message", f"{count} not sent", "the broker is too slow")
        sample = self._samples.due(now)
        if sample is not None:
            self._chronicle.append("broker_sample", sample)
        self._chronicle.sync()

    def _record_refusals(self, *, everything: bool = False) -> None:
        for refusal in self._refusals.flush(self._mono(), everything=everything):
            self._chronicle.append("message_refused", msgspec.structs.asdict(refusal))

    def _record_drift(self, *, last: bool = False) -> None:
        if self._drift is None:
            return
        for fields in self._drift.stop() if last else self._drift.take():
            self._chronicle.append("drift", fields)

    def outbox_full(self, _topic: str) -> None:
        self._turned_away += 1

    def _touch(self) -> None:
        """A sign of life: for the status, and for the container's health check; it is no reason to fail."""
        self._sign(self._trouble)
        if self._alive is None:
            return
        try:
            self._alive.touch()
        except OSError:
            self._alive = None
