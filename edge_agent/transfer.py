"""Uploads and downloads over MQTT: the pure windows of `upload` and `fetch`, driven by what the client reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from edge_agent import actions as a
from edge_agent import events as e
from edge_agent.fetch import Fetch
from edge_agent.jobs import Install
from edge_agent.upload import Upload, window_bytes
from edge_agent.work import Worker
from topology.plan import AgentConfig
from wire import topics

FAR_S = 3600.0  # nothing to wake up for
# What paho has from before is a second of the link; unconfirmed for longer it went with a broker.
LEFTOVER_S = 5.0

Post = Callable[[e.Event], None]


class Client(Protocol):
    """What uploads and downloads ask of `mqtt.Client`."""

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> int | None: ...
    def subscribe(self, topics: Sequence[str]) -> None: ...
    def unsubscribe(self, topics: Sequence[str]) -> None: ...


class Uploads:
    """The one upload there may be.

    What paho had in flight when an upload ended early is still on its way, or is sent again after a reconnect: until
    it is confirmed it takes up room in the window of the next one.
    """

    def __init__(self, config: AgentConfig, client: Client, post: Post, clock: Callable[[], float]) -> None:
        self._config, self._client, self._post, self._clock = config, client, post, clock
        self._upload: Upload | None = None
        self._chunks: dict[int, int] = {}  # message id -> index of the chunk
        self._leftover: dict[int, int] = {}  # message id -> bytes
        self._leftover_since = float("-inf")

    def start(self, action: a.StartUpload, payload: bytes) -> None:
        self.clear()
        if self._clock() - self._leftover_since > LEFTOVER_S:
            self._leftover.clear()
        window = window_bytes(action.window_bytes, self._config.uplink_bit_s)
        self._upload = Upload(action.task, payload, action.chunk_bytes, window, action.missing)
        self._send()

    def clear(self) -> None:
        """Forget it; what paho still has in flight is confirmed to nobody, and counted."""
        if self._upload is not None and self._chunks:
            share = self._upload.in_flight_bytes // len(self._chunks)
            self._leftover |= dict.fromkeys(self._chunks, share)
            self._leftover_since = self._clock()
        self._upload = None
        self._chunks.clear()

    def confirmed(self, mid: int) -> None:
        left = self._leftover.pop(mid, None)
        index = self._chunks.pop(mid, None)
        if self._upload is None or (index is None and left is None):
            return
        if index is not None:
            self._upload.confirmed(index)
        self._send()

    def _send(self) -> None:
        upload = self._upload
        assert upload is not None
        while (piece := upload.next_chunk(sum(self._leftover.values()))) is not None:
            index, message = piece
            topic = topics.chunk(self._config.run, self._config.agent, upload.task, index)
            mid = self._client.publish(topic, message)
            if mid is None:
                return  # the connection is going: the next grant names what is missing
            self._chunks[mid] = index
        event: e.Event = e.UploadProgressed(
            task=upload.task, sha256=upload.sha256, done=upload.done, total=upload.total
        )
        if upload.complete:
            self._upload = None
            event = e.UploadDone(
                task=upload.task,
                sha256=upload.sha256,
                payload_bytes=upload.sent_bytes,
                chunks=upload.total,
                resent=upload.resent,
            )
        self._post(event)


class Downloads:
    """The one object there may be on its way to this device."""

    def __init__(
        self, config: AgentConfig, client: Client, worker: Worker, post: Post, clock: Callable[[], float]
    ) -> None:
        self._config, self._client, self._worker, self._post, self._clock = (
            config,
            client,
            worker,
            post,
            clock,
        )
        self._fetch: Fetch | None = None
        self._told = float("-inf")

    def start(self, action: a.Fetch) -> None:
        self._fetch = Fetch(
            action.task,
            action.object,
            action.model,
            action.leads_to,
            self._config.downlink_bit_s or self._config.uplink_bit_s,
            self._clock(),
            action.control,
        )
        self.advance()

    def cancel(self, task: str) -> bool:
        """Returns whether there was one for this task."""
        fetch = self._fetch
        if fetch is None or fetch.task != task:
            return False
        self._let_go(fetch)
        return True

    def reconnected(self) -> None:
        if self._fetch is not None:
            self._fetch.reconnected(self._clock())
            self.advance()

    def next_wakeup(self, now: float) -> float:
        return now + FAR_S if self._fetch is None else self._fetch.stalled_at

    def advance(self) -> None:
        """Ask for what the window has room for."""
        fetch = self._fetch
        if fetch is None:
            return
        steps = fetch.steps(self._clock())
        self._client.subscribe([self._topic(fetch, index) for index in steps.subscribe])
        self._client.unsubscribe([self._topic(fetch, index) for index in steps.unsubscribe])

    def message(self, topic: str, payload: bytes) -> str:
        """A chunk on a model topic. Returns why it is refused, or an empty string."""
        fetch, (name, _, number) = self._fetch, topic.rpartition("/model/")[2].rpartition("/")
        if not number.isascii() or not number.isdigit() or len(number) > 6:
            return "topic"
        if fetch is None or name != fetch.reference.name:
            # Subscribed to in an earlier life of this session, or let go of a moment ago.
            self._client.unsubscribe([topic])
            return ""
        if not payload:
            return ""  # a version that is being withdrawn: the cancel is on its way
        refused = fetch.chunk(int(number), payload, self._clock())
        if fetch.payload is not None:
            self._finish(fetch, fetch.payload)
        elif fetch.failure:
            self._let_go(fetch)
            self._post(e.ObjectFailed(task=fetch.task, name=fetch.reference.name, reason=fetch.failure))
        else:
            self._tell(fetch)
        return refused

    def _finish(self, fetch: Fetch, payload: bytes) -> None:
        self._let_go(fetch)
        wall_s = self._clock() - fetch.began
        self._worker.submit(
            Install(fetch.task, fetch.reference, fetch.model, fetch.leads_to, payload, wall_s, fetch.control)
        )

    def _tell(self, fetch: Fetch) -> None:
        now = self._clock()
        if now - self._told >= 1.0:
            self._told = now
            self._post(e.WorkProgressed(task=fetch.task, done=fetch.done, total=fetch.reference.chunks))

    def _let_go(self, fetch: Fetch) -> None:
        self._client.unsubscribe([self._topic(fetch, index) for index in fetch.letting_go()])
        self._fetch = None

    def _topic(self, fetch: Fetch, index: int) -> str:
        return topics.model(self._config.run, fetch.reference.name, index)
