"""The agent as a process: the core's actions executed, their results fed back, nothing decided.

Three threads: this loop owns the core and blocks on one inbox until something happens or the core's next
wake-up is due; paho's thread and the worker only put into that. Nothing is polled, for a throttled CPU has no
cycles to spare.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import msgspec

from edge_agent import actions as a
from edge_agent import events as e
from edge_agent import mqtt, transfer
from edge_agent.core import AgentCore
from edge_agent.errors import BrokerRefused
from edge_agent.inbox import Happening, Inbox, Noticed, Stopping
from edge_agent.ledger import DiskBroken, SpoolError
from edge_agent.spool import Spool
from edge_agent.traffic import RECORD_EVERY_S, Meter, Traffic
from edge_agent.transfer import Downloads, Uploads
from edge_agent.work import Worker
from topology.plan import AgentConfig
from wire import messages as m
from wire import topics

log = logging.getLogger("edge_agent")

ALIVE_S = 1.0
ALIVE_FILE = Path("/tmp/alive")
REFUSED_MAX = 7  # with paho's waits 16 s: a broker that is still loading its password file gets over it
COMPLAIN_S = 60.0  # an unreachable broker is said once a minute
FAREWELL_S = 1.0


class Client(transfer.Client, Protocol):
    """`mqtt.Client`, or the simulation's."""

    def start(self) -> None: ...
    def stop(self, farewell: tuple[str, bytes], wait_s: float) -> None: ...


class History(Protocol):
    """`history.writer.HistoryWriter`, or the simulation's."""

    def append(self, event: str, *, durable: bool = False, **fields: Any) -> None: ...
    def sync(self) -> None: ...


