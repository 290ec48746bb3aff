"""What a connection costs, as the device counts it: real sockets on loopback, made-up interfaces."""

from __future__ import annotations

import queue
import socket
import threading
from pathlib import Path

import pytest
from support.broker import Broker

from edge_agent import mqtt
from edge_agent.service import status_message
from edge_agent.traffic import HEADER_BYTES, Meter, interface_bytes, interface_of, tcp_bytes
from topology.plan import AgentConfig
from wire import topics

DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier
    lo:     500       5    0    0    0     0          0         0      500       5    0    0    0     0       0
  eth0:{received:>8}      90    0    0    0     0          0         0 {sent:>8}      70    0    0    0     0       0
"""


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    return client, other


def test_the_kernels_own_count_of_a_connection() -> None:
    client, other = pair()
    with client, other:
        before = tcp_bytes(client)
        client.sendall(b"x" * 10_000)
        taken = 0
        while taken < 10_000:
            taken += len(other.recv(10_000))
        other.sendall(b"y" * 500)
        client.recv(500, socket.MSG_WAITALL)
        sent, received = (now - then for now, then in zip(tcp_bytes(client), before, strict=True))
        assert sent >= 10_000 + HEADER_BYTES
        assert sent < 10_000 + 40 * HEADER_BYTES
        assert 500 + HEADER_BYTES <= received < 500 + 40 * HEADER_BYTES


def test_a_loopback_connection_is_counted_by_itself_over_its_ends() -> None:
    meter = Meter()
    meter.begin()
    assert meter.now().wire == "", "nothing was connected yet"
    for _ in range(2):
        client, other = pair()
        meter.opened(client)
        client.sendall(b"x" * 1_000)
        assert len(other.recv(1_000, socket.MSG_WAITALL)) == 1_000
        meter.closing()
        client.close()
        other.close()
    found = meter.now()
    assert found.wire == "tcp_info"
    assert found.wire_sent is not None
    assert 2_000 < found.wire_sent < 2_000 + 40 * HEADER_BYTES


def test_an_interface_counts_from_the_first_connection_on() -> None:
    """What the gate's measurement sent before is none of the run's."""
    text = [DEV.format(received=5_000, sent=9_000)]
    meter = Meter(lambda: text[0])
    meter.begin()
    meter._source, meter._base = "interface eth0", interface_bytes(meter._before, "eth0")
    text[0] = DEV.format(received=5_700, sent=11_000)
    found = meter.now()
    assert (found.wire_sent, found.wire_received, found.wire) == (2_000, 700, "interface eth0")
    text[0] = "nothing we know"
    assert (meter.now().wire_sent, meter.now().wire) == (None, ""), "no figure is better than a wrong one"


def test_interfaces_are_found_by_the_connections_address() -> None:
    client, other = pair()
    with client, other:
        assert interface_of(client) == "lo"
    with socket.socket() as unconnected:
        assert interface_of(unconnected) == ""
    assert interface_bytes("", "eth0") is None
    assert interface_bytes(DEV.format(received=1, sent=2), "eth0") == (2, 1)


def test_a_device_without_proc_counts_no_wire() -> None:
    def missing() -> str:
        raise OSError("no /proc")

    meter = Meter(missing)
    meter.begin()
    assert meter.now().wire_sent is None


@pytest.mark.slow
def test_the_clients_bytes_are_those_of_its_packets(tmp_path: Path) -> None:
    """paho's two lowest functions are overridden for this: a release that renames them must not count nothing."""
    with Broker(tmp_path, [topics.COORDINATOR, "d"]) as broker:
        config = AgentConfig(
            run="r", agent="d", broker_host="127.0.0.1", broker_port=broker.port, username="d", password_file="",
            shard="", state="", mqtt_version=4,
        )  # fmt: skip
        meter, happenings = Meter(), queue.Queue[mqtt.Happening]()
        will = status_message(config, "b1", online=False)
        client = mqtt.Client(config, broker.passwords["d"], will, happenings.put, meter)
        client.start()
        assert isinstance(happenings.get(timeout=10), mqtt.Up)
        connected = meter.now()
        client.publish("rig/r/up/d/hello", b"x" * 20_000)
        assert isinstance(happenings.get(timeout=10), mqtt.Confirmed)
        published = meter.now()
        client.stop(will, 1.0)
        framing = 1 + 3 + 2 + len("rig/r/up/d/hello") + 2  # type, length, topic, packet id
        assert published.mqtt_sent - connected.mqtt_sent == 20_000 + framing
        assert published.mqtt_received - connected.mqtt_received == 4, "one PUBACK"
        assert published.wire == "tcp_info"
        assert published.wire_sent is not None
        assert published.wire_sent > published.mqtt_sent
        assert threading.active_count() < 20
