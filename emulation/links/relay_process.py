"""All relays of a run in the process runtime: `python -m emulation.links.relay_process --config relay.json`, until
SIGTERM. What a relay cannot do of a link is on record as a lapse; links that vary do so here.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from emulation.courses import Courses, varying
from emulation.links.relay_backend import RelayBackend, RelayEnds
from history.writer import HistoryWriter
from topology.plan import Link, Shape

SAMPLE_S = 5.0
TURN_S = 0.05  # how late a varying link may change


class RelayLink(Struct, frozen=True, kw_only=True):
    """`listen_port` 0: any free one."""

    device: str
    listen_port: int
    up: Shape
    down: Shape


class RelayConfig(Struct, frozen=True, kw_only=True):
    """The file `relay.json`. `history` is the file to record in; empty: nothing is recorded."""

    upstream_port: int
    links: tuple[RelayLink, ...]
    upstream_host: str = "127.0.0.1"
    listen_host: str = "127.0.0.1"
    seed: int = 0
    history: str = ""


class RelayService:
    def __init__(self, config: RelayConfig, history: HistoryWriter | None) -> None:
        self._config, self._history = config, history
        self._backend = RelayBackend()
        self._ends = {link.device: self._ends_of(link) for link in config.links}
        self._courses = Courses(
            {link.device: Link(name="relay", up=link.up, down=link.down) for link in config.links}
        )

    def _ends_of(self, link: RelayLink) -> RelayEnds:
        config = self._config
        return RelayEnds(
            device=link.device,
            listen_port=link.listen_port,
            upstream_port=config.upstream_port,
            seed=f"{config.seed}/{link.device}",
            listen_host=config.listen_host,
            upstream_host=config.upstream_host,
        )

    def serve(self, stop: threading.Event) -> None:
        """Until `stop`. Raises OSError when a port is taken."""
        self._backend.start()
        try:
            for device in self._ends:
                self._put(device)
            self._courses.start(time.monotonic())
            next_sample = time.monotonic() + SAMPLE_S
            while not stop.wait(TURN_S if self._courses.varying else SAMPLE_S):
                self._vary()
                if time.monotonic() >= next_sample:
                    next_sample = time.monotonic() + SAMPLE_S
                    self._sample()
            self._vary()
            self._sample()
        finally:
            self._backend.stop()

    def _put(self, device: str) -> None:
        """In force, read back, and what is not as it was asked on record."""
        ends, link = self._ends[device], self._courses.now(device)
        self._backend.apply(ends, link)
        found = self._backend.verify(ends, link)
        print(f"{device}: {ends.listen_host}:{self._backend.port(device)}", flush=True)
        if self._history is None:
            return
        requested = {"up": link.up, "down": link.down}
        self._history.append(
            "link_applied",
            device=device,
            backend=self._backend.name,
            requested=requested,
            readback=found.values,
            mismatches=list(found.mismatches),
        )
        for text in found.mismatches:
            asked = requested.get(text.partition(":")[0])
            self._history.append(
                "lapse", what="not_emulated", node=device, requested=asked, effective=None, detail=text
            )
        self._history.sync()

    def _vary(self) -> None:
        now = time.monotonic()
        for device in self._courses.due(now):
            link = self._courses.advance(device, now)
            if link is None:
                continue
            self._backend.change(self._ends[device], link)
            if self._history is not None:
                at_s, up, down = round(self._courses.at_s(now), 3), varying(link.up), varying(link.down)
                self._history.append("link_varied", device=device, at_s=at_s, up=up, down=down)

    def _sample(self) -> None:
        if self._history is None:
            return
        for device in self._ends:
            up, down = self._backend.bytes_moved(device)
            self._history.append("link_sample", device=device, up_bytes=up, down_bytes=down)
        self._history.sync()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m emulation.links.relay_process")
    parser.add_argument("--config", type=Path, required=True, help="relay.json")
    path: Path = parser.parse_args(argv).config
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    history = None
    try:
        config = msgspec.json.decode(path.read_bytes(), type=RelayConfig)
        history = HistoryWriter(config.history, "relay") if config.history else None
        RelayService(config, history).serve(stop)
    except (OSError, msgspec.DecodeError) as error:
        print(f"relay: {path}: {error}", file=sys.stderr)
        return 3
    finally:
        if history is not None:
            history.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
