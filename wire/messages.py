"""Messages between coordinator and agents: typed msgpack structs with a schema version.

Every control message is one `Envelope`-less msgpack map with the tag `type` and the key `v`. The sender of an upward
message is the agent in its *topic* (the broker's ACL guards it), never a field of the payload. `decode_up` and
`decode_down` check type, size and version and raise `MessageError` with a machine-readable reason, whatever the
bytes are; model objects and updates travel as chunks (`wire.chunks`), not here.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from wire.chain_spec import CodecSpec, Feedback

MESSAGE_SCHEMA = 1
MESSAGE_BYTES_MAX = 65_536  # a task with eight delta paths is under 3 kB; anything near this is not ours
INLINE_BYTES_MAX = 32_768  # of an update within its offer: half a message, the rest of an offer is under 1 kB

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern="^[a-z0-9][a-z0-9.-]*$")]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Text = Annotated[str, Meta(max_length=512)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
Inline = Annotated[bytes, Meta(max_length=INLINE_BYTES_MAX)]

OUTCOMES = ("merged", "late", "surplus", "stale", "refused")
OutcomeKind = Literal["merged", "late", "surplus", "stale", "refused"]
# late, surplus, stale: the content goes back to the residual. refused: dropped, or it would come back larger for ever.


class MessageError(ValueError):
    """Bytes that are no message of ours. `reason` is a short code: too_large, malformed, version."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class _Message(Struct, frozen=True, kw_only=True, tag_field="type"):
    v: int = MESSAGE_SCHEMA


class ObjectRef(Struct, frozen=True, kw_only=True):
    """Something an agent can fetch from retained chunks `model/<name>/<0..chunks-1>`."""

    name: Name
    bytes: Annotated[int, Meta(ge=1, le=1 << 30)]
    chunks: Annotated[int, Meta(ge=1, le=65_536)]
    sha256: Sha256
    base_version: int | None = None  # a delta: what the agent must hold to apply it


class ModelRef(Struct, frozen=True, kw_only=True):
    """A version, named by the sha256 of its encoded parameters (wire.codecs.model), and every way to get it."""

    version: Annotated[int, Meta(ge=0, le=1 << 40)]
    sha256: Sha256
    parameters: Annotated[int, Meta(ge=1, le=1 << 30)]
    dtype: Literal["fp16", "int8", "none"]
    full: ObjectRef
    deltas: Annotated[tuple[ObjectRef, ...], Meta(max_length=8)] = ()


class ControlRef(Struct, frozen=True, kw_only=True):
    """SCAFFOLD: the server's control variate as of the task's version, and how the change of the device's own is sent.

    `object` is encoded like a whole version (wire.codecs.model), of as many parameters as the model.
    """

    object: ObjectRef
    dtype: Literal["fp16", "none"]
    chain: CodecSpec = CodecSpec(quantize="fp16")


class Personal(Struct, frozen=True, kw_only=True):
    """What a device trains for itself beside the update (`learning.personal`); a number of another kind means nothing.

    `steps`: of the personal part, None: as many as the task's own. `proximal`: ditto's λ.
    """

    kind: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[a-z0-9][a-z0-9_.-]*$")]
    steps: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    proximal: Annotated[float, Meta(ge=0, le=1e6)] = 0.0


class TrainSpec(Struct, frozen=True, kw_only=True):
    """How one task trains (learning.trainer.TrainingSpec has the same fields); `lr` is this round's.

    `local_steps` goes before `local_epochs`. `keep`: the optimizer's state is the device's own from task to task.
    `evaluate`: test the version, and the personal model, on the device's own test data and send the figures.
    """

    local_epochs: Annotated[int, Meta(ge=1, le=10_000)] = 1
    local_steps: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    batch_size: Annotated[int, Meta(ge=1, le=65_536)]
    last_batch: Literal["pad", "fill", "drop"] = "pad"
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float | None = None
    prox_mu: float = 0.0
    keep: bool = False
    personal: Personal | None = None
    evaluate: bool = False


class UplinkSpec(Struct, frozen=True, kw_only=True):
    """How an update is made small, and what becomes of the rest. `bypass`: tiny tensors go beside the chain."""

    chain: CodecSpec = CodecSpec()
    feedback: Feedback = Feedback()
    bypass: bool = True


