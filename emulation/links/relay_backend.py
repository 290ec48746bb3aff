"""The relay behind the interface of every backend: one thread with an event loop serves the links of all devices.

Its ends are ports, not namespaces: a device connects to `listen_port`, and its bytes go on to `upstream_port`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from emulation.links.base import DIRECTIONS, Counters, LinkBackend, Probe, Readback
from emulation.links.relay import Relay, unsupported
from topology.plan import Link, Shape

T = TypeVar("T")
ANSWER_WAIT_S = 10.0  # a port bound, connections closed: milliseconds


@dataclass(frozen=True)
class RelayEnds:
    """Where one device's link is. `listen_port` 0: any free one; `seed` names its random sequences."""

    device: str
    listen_port: int
    upstream_port: int
    seed: str
    listen_host: str = "127.0.0.1"
    upstream_host: str = "127.0.0.1"


class RelayBackend(LinkBackend[RelayEnds]):
    name = "relay"

    def __init__(self) -> None:
        self._relays: dict[str, Relay] = {}
        self._ports: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def probe(self) -> Probe:
        try:
            with socket.socket() as handle:
                handle.bind(("127.0.0.1", 0))
        except OSError as error:
            return Probe(self.name, False, f"no socket on loopback: {error}")
        return Probe(self.name, True, "a TCP relay needs neither root nor Docker")

    def start(self) -> str:
        if not self.alive():
            self._relays.clear()
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
            self._thread.start()
        return "relay thread"

    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def apply(self, ends: RelayEnds, link: Link) -> None:
        """Raises OSError when the port is taken."""
        if ends.device in self._relays:
            self.change(ends, link)
            return
        relay = Relay(
            ends.listen_host, ends.upstream_host, ends.upstream_port, link.up, link.down, seed=ends.seed
        )
        self._ports[ends.device] = self._wait(relay.start(ends.listen_port))
        self._relays[ends.device] = relay

    def change(self, ends: RelayEnds, link: Link) -> None:
        async def change() -> None:
            self._relays[ends.device].change(link)

        self._wait(change())

    def verify(self, ends: RelayEnds, link: Link) -> Readback:
        relay = self._relays.get(ends.device)
        if relay is None or not relay.listening:
            wanted = link.up.shaped or link.down.shaped
            return Readback({}, (f"{ends.device}: no relay listens",) if wanted else ())
        in_force: dict[str, Shape] = {"up": relay.up.shape, "down": relay.down.shape}
        wrong = [
            f"{way}: the relay has {in_force[way]}, {getattr(link, way)} was asked"
            for way in DIRECTIONS
            if in_force[way] != getattr(link, way)
        ]
        wrong += [f"{way}: {text}" for way in DIRECTIONS for text in unsupported(getattr(link, way))]
        return Readback({**in_force, "port": self._ports[ends.device]}, tuple(wrong))

    def counters(self, ends: RelayEnds) -> Counters:
        """A stream has no packets to count; see `bytes_moved`."""
        return Counters()

    def bytes_moved(self, device: str) -> tuple[int, int]:
        """(up, down) since the relay was put in force."""
        relay = self._relays[device]
        return relay.up.bytes, relay.down.bytes

    def port(self, device: str) -> int:
        return self._ports[device]

    def clear(self, ends: RelayEnds) -> None:
        relay = self._relays.pop(ends.device, None)
        if relay is not None and self.alive():
            self._wait(relay.close())

    def stop(self) -> None:
        for relay in self._relays.values():
            self._wait(relay.close())
        self._relays.clear()
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(ANSWER_WAIT_S)
            self._loop.close()
        self._loop = self._thread = None

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise RuntimeError("the relay was not started")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_WAIT_S)
