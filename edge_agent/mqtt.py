"""The agent's MQTT client: settings that hold on bad links, and callbacks that only enqueue.

`coordinator` has its own; they share nothing but the topics, since what an agent must bound (bytes in flight on its
uplink) is not what a coordinator must bound.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.traffic import Meter
from edge_agent.upload import CHUNKS_IN_FLIGHT_MAX, link_bit_s
from topology.plan import AgentConfig

SESSION_EXPIRY_S = 600  # two or three rounds: a short absence misses nothing
WILL_DELAY_S = 5  # a reconnect over a bad link takes seconds and is no absence
# Doubling from a quarter to half a second, by the device's name, so that a fleet does not come back at one moment;
# paho's first wait of 1 s is lost link at every reset, and its longest of 120 s would cost a whole round.
RECONNECT_S = (0.25, 15.0)
# A ping and its answer wait behind what is in flight, at most a second of the link each way, or one chunk where that
# takes longer. The keepalive is four times that, so that neither side mistakes an upload over a lossy link for death.
# Below 15 s a fleet's pings would be traffic; above 60 s a device that died in silence held up its round.
KEEPALIVE_S = (15, 60)
KEEPALIVE_WAITS = 4
CHUNK_BYTES_MIN = 1_000  # the smallest chunk a coordinator cuts
IN_FLIGHT_S = 1.0
# Chunks in flight, what is left of an earlier upload, and control messages beside them; paho's default of 20 would
# hold a hello back.
INFLIGHT_MAX = 2 * CHUNKS_IN_FLIGHT_MAX
QUEUED_MAX = 64  # beyond what is in flight; the core repeats itself, so a full queue loses nothing
RECEIVE_MAX = 64  # messages the broker may send before they are confirmed: one window of a fetch
# What the kernel holds unsent counts as in flight, and everything behind it waits: a tenth of a second of the link.
NOTSENT_LOWAT_S = 0.1
NOTSENT_LOWAT_BYTES = (2_048, 131_072)
CONNECT_TIMEOUT_S = 15.0  # TCP and TLS handshakes over the slowest profile take three
REFUSED_CREDENTIALS = frozenset(
    {"Not authorized", "Bad user name or password", "Banned", "Client identifier not valid"}
)


@dataclass(frozen=True)
class Up:
    session_present: bool


@dataclass(frozen=True)
class Down:
    reason: str


@dataclass(frozen=True)
class NotConnected:
    """An attempt that came to nothing. `credentials`: the broker answered and refused us."""

    reason: str
    credentials: bool = False


@dataclass(frozen=True)
class Message:
    topic: str
    payload: bytes


@dataclass(frozen=True)
class Confirmed:
    """The broker has this publish."""

    mid: int


Happening = Up | Down | NotConnected | Message | Confirmed


class _CountedClient(paho.Client):
    """paho's client, with its bytes counted where they enter and leave it."""

    meter: Meter

    def _sock_send(self, buf: bytes | bytearray) -> int:
        size = super()._sock_send(buf)
        self.meter.sent(size)
        return size

    def _sock_recv(self, bufsize: int) -> bytes:
        data = super()._sock_recv(bufsize)
        self.meter.received(len(data))
        return data


