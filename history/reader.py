"""Read the history of a run: every producer's own file, and their merge.

A producer can be killed between any two bytes, and a device can write whatever it likes into its own
folder. So a cut line is skipped and counted, a line is read only up to its limit, links and pipes are not
opened, and the node of an event is the folder it lies in, whatever the line claims.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct

from history.events import Event
from history.writer import EVENT_BYTES_MAX

# The writer keeps to EVENT_BYTES_MAX; anything longer is not a line of ours.
LINE_BYTES_MAX = EVENT_BYTES_MAX + 1024
READ_BYTES = 1 << 18  # one read; bounds what a poll holds at once
POLL_BYTES_MAX = 4 << 20  # of one file in one poll: a producer that floods does not starve the others
FILE_BYTES_MAX = 512 << 20  # a day of a busy coordinator is about 100 MB
PRODUCERS_MAX = 4_096
MONO_S_MAX = 1e10  # 300 years of uptime; a device's clock beyond it is no clock


class Defect(Struct, frozen=True, kw_only=True):
    """Something of a producer's history that could not be read. kinds: gap, cut, malformed, unreadable,
    too_large, truncated (one event, by its writer).
    """

    kind: str
    node: str
    boot: str = ""
    count: int = 1
    detail: str = ""
    mono_s: float | None = None


@dataclass(slots=True)
class History:
    """The merged history of a run; `producers` are the nodes that have a file at all."""

    events: list[Event] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)
    producers: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Boot:
    """The producer's boot that the reader is in."""

    name: str = ""
    seq: int = -1


class Tail:
    """One producer's file, read piece by piece. `poll` never blocks and never sleeps."""

    def __init__(self, path: Path, node: str) -> None:
        self.path, self.node = path, node
        self.defects: list[Defect] = []
        self._offset = 0
        self._rest = b""
        self._skipping = False  # inside a line that is longer than a line may be
        self._boot = _Boot()
        self._malformed = 0
        self._torn = False  # the line before was no line
        self._complained: set[str] = set()

    def poll(self, limit_bytes: int = POLL_BYTES_MAX) -> list[Event]:
        """Events of the lines completed since the last poll, at most `limit_bytes` of them."""
        events: list[Event] = []
        for data in self._read(limit_bytes):
            events += self._events(self._lines(data))
        return events

    def finish(self) -> list[Event]:
        """The file will not grow any more: a last line without its end is a cut one, unless it happens to
        be whole.
        """
        rest, self._rest = self._rest, b""
        events = self._events([rest]) if rest.strip() else []
        if self._torn:
            self._cut()
        if self._malformed:
            self.defects.append(Defect(kind="malformed", node=self.node, count=self._malformed))
        return events

    def _read(self, limit_bytes: int) -> Iterator[bytes]:
        descriptor = self._open()
        if descriptor is None:
            return
        try:
            os.lseek(descriptor, self._offset, os.SEEK_SET)
            end = min(self._offset + limit_bytes, FILE_BYTES_MAX)
            while self._offset < end and (data := os.read(descriptor, min(READ_BYTES, end - self._offset))):
                self._offset += len(data)
                yield data
        except OSError as error:
            self._complain("unreadable", error.strerror or "cannot be read")
        finally:
            os.close(descriptor)
        if self._offset >= FILE_BYTES_MAX:
            self._complain("too_large", f"only the first {FILE_BYTES_MAX >> 20} MiB are read")

    def _open(self) -> int | None:
        """Neither a link nor a pipe nor anything else a device may have put in the file's place."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain("unreadable", error.strerror or "cannot be opened")
            return None
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        self._complain("unreadable", "is not a regular file")
        return None

    def _lines(self, data: bytes) -> Iterator[bytes]:
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            if self._skipping or len(line) > LINE_BYTES_MAX:
                self._skipping, self._torn = False, False
                self._malformed += 1
            elif line:
                yield line
        if self._skipping or len(rest) > LINE_BYTES_MAX:
            self._skipping, rest = True, b""
        self._rest = rest

    def _events(self, lines: Iterable[bytes]) -> list[Event]:
        events = []
        for line in lines:
            event = self._event(line)
            self._torn = event is None
            if event is None:
                self._malformed += 1
            else:
                events.append(event)
        return events

    def _cut(self) -> None:
        """A broken line at the end of a boot is what a kill leaves, and no fault of the producer's."""
        self._torn = False
        self._malformed -= 1
        self._defect("cut", "the last line of a boot was cut by the producer's end")

    def _event(self, line: bytes) -> Event | None:
        try:
            event = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if not _plausible(event):
            return None
        self._enter(event)
        return event if event.node == self.node else msgspec.structs.replace(event, node=self.node)

    def _enter(self, event: Event) -> None:
        """Follow the producer's boots and find what is missing between two of its lines."""
        current = self._boot
        if event.seq <= current.seq or (current.seq >= 0 and event.boot != current.name):
            if self._torn:
                self._cut()
            current = self._boot = _Boot()
        current.name = event.boot
        missing = event.seq - current.seq - 1
        if missing > 0:
            detail = f"{missing} events before seq {event.seq} are missing"
            self.defects.append(
                Defect(
                    kind="gap",
                    node=self.node,
                    boot=current.name,
                    count=missing,
                    detail=detail,
                    mono_s=event.mono_s,
                )
            )
        current.seq = event.seq

    def _complain(self, kind: str, detail: str) -> None:
        """Once for each kind: the file is opened again at every poll."""
        if kind not in self._complained:
            self._complained.add(kind)
            self._defect(kind, detail)

    def _defect(self, kind: str, detail: str) -> None:
        self.defects.append(Defect(kind=kind, node=self.node, boot=self._boot.name, detail=detail))


