"""The connection to the broker: paho in its own thread, whose callbacks only put into the inbox.

MQTT 5 or 3.1.1. The session is kept (clean start false), so what agents send while this process restarts waits in the
broker. The first connect is retried here, with a limit: paho would retry it for ever without a word.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from coordinator.buffered import BufferedClient
from coordinator.errors import EnvironmentFault
from coordinator.events import Connected, Disconnected
from coordinator.inbox import Delivery, Inbox
from wire import messages as m
from wire import topics

KEEPALIVE_S = 30  # the coordinator's link is never shaped; a dead broker is noticed within 45 s
SESSION_EXPIRY_S = 3_600  # longer than any restart of a container, shorter than a forgotten run lasts
INFLIGHT_MAX = 32  # chunks of at most 64 kB: 2 MB on the way; paho looks through all of them at each PUBACK
# A large model's eight live objects in 1 kB chunks; beyond it publish fails and is recorded.
QUEUED_MAX = 32_768
RECONNECT_S = (1, 15)
# The broker waits at its gate until every link is measured; then the whole fleet waits for us.
FIRST_RETRY_S_MAX = 0.5
CONNACK_S = 10.0  # a broker that accepted the connection and says nothing for so long is not well

SYS_TOPICS = {
    "$SYS/broker/publish/messages/dropped": "dropped",
    "$SYS/broker/bytes/received": "received_bytes",
    "$SYS/broker/bytes/sent": "sent_bytes",
}


@dataclass(frozen=True, kw_only=True)
class BrokerAddress:
    host: str
    port: int
    username: str
    password: str
    ca_file: Path | None = None
    mqtt_version: Literal[4, 5] = 5
    connect_timeout_s: float = 60.0


class BrokerLink:
    """Publishes and receives. Only `connected` is read from two threads; everything else is the loop's."""

    def __init__(
        self,
        address: BrokerAddress,
        run: str,
        boot: str,
        inbox: Inbox,
        *,
        mono: Callable[[], float] = time.monotonic,
        wait: Callable[[float], Any] = time.sleep,
    ) -> None:
        self._address, self._run, self._boot, self._inbox = address, run, boot, inbox
        self._mono, self._wait = mono, wait
        self.connected = False
        self.refused = ""  # why the broker turned the last connection down
        self._unsettled: deque[paho.MQTTMessageInfo] = deque()
        self._client = self._make_client()

    def _make_client(self) -> paho.Client:
        address = self._address
        five = address.mqtt_version == 5
        client = BufferedClient(
            CallbackAPIVersion.VERSION2,
            client_id=address.username,
            clean_session=None if five else False,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
        )
        client.username_pw_set(address.username, address.password)
        if address.ca_file is not None:
            client.tls_set(ca_certs=str(address.ca_file), tls_version=ssl.PROTOCOL_TLS_CLIENT)
        client.max_inflight_messages_set(INFLIGHT_MAX)
        client.max_queued_messages_set(QUEUED_MAX)
        client.reconnect_delay_set(*RECONNECT_S)
        client.will_set(self._status_topic, m.encode(self._status(False)), qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    @property
    def _status_topic(self) -> str:
        return topics.status(self._run, topics.COORDINATOR)

    def _status(self, online: bool) -> m.Status:
        return m.Status(online=online, boot=self._boot)

    # --- from the loop ---------------------------------------------------------------------------------------

    def start(self, stopping: Callable[[], bool]) -> None:
        """Connect, with retries. Raises EnvironmentFault when the broker stays away or turns us down."""
        deadline = self._mono() + self._address.connect_timeout_s
        delay_s, last = 0.25, "no attempt"
        while not stopping():
            try:
                self._connect()
                break
            except (OSError, ValueError) as error:
                last = f"{type(error).__name__}: {error}"
            if self._mono() + delay_s > deadline:
                raise self._unreachable(last)
            self._wait(delay_s)
            delay_s = min(delay_s * 2, FIRST_RETRY_S_MAX)
        if stopping():
            return
        self._client.loop_start()
        self._await_connack(stopping)

    def _connect(self) -> None:
        address = self._address
        if address.mqtt_version == 5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            self._client.connect(
                address.host, address.port, KEEPALIVE_S, clean_start=False, properties=properties
            )
        else:
            self._client.connect(address.host, address.port, KEEPALIVE_S)

    def _await_connack(self, stopping: Callable[[], bool]) -> None:
        deadline = self._mono() + CONNACK_S
        while not self.connected and not stopping():
            if self.refused:
                self._client.loop_stop()
                raise EnvironmentFault(
                    f"the broker at {self._address.host}:{self._address.port} refuses us: {self.refused}",
                    awaited=f"a connection as {self._address.username!r}",
                    hint="compare private/coordinator/password with the broker's passwd file",
                )
            if self._mono() > deadline:
                self._client.loop_stop()
                raise self._unreachable(f"connected, but no answer within {CONNACK_S:g} s")
            self._wait(0.02)

    def _unreachable(self, last: str) -> EnvironmentFault:
        address = self._address
        return EnvironmentFault(
            f"the broker at {address.host}:{address.port} cannot be reached: {last}",
            awaited=f"a connection within {address.connect_timeout_s:g} s",
            hint="is the broker running, and does the coordinator's network reach that host and port?",
        )

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """At QoS 1. False when the queue to the broker is full. Without a connection nothing is queued: whoever
        reconnects is brought up to date by hellos and live objects, not by old messages."""
        if not self.connected:
            return True
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            return False
        self._unsettled.append(info)
        while self._unsettled and self._settled(self._unsettled[0]):
            self._unsettled.popleft()
        return True

    @staticmethod
    def _settled(info: paho.MQTTMessageInfo) -> bool:
        try:
            return info.is_published()
        except (RuntimeError, ValueError):
            return True  # paho gave it up

    def say_online(self) -> None:
        self.publish(self._status_topic, m.encode(self._status(True)), retain=True)

    def stop(self, flush_s: float) -> None:
        """Let the last messages out, say goodbye, disconnect."""
        self.publish(self._status_topic, m.encode(self._status(False)), retain=True)
        deadline = self._mono() + flush_s
        while self.connected and self._mono() < deadline:
            if all(self._settled(info) for info in self._unsettled):
                break
            self._wait(0.02)
        self._client.disconnect()
        self._client.loop_stop()

    # --- paho's thread: only puts into the inbox -----------------------------------------------------------------

    def _on_connect(
        self, client: paho.Client, _data: Any, flags: paho.ConnectFlags, code: ReasonCode, _properties: Any
    ) -> None:
        if code.is_failure:
            self.refused = str(code)
            return
        self.refused = ""
        wanted = [f"{topics.root(self._run)}/up/#", f"{topics.root(self._run)}/status/+"]
        client.subscribe([(topic, _at_qos(self._address.mqtt_version, 1)) for topic in wanted])
        client.subscribe([(topic, _at_qos(self._address.mqtt_version, 0)) for topic in SYS_TOPICS])
        self.connected = True
        self._inbox.put(Connected(session_present=flags.session_present))

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any
    ) -> None:
        self.connected = False
        self._inbox.put(Disconnected(reason=str(code)))

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._inbox.put(Delivery(message.topic, bytes(message.payload), message.retain))


def _at_qos(mqtt_version: int, qos: int) -> Any:
    """paho wants an options object in version 5 and a number in 3.1.1."""
    return SubscribeOptions(qos=qos) if mqtt_version == 5 else qos