class Client:
    """Thin: connect, publish, subscribe. `post` must never block for long."""

    def __init__(
        self,
        config: AgentConfig,
        password: str,
        will: tuple[str, bytes],
        post: Callable[[Happening], None],
        meter: Meter | None = None,
    ) -> None:
        self._config, self._post = config, post
        self._meter = meter or Meter()
        self._refused = False
        version = MQTTProtocolVersion.MQTTv5 if config.mqtt_version == 5 else MQTTProtocolVersion.MQTTv311
        # A 3.1.1 broker here is amqtt, which on a resumed session sends the retained messages of every
        # client's subscriptions. The protocol needs no session: after a connect the hello says what is where.
        session: dict[str, Any] = {} if config.mqtt_version == 5 else {"clean_session": True}
        client = _CountedClient(
            CallbackAPIVersion.VERSION2, client_id=config.username, protocol=version, **session
        )
        client.meter = self._meter
        client.username_pw_set(config.username, password)
        client.max_inflight_messages_set(INFLIGHT_MAX)
        client.max_queued_messages_set(QUEUED_MAX)
        # paho says int; it compares, doubles and waits.
        client.reconnect_delay_set(first_reconnect_s(config.agent), RECONNECT_S[1])  # type: ignore[arg-type]
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.will_set(will[0], will[1], qos=1, retain=True, properties=_will_properties(config))
        if config.ca_file is not None:
            client.tls_set_context(_tls(config.ca_file, config.tls_server_name))
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        self._client = client

    def start(self) -> None:
        config = self._config
        self._meter.begin()
        keepalive = keepalive_s(config.uplink_bit_s, config.downlink_bit_s, config.rtt_s)
        if config.mqtt_version == 5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            properties.ReceiveMaximum = RECEIVE_MAX
            self._client.connect_async(
                config.broker_host, config.broker_port, keepalive, clean_start=False, properties=properties
            )
        else:
            self._client.connect_async(config.broker_host, config.broker_port, keepalive)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> int | None:
        """The id that Confirmed will name, or None if the message was not taken (no connection, full queue)."""
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        return None if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS else info.mid

    def subscribe(self, topics: Sequence[str]) -> None:
        if topics:
            self._client.subscribe([(topic, 1) for topic in topics])

    def unsubscribe(self, topics: Sequence[str]) -> None:
        if topics:
            self._client.unsubscribe(list(topics))

    def stop(self, farewell: tuple[str, bytes], wait_s: float) -> None:
        """Say goodbye and disconnect cleanly, within `wait_s`; without a connection just stop."""
        if self._client.is_connected():
            info = self._client.publish(farewell[0], farewell[1], qos=1, retain=True)
            # The connection may go away or the queue be full: then the will speaks for us.
            with contextlib.suppress(RuntimeError, ValueError):
                info.wait_for_publish(wait_s)
        self._client.disconnect()
        # loop_stop joins the network thread, which may sit in a connect for its whole timeout.
        stopper = threading.Thread(target=self._client.loop_stop, daemon=True)
        stopper.start()
        stopper.join(wait_s)

    # --- callbacks: paho's thread ----------------------------------------------------------------------------

    def _on_connect(
        self,
        _client: paho.Client,
        _data: object,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: object,
    ) -> None:
        self._refused = reason.is_failure
        if reason.is_failure:
            self._post(NotConnected(str(reason), credentials=str(reason) in REFUSED_CREDENTIALS))
        else:
            self._post(Up(flags.session_present))

    def _on_connect_fail(self, _client: paho.Client, _data: object) -> None:
        # paho calls this while it handles the error and does not pass it on.
        self._post(NotConnected(str(sys.exc_info()[1] or "no connection")))

    def _on_disconnect(
        self, _client: paho.Client, _data: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        if not self._refused:  # a refused connection never was one
            self._post(Down(str(reason)))

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self._post(Message(message.topic, bytes(message.payload)))

    def _on_publish(
        self, _client: paho.Client, _data: object, mid: int, _reason: object, _properties: object
    ) -> None:
        self._post(Confirmed(mid))

    def _on_socket_open(self, _client: paho.Client, _data: object, sock: Any) -> None:
        tune(sock, self._config.congestion, notsent_lowat_bytes(self._config.uplink_bit_s))
        self._meter.opened(sock)

    def _on_socket_close(self, _client: paho.Client, _data: object, _sock: Any) -> None:
        self._meter.closing()


def first_reconnect_s(agent: str) -> float:
    return RECONNECT_S[0] * (1 + zlib.crc32(agent.encode()) / 2**32)


def notsent_lowat_bytes(uplink_bit_s: int) -> int:
    low, high = NOTSENT_LOWAT_BYTES
    return min(max(int(link_bit_s(uplink_bit_s) / 8 * NOTSENT_LOWAT_S), low), high)


def tune(sock: socket.socket, congestion: str, lowat_bytes: int) -> None:
    """Small messages at once, little unsent in the kernel, the run's congestion control. What fails is not vital."""
    options: list[tuple[int, int | bytes]] = [
        (socket.TCP_NODELAY, 1),
        (getattr(socket, "TCP_NOTSENT_LOWAT", 25), lowat_bytes),
    ]
    if congestion:
        options.append((getattr(socket, "TCP_CONGESTION", 13), congestion.encode()))
    for option, value in options:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError as error:
            print(f"edge-agent: socket option {option} not set: {error}", file=sys.stderr, flush=True)


def keepalive_s(uplink_bit_s: int, downlink_bit_s: int, rtt_s: float) -> int:
    """Four times the longest honest wait for the answer to a ping, between 15 and 60 s."""
    low, high = KEEPALIVE_S
    ways = (link_bit_s(uplink_bit_s), link_bit_s(downlink_bit_s))
    wait_s = rtt_s + sum(max(IN_FLIGHT_S, CHUNK_BYTES_MIN * 8 / rate) for rate in ways)
    return min(max(round(KEEPALIVE_WAITS * wait_s), low), high)


def _will_properties(config: AgentConfig) -> Properties | None:
    if config.mqtt_version != 5:
        return None
    properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
    properties.WillDelayInterval = WILL_DELAY_S
    return properties


class _NamedContext(ssl.SSLContext):
    """Checks the certificate against a name of its own: a device may reach its broker by an address."""

    expected_name = ""

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        options["server_hostname"] = self.expected_name
        return super().wrap_socket(sock, *args, **options)


def _tls(ca_file: str, server_name: str | None) -> ssl.SSLContext:
    context = (
        _NamedContext(ssl.PROTOCOL_TLS_CLIENT) if server_name else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
    if isinstance(context, _NamedContext):
        context.expected_name = server_name or ""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(ca_file)
    return context