class AgentService:
    """`run` returns when the coordinator says finish or the process is told to stop; raises BrokerRefused."""

    def __init__(
        self,
        config: AgentConfig,
        core: AgentCore,
        spool: Spool,
        history: History,
        *,
        make_client: Callable[[Callable[[mqtt.Happening], None]], Client],
        make_worker: Callable[[Callable[[e.Event | DiskBroken], None]], Worker],
        clock: Callable[[], float] = time.monotonic,
        alive_file: Path = ALIVE_FILE,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter
        self._counted: Traffic | None = None
        self._count_at = float("-inf")
        self._config, self._core, self._spool, self._history = config, core, spool, history
        self._clock, self._alive_file = clock, alive_file
        self._inbox = Inbox()
        self._client = make_client(self._inbox.hint)
        self._worker = make_worker(self._inbox.post)
        self._uploads = Uploads(config, self._client, self._post_now, clock)
        self._downloads = Downloads(config, self._client, self._worker, self._post_now, clock)
        self._results: list[e.Event] = []
        self._stop_reason = ""
        self.told_to_stop = False  # by a signal, maybe before `run`
        self.working = False  # after `run`: the worker is still in the middle of a step
        self._refusals = 0
        self._refused: dict[tuple[str, str], int] = {}
        self._complained = float("-inf")
        self._alive_at = float("-inf")
        self._handlers: dict[type, Callable[[a.Action], None]] = {
            a.Send: self._send,
            a.SendWhole: self._send_whole,
            a.Fetch: self._fetch,
            a.Train: self._submit,
            a.Probe: self._submit,
            a.Encode: self._submit,
            a.Survey: self._submit,
            a.Commit: self._commit,
            a.Discard: self._discard,
            a.StopWork: self._stop_work,
            a.StartUpload: self._start_upload,
            a.StopUpload: self._stop_upload,
            a.MarkAcked: self._mark_acked,
            a.Settle: self._settle,
            a.Record: self._record,
            a.Stop: self._stop,
        }

    # --- life ------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Returns why it stopped."""
        self._worker.start()
        self._client.start()
        try:
            while not (self._stop_reason or self.told_to_stop):
                self._turn()
        finally:
            self._close()
        return self._stop_reason or "signal"

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """A signal handler: must not block, and the queue may be full of chunks."""
        self.told_to_stop = True
        self._inbox.wake(Stopping())

    def _turn(self) -> None:
        now = self._clock()
        due = min(self.next_wakeup(now), self._alive_at + ALIVE_S)
        for happening in self._inbox.take(max(0.0, due - now)) or [e.Tick()]:
            self.take(happening)
        self.alive()
        self._count_traffic()

    def _close(self) -> None:
        farewell = self._status(online=False)
        self._client.stop(farewell, FAREWELL_S)
        self._count_traffic(at_once=True)
        self.working = not self._worker.close(FAREWELL_S)

    def alive(self) -> None:
        """For the container's health check; at the gate as well, where nothing else happens."""
        now = self._clock()
        if now - self._alive_at < ALIVE_S:
            return
        self._alive_at = now
        # No such folder on this device, or another agent's file: then nobody asks.
        with contextlib.suppress(OSError):
            self._alive_file.touch()

    def _count_traffic(self, *, at_once: bool = False) -> None:
        """What the connection has cost so far, into the history: now and then, and at the end."""
        now = self._clock()
        if self._meter is None or (now < self._count_at and not at_once):
            return
        self._count_at = now + RECORD_EVERY_S
        found = self._meter.now()
        if found.mqtt_sent and found != self._counted:
            self._counted = found
            self._history.append("traffic", **msgspec.structs.asdict(found))
            self._history.sync()

    # --- the queue -------------------------------------------------------------------------------------------

    def _post_now(self, event: e.Event) -> None:
        """From this loop: taken before anything else from the queue."""
        self._results.append(event)

    @property
    def stop_reason(self) -> str:
        """Empty while it runs."""
        return self._stop_reason

    def next_wakeup(self, now: float) -> float:
        """When a Tick is due if nothing happens before."""
        return min(self._core.next_wakeup(now), self._downloads.next_wakeup(now))

    def take(self, happening: Happening) -> None:
        """One thing that happened, with everything that follows from it at once."""
        self._dispatch(happening)
        while self._results:
            self._feed(self._results.pop(0))
        self._downloads.advance()
        self._history.sync()

    def _dispatch(self, happening: Happening) -> None:
        match happening:
            case Stopping() | Noticed():
                pass  # told_to_stop is set; the inbox has taken what lay beside it
            case DiskBroken():
                raise happening
            case mqtt.Up():
                self._connected(happening)
            case mqtt.Down():
                self._uploads.clear()
                self._feed(e.Disconnected(reason=happening.reason))
            case mqtt.NotConnected():
                self._not_connected(happening)
            case mqtt.Message():
                self._message(happening)
            case mqtt.Confirmed():
                self._uploads.confirmed(happening.mid)
            case _:
                self._feed(happening)

    def _feed(self, event: e.Event) -> None:
        for action in self._core.handle(event, self._clock()):
            self._handlers[type(action)](action)

    # --- connection and messages -----------------------------------------------------------------------------

    def _connected(self, up: mqtt.Up) -> None:
        log.info("connected to %s:%d", self._config.broker_host, self._config.broker_port)
        self._refusals, self._complained = 0, float("-inf")
        self._client.subscribe([topics.down(self._config.run, self._config.agent, "#")])
        topic, payload = self._status(online=True)
        self._client.publish(topic, payload, retain=True)
        self._uploads.clear()
        self._downloads.reconnected()
        self._feed(e.Connected(session_present=up.session_present))

    def _status(self, *, online: bool) -> tuple[str, bytes]:
        return status_message(self._config, self._core.state.boot, online=online)

    def _not_connected(self, attempt: mqtt.NotConnected) -> None:
        where = f"{self._config.broker_host}:{self._config.broker_port}"
        if attempt.credentials:
            self._refusals += 1
            if self._refusals >= REFUSED_MAX:
                raise BrokerRefused(
                    f"the broker at {where} refuses user {self._config.username!r} ({attempt.reason}), "
                    f"{REFUSED_MAX} times: its password file or this device's does not fit this run. "
                    "Write the credentials anew and start again"
                )
        if self._clock() - self._complained >= COMPLAIN_S:
            self._complained = self._clock()
            log.warning("no connection to the broker at %s: %s; trying again", where, attempt.reason)

    def _message(self, message: mqtt.Message) -> None:
        root = topics.root(self._config.run) + "/"
        if message.topic.startswith(root + "model/"):
            reason = self._downloads.message(message.topic, message.payload)
        else:
            reason = self._control(message)
        if reason:
            self._refuse(message.topic, reason)

    def _control(self, message: mqtt.Message) -> str:
        try:
            decoded = m.decode_down(message.payload)
        except m.MessageError as error:
            return error.reason
        kind = message.topic.rpartition("/")[2]
        if kind != type(decoded).__name__.lower():
            return "wrong_topic"
        self._feed(e.MessageArrived(message=decoded))
        return ""

    def _refuse(self, topic: str, reason: str) -> None:
        """Counted; written down at the first and at every power of two, so a flood leaves a dozen lines."""
        kind = topic.split("/")[2] if topic.count("/") > 1 else ""
        count = self._refused[kind, reason] = self._refused.get((kind, reason), 0) + 1
        if count & (count - 1) == 0:
            log.warning("refused a message on %s: %s (%d so far)", topic[:128], reason, count)
            self._history.append("message_refused", topic=topic[:256], reason=reason, count=count)

    # --- actions ---------------------------------------------------------------------------------------------

    def _send(self, action: a.Action) -> None:
        assert isinstance(action, a.Send)
        self._say(action.message)

    def _send_whole(self, action: a.Action) -> None:
        assert isinstance(action, a.SendWhole)
        offer = action.offer
        try:
            offer = msgspec.structs.replace(offer, update=bytes(self._spool.payload(offer.task)))
        except SpoolError as error:
            log.error("cannot send the update of %s: %s", offer.task, error)
        else:
            self._history.append("sent", task=offer.task, payload_bytes=offer.bytes, chunks=0, resent=0)
        self._say(offer)

    def _say(self, message: m.Up) -> None:
        kind = type(message).__name__.lower()
        topic = topics.up(self._config.run, self._config.agent, kind)
        self._client.publish(topic, m.encode(message), qos=0 if kind == "progress" else 1)

    def _fetch(self, action: a.Action) -> None:
        assert isinstance(action, a.Fetch)
        self._downloads.start(action)

    def _submit(self, action: a.Action) -> None:
        assert isinstance(action, a.Train | a.Probe | a.Survey | a.Encode)
        self._worker.submit(action)

    def _commit(self, action: a.Action) -> None:
        assert isinstance(action, a.Commit)
        try:
            self._spool.commit(action.task)
        except SpoolError as error:
            log.error("cannot spool the update of %s: %s", action.task, error)
            self._results.append(e.SpoolFailed(task=action.task, reason=str(error)[:512]))
        else:
            self._results.append(e.Spooled(task=action.task, sha256=action.sha256))

    def _discard(self, action: a.Action) -> None:
        assert isinstance(action, a.Discard)
        self._worker.discard(action.task)

    def _stop_work(self, action: a.Action) -> None:
        assert isinstance(action, a.StopWork)
        if self._downloads.cancel(action.task):
            self._results.append(e.WorkStopped(task=action.task))
        else:
            self._worker.stop(action.task)

    def _start_upload(self, action: a.Action) -> None:
        assert isinstance(action, a.StartUpload)
        try:
            self._uploads.start(action, self._spool.payload(action.task))
        except (SpoolError, ValueError) as error:
            log.error("cannot send the update of %s: %s", action.task, error)

    def _stop_upload(self, action: a.Action) -> None:
        self._uploads.clear()

    def _mark_acked(self, action: a.Action) -> None:
        assert isinstance(action, a.MarkAcked)
        try:
            self._spool.acked(action.task)
        except SpoolError as error:
            # After a restart it would be offered again and acked again: no harm.
            log.warning("cannot note the ack of %s: %s", action.task, error)

    def _settle(self, action: a.Action) -> None:
        assert isinstance(action, a.Settle)
        try:
            norm = self._spool.settle(action.task, action.give_back, action.merged)
        except SpoolError as error:
            log.error("cannot settle %s: %s", action.task, error)
            self._results.append(e.SettleFailed(task=action.task, reason=str(error)[:512]))
        else:
            self._results.append(e.Settled(task=action.task, residual_norm=norm, variate=self._spool.variate))

    def _record(self, action: a.Action) -> None:
        assert isinstance(action, a.Record)
        self._history.append(action.event, **action.fields)
        log.info("%s %s", action.event, " ".join(f"{k}={v}" for k, v in action.fields.items())[:200])

    def _stop(self, action: a.Action) -> None:
        assert isinstance(action, a.Stop)
        self._stop_reason = action.reason


def status_message(config: AgentConfig, boot: str, *, online: bool) -> tuple[str, bytes]:
    """The retained status and, offline, the last will."""
    return topics.status(config.run, config.agent), m.encode(m.Status(online=online, boot=boot))


def install_signals(service: AgentService) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, service.stop)
