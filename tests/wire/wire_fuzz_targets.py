"""What the fuzzer calls: every decoder of bytes from the network or the disk, and the one error it may raise.

`scripts/fuzz` runs them with coverage guidance; `test_wire_corpus` replays the kept corpus in the ordinary tests.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from wire.chunks import CRC, HEADER, HEADER_BYTES, Assembler, ChunkError, split
from wire.codecs import CodecError, decode, make_chain, uplink_spec
from wire.codecs.feedback import STATE_FORMAT, STATE_HEADER, STATE_MAGIC, ErrorFeedback
from wire.codecs.model import (
    apply_delta,
    decode_full,
    encode_delta,
    encode_full,
    from_patterns,
    items,
    to_patterns,
)
from wire.messages import MessageError, decode_down, decode_up

N = 9_000  # as in the golden payloads, which seed the corpus
BASE16 = np.arange(N, dtype=np.uint16)
BASE32 = np.arange(N, dtype=np.uint32)
BASE8 = np.arange(items(N, "int8")).astype(np.uint8)
STATE_N = 16


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
    with suppress(CodecError):
        patterns = decode_full(data, items(N, "int8"), "int8")
        assert np.isfinite(from_patterns(patterns)).all()
    for base in (BASE8, BASE16, BASE32):
        with suppress(CodecError):
            assert apply_delta(base, data).shape == base.shape


def state(data: bytes) -> None:
    """As it came, and under a header that fits: no search finds a checksum, and a disk may hold anything."""
    for head in (b"", _state_header(data)):
        with suppress(CodecError):
            feedback = ErrorFeedback.from_bytes(head + data, n=STATE_N)
            for task in feedback.pending:
                assert feedback.settle(task, "late")
            assert np.isfinite(feedback.residual).all()


def _state_header(data: bytes) -> bytes:
    pending = max(0, len(data) - 4 * STATE_N)
    return STATE_HEADER.pack(STATE_MAGIC, STATE_FORMAT, STATE_N, 0.0, pending, zlib.crc32(data))


def chunk(data: bytes) -> None:
    """Two messages to one assembler, the first 300 bytes and the rest; then again with the right checksums."""
    assembler = Assembler(10_000, 5_000, 4, 30.0)
    pieces = (data[:300], data[300:], data)
    for message in (*pieces, *map(sealed, pieces)):
        with suppress(ChunkError):
            assembler.add("a", "t", message, now=0.0)
        assert assembler.bytes_held <= 10_000


def sealed(message: bytes) -> bytes:
    """The chunk with its checksum made right: an honest one of whatever it claims."""
    head, body = message[: HEADER.size], message[HEADER_BYTES:]
    return head + CRC.pack(zlib.crc32(body, zlib.crc32(head))) + body


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


def seeds() -> dict[str, list[bytes]]:
    """Honest inputs of what the golden files do not have."""
    rng = np.random.default_rng(0)
    feedback = ErrorFeedback(STATE_N)
    for number, spec in enumerate((uplink_spec(0.5, "int8"), uplink_spec(None, "fp16"))):
        feedback.encode(f"t{number}", rng.standard_normal(STATE_N), make_chain(spec), seed=number)
    state_of = feedback.to_bytes()
    old, new = (to_patterns(rng.standard_normal(N), "int8") for _ in range(2))
    few = old.copy()
    few[::100] += 1
    chunks = [b"".join(split(bytes(400), 200)), *split(bytes(range(250)), 100)]
    return {
        "update": [],
        "model": [encode_full(old), encode_delta(BASE8, new), encode_delta(old, few)],
        "state": [state_of, state_of[STATE_HEADER.size :]],
        "chunk": chunks,
        "message": [],
    }
