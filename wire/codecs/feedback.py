"""Error feedback: what compression leaves out of one update goes into the next.

`residual` + what was sent = the sum of all local deltas, whatever becomes of the updates (Seide et al. 2014,
Karimireddy et al. 2019). What was sent counts as sent only when an outcome says so: until then its payload is
kept, a few kB, and an update that was not merged is decoded again and added back.

One float32 vector is held; everything else is the size of a payload.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from wire.codecs.arrays import Bytes, Float32, require_finite, vector_of
from wire.codecs.chain import Chain
from wire.codecs.decode import LIMITS, Limits, decode
from wire.codecs.decoded import Decoded
from wire.codecs.errors import CodecError
from wire.codecs.layers import Layer
from wire.messages import OutcomeKind

PENDING_MAX = 4  # the agent keeps at most four unsettled updates; a fifth task is not begun

# Which outcomes give the content back. `refused` does not: an update that a norm bound refuses would come
# back larger with every round. A task that was cancelled before its update was acked is settled as `late`.
GIVEN_BACK = {"merged": False, "late": True, "surplus": True, "stale": True, "refused": False}

STATE_MAGIC = b"EF"
STATE_FORMAT = 1
# magic, format, n, momentum (as it was given), bytes of the pending list, crc32 of what follows
STATE_HEADER = struct.Struct("<2sHIdII")

# A training that diverged ends here rather than in an overflow of the residual that nothing could undo.
MAGNITUDE_MAX = 1e30


class _Pending(Struct, frozen=True, array_like=True):
    task: str
    payload: bytes


_pending_list = msgspec.msgpack.Decoder(list[_Pending])


class ErrorFeedback:
    """The residual of one agent, float32[n], and the updates whose outcome is not known yet. Pure: no I/O.

    With `momentum` m > 0 it is deep gradient compression (Lin et al. 2018): u = m u + delta is what goes into the
    residual, and u is cleared where it was sent (momentum factor masking). That costs a second vector, and local
    training must then run without momentum of its own.
    """

    def __init__(self, n: int, *, momentum: float = 0.0, limits: Limits = LIMITS) -> None:
        if not 0 <= momentum < 1:
            raise CodecError("spec", f"momentum is {momentum}, allowed is 0 <= momentum < 1")
        self.n = n
        self.momentum = momentum
        self._velocity: Float32 | None = np.zeros(n, np.float32) if momentum else None
        self._limits = limits
        self._residual: Float32 = np.zeros(n, np.float32)
        self._pending: dict[str, bytes] = {}

    @property
    def residual(self) -> Float32:
        """A read-only view."""
        view = self._residual.view()
        view.flags.writeable = False
        return view

    @property
    def pending(self) -> tuple[str, ...]:
        """Tasks that wait for an outcome, oldest first."""
        return tuple(self._pending)

    def payload(self, task: str) -> bytes | None:
        """What was encoded for a task that is still pending, to send it again."""
        return self._pending.get(task)

    def encode(
        self,
        task: str,
        delta: NDArray[np.floating],
        chain: Chain,
        *,
        seed: bytes | int,
        bypass: Sequence[slice] = (),
        exact: Sequence[slice] = (),
        layers: Sequence[Layer] = (),
    ) -> bytes:
        """Encode delta + residual for `task` and keep what the payload leaves out.

        Errors leave the state as it was (but for rounding): CodecError("not_finite") for a delta that holds
        NaN or more than 1e30, RuntimeError for a task already pending or a fifth one.
        """
        if task in self._pending or len(self._pending) >= PENDING_MAX:
            raise RuntimeError(f"task {task!r} is pending already, or {PENDING_MAX} others are: settle first")
        if not chain.feedback:
            raise CodecError(
                "spec", "a chain made without feedback scales for no bias: its error would never shrink"
            )
        delta = vector_of(delta)
        if delta.shape != self._residual.shape:
            raise CodecError("n", f"a delta of {delta.size} elements, the residual has {self.n}")
        require_finite(delta, MAGNITUDE_MAX)
        if self._velocity is not None:
            delta = self._velocity * np.float32(self.momentum) + delta
        self._residual += delta
        try:
            payload = chain.encode_finite(
                self._residual, seed=seed, bypass=bypass, exact=exact, layers=layers
            )
            sent = decode(payload, n=self.n, limits=self._limits)
        except CodecError:
            self._residual -= delta
            raise
        sent.take_out_of(self._residual)
        if self._velocity is not None:
            self._velocity = delta
            self._velocity[slice(None) if sent.positions is None else sent.positions] = 0
        self._pending[task] = payload
        return payload

    def settle(self, task: str, outcome: OutcomeKind) -> bool:
        """Settle what was sent for `task`; False if nothing is pending for it (then nothing changes)."""
        back = GIVEN_BACK[outcome]
        payload = self._pending.pop(task, None)
        if payload is None:
            return False
        if back:
            self._decoded(payload).add_into(self._residual, 1.0)
        return True

    def norm(self) -> float:
        """Euclidean norm of the residual, for the history."""
        return Decoded(self.n, None, self._residual).norm()

    def decay(self, factor: float) -> None:
        """Scale the residual: what is many versions old points to where the model no longer is. 0 clears."""
        if not 0 <= factor <= 1:
            raise ValueError(f"a decay is between 0 and 1, not {factor}")
        self._residual *= np.float32(factor)
        if self._velocity is not None:
            self._velocity *= np.float32(factor)

    def _decoded(self, payload: bytes) -> Decoded:
        return decode(payload, n=self.n, limits=self._limits)

    # --- state on disk, saved together with the spool -------------------------------------------------------

    def state(self) -> list[Bytes]:
        """Parts to write one after the other; the residual is a view, not a copy: write before it changes."""
        pending = msgspec.msgpack.encode([_Pending(task, payload) for task, payload in self._pending.items()])
        vectors = [vector.astype("<f4", copy=False).view(np.uint8).data for vector in self._vectors()]
        crc = zlib.crc32(pending)
        for vector in vectors:
            crc = zlib.crc32(vector, crc)
        head = STATE_HEADER.pack(STATE_MAGIC, STATE_FORMAT, self.n, self.momentum, len(pending), crc)
        return [head, pending, *vectors]

    def _vectors(self) -> list[Float32]:
        return [self._residual] if self._velocity is None else [self._residual, self._velocity]

    def to_bytes(self) -> bytes:
        """The same in one piece: 4 n bytes (8 n with momentum) and the pending payloads."""
        return b"".join(self.state())

    @classmethod
    def from_bytes(
        cls, data: Bytes, *, n: int, momentum: float = 0.0, limits: Limits = LIMITS
    ) -> ErrorFeedback:
        """What `state` wrote. Raises CodecError("state") if it is torn, damaged or of another model."""
        view = memoryview(data)
        if len(view) < STATE_HEADER.size:
            raise CodecError("state", f"{len(view)} bytes")
        magic, version, saved_n, saved_momentum, size, crc = STATE_HEADER.unpack(view[: STATE_HEADER.size])
        found, wanted = (magic, version, saved_n, saved_momentum), (STATE_MAGIC, STATE_FORMAT, n, momentum)
        if found != wanted:
            raise CodecError("state", f"{found}, expected {wanted}")
        feedback = cls(n, momentum=momentum, limits=limits)
        body = view[STATE_HEADER.size :]
        if len(body) != size + 4 * n * len(feedback._vectors()) or zlib.crc32(body) != crc:
            raise CodecError("state", "torn or damaged")
        feedback._restore(body[:size], body[size:])
        return feedback

    def _restore(self, pending: memoryview, vectors: memoryview) -> None:
        try:
            items = _pending_list.decode(pending)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CodecError("state", str(error)[:120]) from None
        if len(items) > PENDING_MAX:
            raise CodecError("state", f"{len(items)} pending, at most {PENDING_MAX}")
        for item in items:
            self._decoded(item.payload)
            self._pending[item.task] = item.payload
        for index, vector in enumerate(self._vectors()):
            vector[:] = np.frombuffer(vectors[4 * self.n * index : 4 * self.n * (index + 1)], "<f4")
            try:
                require_finite(vector)
            except CodecError as error:
                raise CodecError("state", str(error)) from None
