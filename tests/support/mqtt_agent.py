"""A scripted agent over real MQTT for tests of the service: follows the protocol, trains on nothing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from wire import chunks, topics
from wire import messages as m
from wire.codecs import make_chain

REPORT = m.Report(
    samples=50, steps=5, loss=1.0, train_s=0.1, step_s=0.02, fetch_s=0.0, fetch_bytes=0,
    peak_rss_bytes=1, residual_norm=0.0, raw_bytes=320,
)  # fmt: skip


class MqttAgent:
    """`update`: task -> float32 vector; None answers a task with silence. Call `connect`, later `close` or `die`."""

    def __init__(
        self,
        name: str,
        password: str,
        port: int,
        run: str,
        *,
        parameters: int,
        mqtt_version: int = 4,
        update: Callable[[m.Task], Any] | None = None,
    ) -> None:
        self.name, self.run, self.port = name, run, port
        self.boots = 0
        self.update = update or (lambda task: np.full(parameters, 0.01, np.float32))
        self.tasks: list[m.Task] = []
        self.acks: dict[str, str] = {}
        self.outcomes: dict[str, m.Outcome] = {}
        self.cancelled: dict[str, str] = {}
        self.spool: dict[str, bytes] = {}
        self.finished = threading.Event()
        self._password, self._version = password, mqtt_version
        self._client: paho.Client | None = None

    @property
    def boot(self) -> str:
        return f"boot-{self.boots}"

    def connect(self) -> None:
        self.boots += 1
        five = self._version == 5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.name,
            clean_session=None if five else False,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
        )
        client.username_pw_set(self.name, self._password)
        client.reconnect_delay_set(1, 1)
        status = topics.status(self.run, self.name)
        client.will_set(status, m.encode(m.Status(online=False, boot=self.boot)), qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.connect("127.0.0.1", self.port, 30, **({"clean_start": False} if five else {}))
        self._client = client
        client.loop_start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self._client is not None
        self._client.publish(topic, payload, qos=1, retain=retain)

    def send(self, message: m.Up) -> None:
        kind = type(message).__name__.lower()
        self.publish(topics.up(self.run, self.name, kind), m.encode(message))

    def _on_connect(self, client: paho.Client, *_rest: Any) -> None:
        client.subscribe(topics.down(self.run, self.name, "#"), qos=1)
        online = m.encode(m.Status(online=True, boot=self.boot))
        self.publish(topics.status(self.run, self.name), online, retain=True)
        self.hello()

    def hello(self) -> None:
        spool = tuple(
            m.SpoolItem(task=t, sha256=hashlib.sha256(p).hexdigest(), bytes=len(p))
            for t, p in self.spool.items()
        )
        unsettled = tuple(task for task in self.acks if task not in self.outcomes)[:8]
        self.send(m.Hello(boot=self.boot, spool=spool[:8], unsettled=unsettled, samples=50))

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        # amqtt hands a client that came back its own last will, whatever it has subscribed to.
        if message.topic.startswith(topics.down(self.run, self.name, "")):
            self.take(m.decode_down(message.payload))

    def take(self, message: m.Down) -> None:
        match message:
            case m.Task():
                self.work(message)
            case m.Grant():
                self.upload(message)
            case m.Ack():
                self.acks[message.task] = message.sha256
                self.spool.pop(message.task, None)
            case m.Outcome():
                self.outcomes[message.task] = message
                self.spool.pop(message.task, None)
            case m.Cancel():
                self.cancelled[message.task] = message.reason
                self.spool.pop(message.task, None)
            case m.Resync():
                self.hello()
            case m.Finish():
                self.finished.set()
                self.close()

    def work(self, task: m.Task) -> None:
        known = task.task in self.spool or task.task in self.acks
        self.tasks.append(task)
        if known or (vector := self.update(task)) is None:
            return
        self.send(m.Progress(task=task.task, phase="training", done=1, total=2))
        payload = make_chain(task.uplink.chain).encode(vector, seed=task.seed)
        self.offer(task.task, payload)

    def offer(self, task: str, payload: bytes) -> None:
        self.spool[task] = payload
        sha256 = hashlib.sha256(payload).hexdigest()
        self.send(m.Offer(task=task, sha256=sha256, bytes=len(payload), report=REPORT))

    def upload(self, grant: m.Grant) -> None:
        payload = self.spool.get(grant.task)
        if payload is None or hashlib.sha256(payload).hexdigest() != grant.sha256:
            return
        pieces = chunks.split(payload, grant.chunk_bytes)
        for index in grant.missing or range(len(pieces)):
            self.publish(topics.chunk(self.run, self.name, grant.task, index), pieces[index])

    def close(self) -> None:
        if self._client is not None:
            offline = m.encode(m.Status(online=False, boot=self.boot))
            self.publish(topics.status(self.run, self.name), offline, retain=True)
            self._client.disconnect()

    def die(self) -> None:
        """As a killed process: the socket goes, the broker sends the will."""
        assert self._client is not None
        client, self._client = self._client, None
        client.loop_stop()  # before the socket goes: the thread would otherwise read whoever gets its number next
        sock = client.socket()
        if sock is not None:
            sock.close()