# --- down: coordinator to one agent -------------------------------------------------------------------------------


class Task(_Message, frozen=True, kw_only=True, tag="task"):
    """Train on `model` and offer an update before `deadline_s` (seconds from now) has passed.

    `survey`: only test it on the device's own data, and say so with a `Surveyed`; nothing is trained for an update.
    """

    task: Name
    round: Count
    model: ModelRef
    graph: ObjectRef
    train: TrainSpec
    uplink: UplinkSpec
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    deadline_s: Annotated[float, Meta(gt=0, le=1e7)]
    control: ControlRef | None = None  # train with c - ci, and send two vectors (wire.pair)
    probe: Annotated[int, Meta(ge=0, le=1_000_000)] = (
        0  # not an update: the loss on so many samples at most, `Probed`
    )
    survey: bool = False
    # Room is kept for an update of so many bytes: it may come within its offer, while the connection lasts on which
    # this was heard. 0: it waits for a grant.
    inline_bytes: Annotated[int, Meta(ge=0, le=INLINE_BYTES_MAX)] = 0


class Grant(_Message, frozen=True, kw_only=True, tag="grant"):
    """Leave to send the update of `task`: chunks of `chunk_bytes`, at most `window_bytes` not yet PUBACKed.

    `missing`: only these indexes (None: all), after a reconnect or a lost chunk.
    """

    task: Name
    sha256: Sha256
    chunk_bytes: Annotated[int, Meta(ge=256, le=1 << 20)]
    window_bytes: Annotated[int, Meta(ge=256, le=1 << 26)]
    missing: Annotated[tuple[int, ...], Meta(max_length=65_536)] | None = None


class Ack(_Message, frozen=True, kw_only=True, tag="ack"):
    """The update of `task` with this content is fsynced: the agent frees its spool. Other content: not settled."""

    task: Name
    sha256: Sha256


class Outcome(_Message, frozen=True, kw_only=True, tag="outcome"):
    """What became of an acked update (or of a task without one: sha256 None). Settles the residual."""

    task: Name
    sha256: Sha256 | None
    outcome: OutcomeKind
    version: int | None = None
    reason: Text = ""


