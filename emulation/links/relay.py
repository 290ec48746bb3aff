"""Links without root: a TCP relay between a device and the broker, for the process runtime.

Every connection of a device passes one relay; per direction all of them share one rate, and bytes arrive one delay
after they left. What a TCP relay cannot do is refused by name (`unsupported`): it sees a stream, not packets, so it
cannot lose any.

`relay_backend` puts it behind the interface of every backend, `relay_process` runs all relays of a run.
"""

from __future__ import annotations

import asyncio
import socket
import time

from emulation.links.rate_clock import RateClock
from topology.link_features import unsupported_shape
from topology.plan import Link, Shape

DELAY_S_MIN = 0.001  # the event loop's timers count in milliseconds
UNDER_WAY_BYTES_MAX = 8 << 20  # per connection and direction without a rate: 80 ms at 1 Gbit/s
CONNECTIONS_MAX = 64  # per device; an agent has one, and one more while it reconnects
CONNECT_WAIT_S = 10.0
# The kernel's buffer is part of the queue: as large as the queue, not megabytes.
RECEIVE_BUFFER_BYTES_MIN = 8_192
RECEIVE_BUFFER_BYTES_MAX = 64 << 20  # a C int at most; the kernel gives far less (net.core.rmem_max)


def unsupported(shape: Shape) -> list[str]:
    """What a relay cannot do of this shape, with the reason."""
    found = unsupported_shape("relay", shape)
    if 0 < shape.delay_s < DELAY_S_MIN:
        found.append(f"delay: {shape.delay_s * 1e3:g} ms is below what a relay can keep (1 ms)")
    return found


class Relay:
    """One device's link. `start` returns the port; `close` ends all connections."""

    def __init__(
        self,
        listen_host: str,
        upstream_host: str,
        upstream_port: int,
        shape_up: Shape,
        shape_down: Shape,
        *,
        seed: str = "0",
    ) -> None:
        self._listen_host, self._upstream = listen_host, (upstream_host, upstream_port)
        self.up, self.down = RateClock(shape_up, f"{seed}/up"), RateClock(shape_down, f"{seed}/down")
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> int:
        """Raises OSError when the port is taken."""
        handle = socket.socket()
        try:
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _buffer_bytes(self.up))
            handle.bind((self._listen_host, port))
            self._server = await asyncio.start_server(self._accept, sock=handle)
        except BaseException:
            handle.close()
            raise
        return int(handle.getsockname()[1])

    def change(self, link: Link) -> None:
        """Another shape for what comes from now on; what is under way keeps its time."""
        self.up.shape, self.down.shape = link.up, link.down

    @property
    def listening(self) -> bool:
        return self._server is not None and self._server.is_serving()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= CONNECTIONS_MAX:
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # `close` ends it; the device sees its connection end
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The handshake crosses the link once in each direction, as it would on a real one.
        await asyncio.sleep(self.up.shape.delay_s + self.down.shape.delay_s)
        try:
            async with asyncio.timeout(CONNECT_WAIT_S):
                broker_reader, broker_writer = await _connect(self._upstream, _buffer_bytes(self.down))
        except (OSError, TimeoutError):
            return  # the device sees a connection that ends, as when the broker is away
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, broker_writer, self.up))
                pumps.create_task(_pump(broker_reader, writer, self.down))
        except* (OSError, asyncio.IncompleteReadError):
            pass  # one side reset the connection: the other one's ends too
        finally:
            broker_writer.close()


async def _connect(
    upstream: tuple[str, int], buffer_bytes: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    handle = socket.socket()
    handle.setblocking(False)
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    try:
        await asyncio.get_running_loop().sock_connect(handle, upstream)
        return await asyncio.open_connection(sock=handle)
    except BaseException:
        handle.close()
        raise


def _buffer_bytes(clock: RateClock) -> int:
    rate = clock.shape.rate_bit_s
    if rate is None:
        return 1 << 20
    return min(RECEIVE_BUFFER_BYTES_MAX, max(RECEIVE_BUFFER_BYTES_MIN, int(clock.queue_s * rate / 8)))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: RateClock) -> None:
    """Move one direction of one connection: read within the queue's bound, write when due. Ends at end of file."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    room = asyncio.Event()
    held = [0]

    async def deliver() -> None:
        while True:
            due, data = await under_way.get()
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
            held[0] -= len(data)
            room.set()

    async def take() -> None:
        while True:
            while (wait := clock.wait_s(time.monotonic())) > 0:
                await asyncio.sleep(wait)
            while held[0] > UNDER_WAY_BYTES_MAX:
                room.clear()
                await room.wait()
            data = await reader.read(clock.chunk_bytes())
            passage = clock.take(len(data), time.monotonic())
            held[0] += len(data)
            under_way.put_nowait((passage.due_s, data))
            if not data:
                return

    async with asyncio.TaskGroup() as both:
        both.create_task(deliver())
        both.create_task(take())