def _plausible(event: Event) -> bool:
    """Whether the envelope can be a producer's."""
    named = bool(event.node and event.boot and event.event)
    return named and event.seq >= 0 and 0 <= event.mono_s < MONO_S_MAX and 0 <= event.wall_s < MONO_S_MAX


_decoder = msgspec.json.Decoder(Event)


def order(event: Event) -> tuple[float, str, str, int]:
    """Monotonic time is shared by all processes of a host; the rest makes the order the same at every
    reading.
    """
    return event.mono_s, event.node, event.boot, event.seq


class Follower:
    """All producers' files below `<root>/nodes`, also those that appear later. The caller decides when to
    poll.
    """

    def __init__(self, root: Path) -> None:
        self._nodes = root / "nodes"
        self._tails: dict[str, Tail] = {}

    def poll(self) -> list[Event]:
        """What is new since the last poll, in order."""
        self._discover()
        return sorted((event for tail in self._tails.values() for event in tail.poll()), key=order)

    def _discover(self) -> None:
        for path in _history_files(self._nodes):
            node = path.parent.name
            if node not in self._tails and len(self._tails) < PRODUCERS_MAX:
                self._tails[node] = Tail(path, node)

    @property
    def defects(self) -> list[Defect]:
        return [defect for tail in self._tails.values() for defect in tail.defects]


def _history_files(nodes: Path) -> list[Path]:
    try:
        with os.scandir(nodes) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [path for name in folders if os.path.lexists(path := nodes / name / "history.jsonl")]


def read_history(root: Path) -> History:
    """The whole merged history of a run that has ended (or as far as it has come)."""
    history = History()
    files = _history_files(root / "nodes")
    for path in files[:PRODUCERS_MAX]:
        tail = Tail(path, path.parent.name)
        history.events += tail.poll(FILE_BYTES_MAX)
        history.events += tail.finish()
        history.defects += tail.defects
        history.producers.add(tail.node)
    if len(files) > PRODUCERS_MAX:
        left = len(files) - PRODUCERS_MAX
        history.defects.append(
            Defect(kind="too_large", node="", count=left, detail=f"{left} producers are not read")
        )
    history.events.sort(key=order)
    return history
