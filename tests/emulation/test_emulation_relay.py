"""The relay over loopback: one rate shared by connections, delay, backpressure, what it refuses."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from emulation.links.rate_clock import RateClock
from emulation.links.relay import Relay, unsupported
from emulation.links.relay_process import RelayConfig, RelayLink
from topology.plan import Link, Shape, Step, Steps


def test_the_clock_books_frames_one_after_the_other() -> None:
    clock = RateClock(Shape(rate_bit_s=1_000_000, delay_s=0.1), "s")
    first, second = clock.take(1448, 10.0), clock.take(1448, 10.0)
    frame_s = 1514 * 8 / 1_000_000
    assert first.left_s == pytest.approx(10.0 + frame_s)
    assert second.left_s == pytest.approx(10.0 + 2 * frame_s)
    assert second.due_s == pytest.approx(second.left_s + 0.1)
    assert clock.take(10, 20.0).left_s == pytest.approx(20.0 + 76 * 8 / 1_000_000)


def test_the_clock_bounds_its_queue_in_time() -> None:
    clock = RateClock(Shape(rate_bit_s=1_000_000, queue_bytes=12_500), "s")
    assert clock.queue_s == pytest.approx(0.1)
    clock.take(25_000, 0.0)
    assert clock.wait_s(0.0) == pytest.approx(25_000 * 8e-6 + 18 * 66 * 8e-6 - 0.1)
    assert clock.wait_s(1.0) == 0.0


def test_jitter_keeps_the_order() -> None:
    clock = RateClock(Shape(delay_s=0.05, jitter_s=0.02), "s")
    dues = [clock.take(100, index * 0.001).due_s for index in range(500)]
    assert dues == sorted(dues)


def test_what_a_relay_cannot_do_is_named() -> None:
    assert unsupported(Shape(rate_bit_s=1, delay_s=0.1, jitter_s=0.1)) == []
    assert [text.split(":")[0] for text in unsupported(Shape(loss=0.01, delay_s=0.0005))] == ["loss", "delay"]


async def _started(relay: Relay) -> None:
    assert await relay.start() > 0
    await relay.close()


def test_a_link_faster_than_any_buffer_can_be_relayed() -> None:
    fast = Shape(rate_bit_s=100_000_000_000)
    asyncio.run(_started(Relay("127.0.0.1", "127.0.0.1", 1, fast, fast)))


@asynccontextmanager
async def rigged(up: Shape, down: Shape) -> AsyncIterator[tuple[int, list[tuple[float, int]], Relay]]:
    """An echoing server behind a relay; yields the relay's port and what arrived at the server and when."""
    arrivals: list[tuple[float, int]] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            arrivals.append((time.monotonic(), len(data)))
            writer.write(data[:1])
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    relay = Relay("127.0.0.1", "127.0.0.1", server.sockets[0].getsockname()[1], up, down)
    try:
        yield await relay.start(), arrivals, relay
    finally:
        await relay.close()
        server.close()


async def send(port: int, size: int) -> float:
    """Send so many bytes and wait until the other side has closed; seconds it took."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x" * size)
    writer.write_eof()
    while await reader.read(65_536):
        pass
    writer.close()
    return time.monotonic() - began


def test_connections_share_one_rate() -> None:
    async def scenario() -> float:
        async with rigged(Shape(rate_bit_s=4_000_000), Shape()) as (port, arrivals, _):
            await asyncio.gather(*(send(port, 150_000) for _ in range(3)))
            assert sum(size for _, size in arrivals) == 450_000
            return (arrivals[-1][0] - arrivals[0][0]) * 4_000_000 / 8 / (450_000 * 1514 / 1448)

    assert asyncio.run(scenario()) == pytest.approx(1.0, abs=0.12)


def test_delay_is_kept_in_both_directions() -> None:
    async def scenario() -> float:
        async with rigged(Shape(delay_s=0.05), Shape(delay_s=0.03)) as (port, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"a")
            await reader.read(1)
            began = time.monotonic()
            writer.write(b"b")
            await reader.read(1)
            writer.close()
            return time.monotonic() - began

    assert 0.08 <= min(asyncio.run(scenario()) for _ in range(3)) < 0.11


def test_a_broker_that_is_away_ends_the_connection() -> None:
    async def scenario() -> bytes:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            relay = Relay("127.0.0.1", "127.0.0.1", taken.getsockname()[1], Shape(), Shape())
            port = await relay.start()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                data = await reader.read(1)
                writer.close()
                return data
            finally:
                await relay.close()

    assert asyncio.run(scenario()) == b""


def test_the_process_records_links_and_lapses_and_ends_on_sigterm(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    links = (RelayLink(device="a", listen_port=0, up=Shape(loss=0.01), down=Shape(rate_bit_s=1_000_000)),)
    config = RelayConfig(upstream_port=9, links=links, history=str(history))
    (tmp_path / "relay.json").write_bytes(msgspec.json.encode(config))
    command = [
        sys.executable,
        "-m",
        "emulation.links.relay_process",
        "--config",
        str(tmp_path / "relay.json"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("a: 127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()
    events = [json.loads(line) for line in history.read_text().splitlines()]
    assert [event["event"] for event in events] == ["link_applied", "lapse", "link_sample"]
    assert events[1]["fields"]["detail"].startswith("up: loss")


def test_the_process_varies_its_links_and_records_it(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    steps = Steps(steps=(Step(at_s=0.0, rate_bit_s=200_000, delay_s=0.1),))
    up = Shape(rate_bit_s=1_000_000, vary=(steps,))
    config = RelayConfig(
        upstream_port=9,
        links=(RelayLink(device="a", listen_port=0, up=up, down=Shape()),),
        history=str(history),
    )
    (tmp_path / "relay.json").write_bytes(msgspec.json.encode(config))
    command = [
        sys.executable,
        "-m",
        "emulation.links.relay_process",
        "--config",
        str(tmp_path / "relay.json"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()
    varied = [e for e in map(json.loads, history.read_text().splitlines()) if e["event"] == "link_varied"]
    assert [(e["fields"]["up"]["rate_bit_s"], e["fields"]["up"]["delay_s"]) for e in varied] == [
        (200_000, 0.1)
    ]


def test_a_relay_changes_while_connections_last() -> None:
    async def scenario() -> tuple[float, float]:
        async with rigged(Shape(delay_s=0.02), Shape()) as (port, _, relay):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            took = []
            for delay_s in (0.02, 0.12):
                relay.change(Link(name="x", up=Shape(delay_s=delay_s), down=Shape()))
                began = time.monotonic()
                writer.write(b"a")
                await reader.read(1)
                took.append(time.monotonic() - began)
            writer.close()
            return took[0], took[1]

    before, after = asyncio.run(scenario())
    assert 0.02 <= before < 0.1
    assert after >= 0.12


def test_a_broken_configuration_is_an_error_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "relay.json").write_text("{}")
    command = [
        sys.executable,
        "-m",
        "emulation.links.relay_process",
        "--config",
        str(tmp_path / "relay.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "upstream_port" in done.stderr
