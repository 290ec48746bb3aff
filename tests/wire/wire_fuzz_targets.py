"""What the fuzzer calls: every decoder of bytes from the network or the disk, and the one error it may raise.

`scripts/fuzz` runs them with coverage guidance; `test_wire_corpus` replays the kept corpus in the ordinary tests.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from wire.chunks import Assembler, ChunkError
from wire.codecs import CodecError, decode
from wire.codecs.feedback import ErrorFeedback
from wire.codecs.model import apply_delta, decode_full
from wire.messages import MessageError, decode_down, decode_up

N = 9_000  # as in the golden payloads, which seed the corpus
BASE16 = np.arange(N, dtype=np.uint16)
BASE32 = np.arange(N, dtype=np.uint32)


def update(data: bytes) -> None:
    """A payload that decodes must be safe to merge."""
    with suppress(CodecError):
        decoded = decode(data, n=N)
        accumulator = np.zeros(N)
        decoded.add_into(accumulator, 0.5)
        assert np.isfinite(accumulator).all()
        assert decoded.positions is None or np.all(np.diff(decoded.positions) > 0)


def model(data: bytes) -> None:
    with suppress(CodecError):
        assert decode_full(data, N).size == N
    with suppress(CodecError):
        assert decode_full(data, N, "none").size == N
    for base in (BASE16, BASE32):
        with suppress(CodecError):
            assert apply_delta(base, data).shape == base.shape


def state(data: bytes) -> None:
    with suppress(CodecError):
        ErrorFeedback.from_bytes(data, n=16)


def chunk(data: bytes) -> None:
    """Two messages to one assembler: the first 300 bytes and the rest."""
    assembler = Assembler(10_000, 5_000, 4, 30.0)
    for message in (data[:300], data[300:], data):
        with suppress(ChunkError):
            assembler.add("a", "t", message, now=0.0)
        assert assembler.bytes_held <= 10_000


def message(data: bytes) -> None:
    for read in (decode_up, decode_down):
        with suppress(MessageError):
            read(data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "update": update,
    "model": model,
    "state": state,
    "chunk": chunk,
    "message": message,
}
