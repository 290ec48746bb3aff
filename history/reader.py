"""Read the history of a run: every producer's own file, and their merge.

A producer can be killed between any two bytes, and a device can write whatever it likes into its own
folder. So a cut line is skipped and counted, a line is read only up to its limit, links and pipes are not
opened, and the node of an event is the folder it lies in, whatever the line claims. Of devices' files only so
much is read that no device can use up the reader's memory; what is left unread is a defect.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import msgspec
from msgspec import Struct

from history.events import TRUSTED, Event
from history.one_clock import on_one_clock
from history.writer import EVENT_BYTES_MAX

# The writer keeps to EVENT_BYTES_MAX; anything longer is not a line of ours.
LINE_BYTES_MAX = EVENT_BYTES_MAX + 1024
READ_BYTES = 1 << 18  # one read; bounds what a poll holds at once
POLL_BYTES_MAX = 4 << 20  # of one file in one poll: a producer that floods does not starve the others
AGENT_POLL_BYTES_MAX = 1 << 20  # a poll of all devices is held at once; a device writes a few kB in that time
FILE_BYTES_MAX = 512 << 20  # of our own services' files; a day of a busy coordinator is about 100 MB
# Of a device's file. It writes 2 kB a task and 4 MB of traffic counters a day, so this is a day with six thousand
# tasks. In memory an event takes four to six times its line, 24 times if it is made for that: 380 MiB at the worst.
AGENT_FILE_BYTES_MAX = 16 << 20
# Of all devices' files together: what small ones leave is there for the larger, and nobody's share shrinks below an
# equal one, however much the others write.
AGENTS_BYTES_MAX = 128 << 20
DEFECTS_MAX = 200  # of one producer, listed one by one; what comes after is counted by kind
PRODUCERS_MAX = 4_096
UNREAD = "too_large"  # the kind of defect that is the reader's own limit: what lies behind it may be whole
MONO_S_MAX = 1e10  # 300 years of uptime; a device's clock beyond it is no clock


class Defect(Struct, frozen=True, kw_only=True):
    """Something of a producer's history that could not be read. kinds: gap, cut, malformed, unreadable,
    too_large (not read any further), truncated (one event, by its writer).
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


class Defects:
    """What is wrong with one producer's history; `found` is as long as it may be, however much is wrong."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._listed: list[Defect] = []
        self._more: Counter[str] = Counter()

    def add(self, defect: Defect) -> None:
        if len(self._listed) < DEFECTS_MAX:
            self._listed.append(defect)
        else:
            self._more[defect.kind] += defect.count

    @property
    def found(self) -> list[Defect]:
        detail = f"beyond the first {DEFECTS_MAX} defects, which are listed"
        rest = [
            Defect(kind=kind, node=self._node, count=count, detail=detail)
            for kind, count in self._more.items()
        ]
        return [*self._listed, *rest]


class Tail:
    """One producer's file, read piece by piece, its first `file_bytes_max`. `poll` never blocks and never sleeps."""

    def __init__(self, path: Path, node: str, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self.path, self.node, self._file_bytes_max = path, node, file_bytes_max
        self._defects = Defects(node)
        self._offset = 0
        self._rest = b""
        self._skipping = False  # inside a line that is longer than a line may be
        self._boot = _Boot()
        self._malformed = 0
        self._torn = False  # the line before was no line
        self._complained: set[str] = set()

    @property
    def defects(self) -> list[Defect]:
        return self._defects.found

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
        if UNREAD in self._complained:
            rest = b""  # it was the reader that cut this one
        events = self._events([rest]) if rest.strip() else []
        if self._torn:
            self._cut()
        if self._malformed:
            self._defects.add(Defect(kind="malformed", node=self.node, count=self._malformed))
        return events

    def _read(self, limit_bytes: int) -> Iterator[bytes]:
        descriptor = self._open()
        if descriptor is None:
            return
        try:
            os.lseek(descriptor, self._offset, os.SEEK_SET)
            end = min(self._offset + limit_bytes, self._file_bytes_max)
            while self._offset < end and (data := os.read(descriptor, min(READ_BYTES, end - self._offset))):
                self._offset += len(data)
                yield data
            if self._offset >= self._file_bytes_max:
                self._too_large(os.fstat(descriptor).st_size)
        except OSError as error:
            self._complain("unreadable", error.strerror or "cannot be read")
        finally:
            os.close(descriptor)

    def _too_large(self, size: int) -> None:
        if size > self._file_bytes_max:
            self._complain(
                UNREAD, f"only the first {self._file_bytes_max >> 10} KiB are read of {size >> 10}"
            )

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
            self._defects.add(
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
        self._defects.add(Defect(kind=kind, node=self.node, boot=self._boot.name, detail=detail))


def _plausible(event: Event) -> bool:
    """Whether the envelope can be a producer's."""
    named = bool(event.node and event.boot and event.event)
    return named and event.seq >= 0 and 0 <= event.mono_s < MONO_S_MAX and 0 <= event.wall_s < MONO_S_MAX


_decoder = msgspec.json.Decoder(Event)


def order(event: Event) -> tuple[float, str, str, int]:
    """Monotonic time is shared by all processes of a host, until it is started again (`on_one_clock`); the rest makes
    the order the same at every reading.
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
        found = (
            event
            for node, tail in self._tails.items()
            for event in tail.poll(POLL_BYTES_MAX if node in TRUSTED else AGENT_POLL_BYTES_MAX)
        )
        return sorted(found, key=order)

    def _discover(self) -> None:
        for path in _history_files(self._nodes):
            node = path.parent.name
            if node not in self._tails and len(self._tails) < PRODUCERS_MAX:
                self._tails[node] = Tail(path, node, file_bytes_max(node))

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


def file_bytes_max(node: str, share_bytes: int = AGENT_FILE_BYTES_MAX) -> int:
    """Our own services are taken at their word; a device may have written anything."""
    return FILE_BYTES_MAX if node in TRUSTED else min(AGENT_FILE_BYTES_MAX, share_bytes)


def share_bytes(sizes: Sequence[int], total_bytes: int) -> int:
    """How much may be read of each file, so that all fit into `total_bytes`: smaller files leave theirs to the rest."""
    for index, size in enumerate(sorted(sizes)):
        share = total_bytes // (len(sizes) - index)
        if size > share:
            return share
        total_bytes -= size
    return AGENT_FILE_BYTES_MAX


def _size(path: Path) -> int:
    """At most what would be read of it; 0 for what is not there or no file."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return min(found.st_size, AGENT_FILE_BYTES_MAX) if stat.S_ISREG(found.st_mode) else 0


def read_history(root: Path) -> History:
    """The merged history of a run that has ended (or as far as it has come), as much as is read of each file."""
    history = History()
    files = _history_files(root / "nodes")
    kept = files[:PRODUCERS_MAX]
    agents = [_size(path) for path in kept if path.parent.name not in TRUSTED]
    share = share_bytes(agents, AGENTS_BYTES_MAX)
    for path in kept:
        limit = file_bytes_max(path.parent.name, share)
        tail = Tail(path, path.parent.name, limit)
        history.events += on_one_clock(chain(tail.poll(limit), tail.finish()))
        history.defects += tail.defects
        history.producers.add(tail.node)
    if len(files) > PRODUCERS_MAX:
        left = len(files) - PRODUCERS_MAX
        history.defects.append(
            Defect(kind=UNREAD, node="", count=left, detail=f"{left} producers are not read")
        )
    history.events.sort(key=order)
    return history
