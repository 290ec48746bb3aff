"""What the core was told and what it decided, kept so that `edgerig replay` can drive it again.

One file for every boot, `nodes/coordinator/decisions-<epoch>.bin`: frames of four bytes of length (big endian) and
msgpack. The first is the `Beginning`: configuration and restored state, so that a replay needs nothing else. Every
other is one `Decided`: the event, the core's time, and a digest of the actions. Written without a sync: a power cut may
cost the end of it, a replay then goes as far as it can. A full disk ends the recording, never the run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from coordinator import actions as a
from coordinator import events as e
from coordinator.config import SETTLED_KEPT_PER_AGENT, STORY_LINES, CoordinatorConfig
from coordinator.core import CoordinatorCore
from coordinator.policies import Policy
from coordinator.state import CoordinatorState

DECISIONS_SCHEMA = 1
FRAME_BYTES_MAX = 64 << 20  # a state with 2,000 agents and all the tasks they may ask for has some megabytes
DECISIONS_BYTES_MAX = 256 << 20  # a day of a large run; what comes after is not replayed
LENGTH_BYTES = 4

AnyEvent = (
    e.Started
    | e.Connected
    | e.Disconnected
    | e.MessageArrived
    | e.StatusRefused
    | e.ChunksHeard
    | e.UpdateReceived
    | e.OfferedWhole
    | e.UpdateBroken
    | e.UpdateJournalled
    | e.VersionCommitted
    | e.Evaluated
    | e.EvaluationFailed
    | e.Tick
)


class Beginning(Struct, frozen=True, tag=True):
    schema: int
    epoch: int
    config: CoordinatorConfig
    state: msgspec.Raw


class Decided(Struct, frozen=True, tag=True):
    event: AnyEvent
    now: float
    digest: str
    actions: tuple[str, ...]  # for people: what kinds


class DecisionsBroken(ValueError):
    """The file is not what this version writes."""


def _plain(value: Any) -> Any:
    if isinstance(value, deque | frozenset):
        return list(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be kept")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)


def digest_of(actions: list[a.Action]) -> str:
    return hashlib.sha256(_encoder.encode(actions)).hexdigest()[:16]


def names_of(actions: list[a.Action]) -> tuple[str, ...]:
    return tuple(x.event if isinstance(x, a.Record) else type(x).__name__ for x in actions)


def pack_state(state: CoordinatorState) -> bytes:
    return _encoder.encode(state)


def unpack_state(packed: bytes | msgspec.Raw) -> CoordinatorState:
    """Raises msgspec.ValidationError."""

    def build(kind: Any, value: Any) -> Any:
        if getattr(kind, "__origin__", kind) is deque:
            return deque(msgspec.convert(value, list[kind.__args__]))
        raise NotImplementedError(f"{kind} is not kept")

    state = msgspec.convert(msgspec.msgpack.decode(packed), CoordinatorState, dec_hook=build)
    for name, empty in vars_of(CoordinatorState(agents={})).items():
        if isinstance(empty, deque):
            setattr(state, name, deque(getattr(state, name), maxlen=empty.maxlen))
    for agent in state.agents.values():
        agent.settled = deque(agent.settled, maxlen=SETTLED_KEPT_PER_AGENT)
    for task in state.tasks.values():
        task.story = deque(task.story, maxlen=STORY_LINES)
    state.unended = {name: state.tasks[name] for name in state.unended}  # the same objects, as before
    return state


def vars_of(state: CoordinatorState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


class DecisionLog:
    """Appends frames; stops for good at the bound or at the first error."""

    def __init__(self, path: Path, *, bytes_max: int = DECISIONS_BYTES_MAX) -> None:
        self._left = bytes_max
        self._file: BinaryIO | None = None
        try:
            self._file = open(path, "wb")  # noqa: SIM115 - open for as long as the process lives
        except OSError as error:
            self._stop(str(error))

    def append(self, frame: Beginning | Decided, *, more: bool = False) -> None:
        """`more`: another follows before anything is done about this one, so it need not be with the kernel yet."""
        if self._file is None:
            return
        body = _encoder.encode(frame)
        self._left -= LENGTH_BYTES + len(body)
        if self._left < 0:
            self._stop("the file has its full size")
            return
        try:
            self._file.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)
            if not more:
                self._file.flush()
        except OSError as error:
            self._stop(str(error))

    def _stop(self, why: str) -> None:
        self._file = None
        print(f"coordinator: decisions are no longer recorded: {why}", file=sys.stderr, flush=True)


class RecordedCore(CoordinatorCore):
    """The core, with everything that goes in and comes out on record."""

    def __init__(
        self,
        config: CoordinatorConfig,
        state: CoordinatorState,
        policy: Policy | None = None,
        *,
        log: DecisionLog,
    ) -> None:
        super().__init__(config, state, policy)
        self._log = log
        packed = msgspec.Raw(pack_state(state))
        log.append(Beginning(DECISIONS_SCHEMA, state.epoch, config, packed))

    def handle(self, event: e.Event, now: float) -> list[a.Action]:
        actions = super().handle(event, now)
        decided = Decided(event, now, digest_of(actions), names_of(actions))  # type: ignore[arg-type]
        self._log.append(decided, more=event.more)
        return actions


def path_of(root: Path, epoch: int) -> Path:
    return root / "nodes" / "coordinator" / f"decisions-{epoch}.bin"


def recorded(path: Path) -> Iterator[Beginning | Decided]:
    """The frames of one file, up to a torn end. Raises DecisionsBroken for anything else that is wrong."""
    decoder: msgspec.msgpack.Decoder[Beginning | Decided] = msgspec.msgpack.Decoder(Beginning | Decided)
    with open(path, "rb") as file:
        while len(head := file.read(LENGTH_BYTES)) == LENGTH_BYTES:
            size = int.from_bytes(head, "big")
            if size > FRAME_BYTES_MAX:
                raise DecisionsBroken(f"{path}: a frame of {size} bytes")
            if len(body := file.read(size)) < size:
                return  # the process died while it wrote this
            try:
                yield decoder.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise DecisionsBroken(f"{path}: {error}") from error
