"""A coordinator for tests of the agent's service: real MQTT, real models, and it does only what the test says."""

from __future__ import annotations

import queue
import time
from typing import Any, TypeVar

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from coordinator.live import LiveModels, Retained
from wire import chunks, topics
from wire import messages as m
from wire.codecs import uplink_spec
from wire.codecs.model import to_patterns

WAIT_S = 30.0
T = TypeVar("T", bound=m.Up)


class ScriptedCoordinator:
    """One agent, one run. `expect` takes messages in the order of arrival and skips progress."""

    def __init__(
        self, port: int, password: str, run: str, agent: str, artifact: bytes, chunk_bytes: int = 20_000
    ) -> None:
        self.run, self.agent = run, agent
        self.live = LiveModels(artifact, "fp16", chunk_bytes)
        self.inbox: queue.Queue[m.Up] = queue.Queue()
        self.progress: list[m.Progress] = []
        self.updates: dict[str, bytes] = {}
        self.chunk_indexes: list[int] = []
        self.drop_after: int | None = None  # take only so many chunks
        self._assembler = chunks.Assembler(1 << 26, 1 << 26, 8, 1e9)
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=topics.COORDINATOR,
            protocol=MQTTProtocolVersion.MQTTv311,
            clean_session=True,
        )
        self._client.username_pw_set(topics.COORDINATOR, password)
        self._client.max_inflight_messages_set(64)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._on_message
        self._client.on_connect = self._on_connect
        self._client.connect("127.0.0.1", port, 30)
        self._client.loop_start()

    def _on_connect(self, client: paho.Client, *_rest: Any) -> None:
        client.subscribe([(f"{topics.root(self.run)}/up/#", 1), (f"{topics.root(self.run)}/status/#", 1)])
        for item in self.live.everything() if self.live.version >= 0 else []:
            self._publish(item)

    # --- what a coordinator does -----------------------------------------------------------------------------

    def publish_version(self, version: int, parameters: Any) -> None:
        first = self.live.version < 0
        change = self.live.advance(version, to_patterns(parameters))
        for item in self.live.everything() if first else change.publish:
            self._publish(item)

    def _publish(self, item: Retained) -> None:
        for index, body in enumerate(item.chunks):
            self.raw(topics.model(self.run, item.ref.name, index), body, retain=True)

    def raw(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain)

    def send(self, message: m.Down) -> None:
        self.raw(topics.down(self.run, self.agent, type(message).__name__.lower()), m.encode(message))

    def task(self, name: str, **changes: Any) -> m.Task:
        return m.Task(
            task=name,
            round=changes.pop("round", 1),
            model=self.live.ref,
            graph=self.live.graph.ref,
            train=changes.pop("train", m.TrainSpec(local_epochs=1, batch_size=16, lr=0.05, momentum=0.9)),
            uplink=m.UplinkSpec(chain=uplink_spec(0.01, "int8")),
            seed=7,
            deadline_s=60.0,
            **changes,
        )

    def grant(self, offer: m.Offer, missing: tuple[int, ...] | None = None, chunk_bytes: int = 2_000) -> None:
        self.send(
            m.Grant(
                task=offer.task,
                sha256=offer.sha256,
                chunk_bytes=chunk_bytes,
                window_bytes=8_000,
                missing=missing,
            )
        )

    def missing(self, offer: m.Offer) -> tuple[int, ...] | None:
        return self._assembler.missing(self.agent, offer.task, offer.sha256)

    # --- what the agent does ---------------------------------------------------------------------------------

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        upward = topics.parse_upward(self.run, message.topic)
        if upward is None or not message.payload or upward.agent != self.agent:
            return
        if upward.kind == "update":
            self._take_chunk(upward, message.payload)
            return
        decoded = m.decode_up(message.payload)
        if isinstance(decoded, m.Progress):
            self.progress.append(decoded)
        else:
            self.inbox.put(decoded)

    def _take_chunk(self, upward: topics.Upward, payload: bytes) -> None:
        self.chunk_indexes.append(upward.chunk)
        if self.drop_after is not None and len(self.chunk_indexes) > self.drop_after:
            return
        whole = self._assembler.add(self.agent, upward.task, payload, 0.0)
        if whole is not None:
            self.updates[upward.task] = whole.payload

    def expect(self, kind: type[T], wait_s: float = WAIT_S) -> T:
        """The next message of this kind; others in between are passed over."""
        deadline = time.monotonic() + wait_s
        seen = []
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self.inbox.get(timeout=left)
            except queue.Empty:
                break
            if isinstance(message, kind):
                return message
            seen.append(type(message).__name__)
        raise AssertionError(f"no {kind.__name__} of {self.agent} within {wait_s:g} s; there came {seen}")

    def await_update(self, task: str, wait_s: float = WAIT_S) -> bytes:
        deadline = time.monotonic() + wait_s
        while task not in self.updates:
            assert time.monotonic() < deadline, (
                f"chunks {sorted(set(self.chunk_indexes))} of {task} came, not all"
            )
            time.sleep(0.02)
        return self.updates[task]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def drifted(parameters: Any, step: float) -> Any:
    """Another version of the same model: every tenth parameter moved."""
    moved = parameters.copy()
    moved[::10] += np.float32(step)
    return moved