class Cancel(_Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop working on `task`. If an update for it was already made, its content goes back to the residual."""

    task: Name
    reason: Text = ""


class Resync(_Message, frozen=True, kw_only=True, tag="resync"):
    """Coordinator or broker were away. The agent answers with a hello. `epoch` counts coordinator boots."""

    epoch: Count


class Finish(_Message, frozen=True, kw_only=True, tag="finish"):
    """The run is over: settle, write the history, disconnect, exit with 0."""

    reason: Text = ""


# --- up: one agent to the coordinator -----------------------------------------------------------------------------


class SpoolItem(Struct, frozen=True, kw_only=True):
    task: Name
    sha256: Sha256
    bytes: Count


class Power(Struct, frozen=True, kw_only=True):
    """What a battery-powered device says of itself: its charge as a share of full, and whether it charges."""

    charge: Annotated[float, Meta(ge=0, le=1)]
    plugged: bool = True


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """After every connect and every resync: what this agent is and holds."""

    boot: Name
    version: int | None = None  # the model version held
    version_sha256: Sha256 | None = None
    task: Name | None = None  # in hand: fetching, training or encoding
    spool: Annotated[tuple[SpoolItem, ...], Meta(max_length=8)] = ()  # offered, not acked
    unsettled: Annotated[tuple[Name, ...], Meta(max_length=8)] = ()  # acked, no outcome yet
    samples: Count = 0
    software: Text = ""
    power: Power | None = None  # None: on mains
    variate: bool = True  # False: this disk holds no control variate of the device's own (SCAFFOLD)


class Measured(Struct, frozen=True, kw_only=True):
    """One model on a device's own test data. `answers`: what `correct` is counted of, of a sequence one per element."""

    samples: Annotated[int, Meta(ge=1, le=1_000_000_000)]
    loss: Annotated[float, Meta(ge=0, le=1e9)]
    answers: Count = 0
    correct: Count | None = None  # a regression has none


class LocalFigures(Struct, frozen=True, kw_only=True):
    """What a version came to on one device's own test data, and what the device made of it for itself.

    `received`: the version as it came; None with local heads, where it has no head. `personal`: None without
    personalisation. A figure that is not finite is not sent.
    """

    version: Annotated[int, Meta(ge=0, le=1 << 40)]
    received: Measured | None = None
    personal: Measured | None = None


class Report(Struct, frozen=True, kw_only=True):
    """What the training of one task was like; journalled with the update."""

    samples: Count
    steps: Count
    loss: float
    train_s: float
    step_s: float
    fetch_s: float
    fetch_bytes: Count
    peak_rss_bytes: Count
    residual_norm: float
    raw_bytes: Count  # the same update as float32, with everything that travels with it
    residual_share: float = (
        1.0  # of the residual before: less than all when it was old, 0 when it was dropped
    )
    local: LocalFigures | None = None


class Offer(_Message, frozen=True, kw_only=True, tag="offer"):
    """An update is ready and spooled; the agent waits for a grant, or for the ack if the `update` is in here."""

    task: Name
    sha256: Sha256
    bytes: Annotated[int, Meta(ge=1, le=1 << 30)]
    report: Report
    power: Power | None = None
    update: Inline = b""


class Progress(_Message, frozen=True, kw_only=True, tag="progress"):
    """QoS 0, at most one a second."""

    task: Name
    phase: Literal["fetching", "training", "encoding", "waiting", "uploading"]
    done: Count
    total: Count


class Failed(_Message, frozen=True, kw_only=True, tag="failed"):
    """This task will not get an update from this agent."""

    task: Name
    reason: Text


class Probed(_Message, frozen=True, kw_only=True, tag="probed"):
    """The answer to a task with `probe`: the mean loss of its version on `samples` of the device's own."""

    task: Name
    loss: float
    samples: Count
    fetch_bytes: Count = 0  # what the device had to fetch for it


class Surveyed(_Message, frozen=True, kw_only=True, tag="surveyed"):
    """The answer to a task that is a survey."""

    task: Name
    figures: LocalFigures


class Ask(_Message, frozen=True, kw_only=True, tag="ask"):
    """Outcomes wanted for these tasks (the agent's own timer never settles)."""

    tasks: Annotated[tuple[Name, ...], Meta(max_length=8)]


class Status(_Message, frozen=True, kw_only=True, tag="status"):
    """Retained on `status/<agent>`; `online: false` is the last will."""

    online: bool
    boot: Name


Down = Task | Grant | Ack | Outcome | Cancel | Resync | Finish
Up = Hello | Offer | Progress | Failed | Probed | Surveyed | Ask | Status

_encoder = msgspec.msgpack.Encoder()
_down = msgspec.msgpack.Decoder(Down)
_up = msgspec.msgpack.Decoder(Up)


class _Head(Struct, frozen=True):
    """What every version of every message has."""

    v: int = MESSAGE_SCHEMA


_head = msgspec.msgpack.Decoder(_Head)


def encode(message: Down | Up) -> bytes:
    return _encoder.encode(message)


def _checked(
    decoder: msgspec.msgpack.Decoder[Down] | msgspec.msgpack.Decoder[Up], payload: bytes
) -> Down | Up:
    if len(payload) > MESSAGE_BYTES_MAX:
        raise MessageError("too_large", f"{len(payload)} bytes")
    try:
        message = decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _check_version(
            _version_of(payload)
        )  # another version may well look different: that is the better reason
        raise MessageError("malformed", str(error)[:200]) from None
    _check_version(message.v)
    return message


def _version_of(payload: bytes) -> int:
    try:
        return _head.decode(payload).v
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return MESSAGE_SCHEMA


def _check_version(version: int) -> None:
    if version != MESSAGE_SCHEMA:
        raise MessageError("version", f"schema {version}, this side speaks {MESSAGE_SCHEMA}")


def decode_down(payload: bytes) -> Down:
    """What a coordinator sent. Raises MessageError."""
    return _checked(_down, payload)  # type: ignore[return-value]


def decode_up(payload: bytes) -> Up:
    """What an agent sent. Raises MessageError."""
    return _checked(_up, payload)  # type: ignore[return-value]
