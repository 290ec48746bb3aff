"""What paho's loop sees of a connection that is read and written in bulk."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from coordinator.buffered import COLLECT_BYTES, BufferedClient, BufferedSocket, _Wake

Ends = tuple[BufferedSocket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(5)
    buffered = BufferedSocket(ours)
    yield buffered, theirs
    buffered.close()
    theirs.close()


def test_one_read_serves_many_small_ones(ends: Ends) -> None:
    ours, theirs = ends
    theirs.sendall(b"abcdefgh")
    assert ours.pending() == 0, "nothing was read yet: a select would report it"
    assert [ours.recv(1), ours.recv(3)] == [b"a", b"bcd"]
    assert ours.pending() == 4
    assert ours.recv(100) == b"efgh"
    with pytest.raises(BlockingIOError):
        ours.recv(1)


def test_packets_leave_together_before_the_loop_waits(ends: Ends) -> None:
    ours, theirs = ends
    assert [ours.send(b"one"), ours.send(b"two")] == [3, 3]
    assert not select.select([theirs], [], [], 0)[0]
    ours.pending()
    assert theirs.recv(100) == b"onetwo"


def test_a_lot_leaves_at_once(ends: Ends) -> None:
    ours, theirs = ends
    ours.send(bytes(COLLECT_BYTES))
    assert len(theirs.recv(COLLECT_BYTES)) > 0


def test_a_broken_connection_says_so_where_paho_expects_it(ends: Ends) -> None:
    ours, theirs = ends
    theirs.close()
    ours.send(b"lost")
    assert ours.pending() == 1, "so that the loop asks"
    with pytest.raises(OSError, match="Broken pipe"):
        ours.recv(1)


def test_the_end_of_a_connection_is_an_empty_read(ends: Ends) -> None:
    ours, theirs = ends
    theirs.close()
    assert ours.recv(1) == b""


def test_the_loop_is_woken_once_until_it_has_looked() -> None:
    first, second = socket.socketpair()
    reader = _Wake(first)
    writer = _Wake(second, reader)
    assert [writer.send(b"0") for _ in range(3)] == [1, 1, 1]
    assert reader.recv(100) == b"0"
    writer.send(b"0")
    assert reader.recv(100) == b"0"
    first.close()
    second.close()


def puback(client: BufferedClient, packet: bytes) -> MQTTErrorCode:
    client._in_packet = {"command": 0x40, "packet": packet}
    return client._handle_pubackcomp("PUBACK")


@pytest.mark.parametrize("rest", [b"", b"\x00", b"\x10\x00"], ids=["bare", "success", "no subscribers"])
def test_a_puback_settles_its_message_whatever_it_says_beside(rest: bytes) -> None:
    client = BufferedClient(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    first, second = (client.publish("t", b"", qos=1) for _ in range(2))
    assert puback(client, (77).to_bytes(2, "big") + rest) is MQTTErrorCode.MQTT_ERR_SUCCESS, "nobody's"
    assert not first._published
    puback(client, second.mid.to_bytes(2, "big") + rest)
    assert (first._published, second._published) == (False, True)
    assert list(client._out_messages) == [first.mid]
    puback(client, second.mid.to_bytes(2, "big") + rest)  # once more: a resend was confirmed too
    assert list(client._out_messages) == [first.mid]
