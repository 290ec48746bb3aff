"""What every link backend does alike, seen by TCP alone: the relay's contract, and the same for those of the kernel."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from rig import rig

from emulation.links import REGISTRY
from emulation.links.base import LinkBackend
from emulation.links.relay_backend import RelayBackend, RelayEnds
from topology.plan import Link, Shape

OPEN = Link(name="open", up=Shape(), down=Shape())


@dataclass
class Stage:
    """A backend, the ends of one link of it, and how to connect over that link: (device's socket, broker's)."""

    backend: LinkBackend[Any]
    ends: Any
    connect: Callable[[], tuple[socket.socket, socket.socket]]


def _listener() -> socket.socket:
    handle = socket.socket()
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    handle.bind(("0.0.0.0", 0))
    handle.listen(8)
    handle.settimeout(10.0)
    return handle


@contextmanager
def relay_stage() -> Iterator[Stage]:
    backend = RelayBackend()
    backend.start()
    with _listener() as server:
        ends = RelayEnds(device="d0", listen_port=0, upstream_port=server.getsockname()[1], seed="7")

        def connect() -> tuple[socket.socket, socket.socket]:
            client = socket.create_connection(("127.0.0.1", backend.port("d0")), 10.0)
            return client, server.accept()[0]

        try:
            yield Stage(backend, ends, connect)
        finally:
            backend.stop()


@contextmanager
def kernel_stage(name: str) -> Iterator[Stage]:
    backend = REGISTRY[name]()
    found = backend.probe()
    if not found.ok:
        pytest.skip(f"no {name} here: {found.reason}")
    backend.start()
    with rig(1) as network:
        ends = network.ends(0)
        with ends.broker_ns.call(_listener) as server:
            address = (ends.broker_address, server.getsockname()[1])

            def connect() -> tuple[socket.socket, socket.socket]:
                client = ends.device_ns.call(partial(socket.create_connection, address, 10.0))
                return client, server.accept()[0]

            try:
                yield Stage(backend, ends, connect)
            finally:
                backend.clear(ends)
                backend.stop()


@pytest.fixture(
    params=[
        "relay",
        pytest.param("netem", marks=pytest.mark.netns),
        pytest.param("nfqueue", marks=pytest.mark.netns),
    ]
)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with relay_stage() if request.param == "relay" else kernel_stage(request.param) as made:
        yield made


def one_way_s(sender: socket.socket, receiver: socket.socket, count: int = 9) -> float:
    """Median time of a byte from one to the other; both read the same clock."""
    found = []
    receiver.settimeout(5.0)
    # Or each byte would wait for the acknowledgement of the one before.
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(count):
        began = time.monotonic()
        sender.sendall(b"x")
        receiver.recv(1)
        found.append(time.monotonic() - began)
    return statistics.median(found)


def test_it_works_and_says_why(stage: Stage) -> None:
    found = stage.backend.probe()
    assert found.ok
    assert found.reason
    assert found.backend == stage.backend.name
    assert stage.backend.alive()


def test_apply_is_read_back_and_what_is_not_in_force_is_found(stage: Stage) -> None:
    link = Link(name="a", up=Shape(rate_bit_s=2_000_000, delay_s=0.02), down=Shape(delay_s=0.03))
    other = Link(name="b", up=Shape(rate_bit_s=1_000_000, delay_s=0.02), down=Shape(delay_s=0.01))
    assert stage.backend.verify(stage.ends, link).mismatches != ()
    stage.backend.apply(stage.ends, link)
    assert stage.backend.verify(stage.ends, link).mismatches == ()
    assert len(stage.backend.verify(stage.ends, other).mismatches) >= 2
    stage.backend.apply(stage.ends, link)
    assert stage.backend.verify(stage.ends, link).mismatches == ()


def test_clear_takes_it_away_and_twice_is_no_error(stage: Stage) -> None:
    link = Link(name="a", up=Shape(rate_bit_s=2_000_000, delay_s=0.02), down=Shape(delay_s=0.03))
    stage.backend.apply(stage.ends, link)
    for _ in range(2):
        stage.backend.clear(stage.ends)
        assert stage.backend.verify(stage.ends, OPEN).mismatches == ()
        assert stage.backend.verify(stage.ends, link).mismatches != ()


def test_delay_by_direction_and_after_a_change_of_a_live_connection(stage: Stage) -> None:
    stage.backend.apply(stage.ends, Link(name="a", up=Shape(delay_s=0.04), down=Shape(delay_s=0.02)))
    device, broker = stage.connect()
    with device, broker:
        assert one_way_s(device, broker) == pytest.approx(0.04, abs=0.01)
        assert one_way_s(broker, device) == pytest.approx(0.02, abs=0.01)
        changed = Link(name="b", up=Shape(delay_s=0.01), down=Shape(delay_s=0.05))
        stage.backend.change(stage.ends, changed)
        assert stage.backend.verify(stage.ends, changed).mismatches == ()
        assert one_way_s(device, broker) == pytest.approx(0.01, abs=0.008)
        assert one_way_s(broker, device) == pytest.approx(0.05, abs=0.01)


def test_rate_is_that_of_frames(stage: Stage) -> None:
    rate, size = 4_000_000, 1_000_000
    stage.backend.apply(stage.ends, Link(name="a", up=Shape(rate_bit_s=rate), down=Shape()))
    device, broker = stage.connect()
    with device, broker:
        # Every kernel has it, and it fills the queue; bbr may pause for some of these two seconds.
        device.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        sender = threading.Thread(target=device.sendall, args=(b"x" * size,), daemon=True)
        sender.start()
        broker.settimeout(10.0)
        got, began, at_first = 0, 0.0, 0
        while got < size:
            got += len(broker.recv(65_536))
            if not began and got > 100_000:  # past the shaper's credit
                began, at_first = time.monotonic(), got
        effective = (got - at_first) * 8 * 1514 / 1448 / (time.monotonic() - began)
        sender.join(10.0)
    assert effective == pytest.approx(rate, rel=0.1)


def test_what_is_asked_beyond_its_row_of_the_table_is_not_claimed(stage: Stage) -> None:
    link = Link(name="a", up=Shape(delay_s=0.02, duplicate=0.01), down=Shape())
    if stage.backend.name != "relay":
        pytest.skip("hostd refuses it before it comes here; only the relay runs on without")
    stage.backend.apply(stage.ends, link)
    assert any("up: duplicate" in text for text in stage.backend.verify(stage.ends, link).mismatches)
