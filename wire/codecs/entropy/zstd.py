"""Zstandard frames with a declared content size, never unpacked past what is due."""

from __future__ import annotations

import threading

import zstandard

from wire.codecs.arrays import Bytes
from wire.codecs.entropy.base import PACKINGS
from wire.codecs.errors import CodecError

LEVEL = 3  # higher levels gain under 1 % on gaps and quantised values, at a tenth of the speed

# Level 3 uses windows of 2 MiB at most; a frame that wants more is not ours and would make the decoder
# allocate it.
WINDOW_BYTES_MAX = 1 << 23


class _Contexts(threading.local):
    """A decompressor for each thread: none may be shared, and a new one costs half a small stream's time."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)


_contexts = _Contexts()


def compress(data: Bytes, level: int = LEVEL) -> bytes:
    """One frame with its content size and no checksum (the update has a sha256)."""
    # A context per call: they are not thread-safe, and making one costs microseconds for streams of some kB.
    return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False).compress(data)


def decompress(packed: memoryview, size_max: int) -> bytes:
    """The content of one frame. Raises CodecError before allocating more than `size_max` bytes."""
    try:
        size = zstandard.frame_content_size(packed)
    except zstandard.ZstdError as error:
        raise CodecError("compression", str(error)[:120]) from None
    if size == 0:
        return b""
    if not 0 < size <= size_max:  # -1: the frame does not say
        raise CodecError("count", f"a frame declares {size} bytes, at most {size_max} are due")
    try:
        return _contexts.decompressor.decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError("compression", str(error)[:120]) from None


class Zstd:
    name = "zstd"
    code = 1
    matches = True

    def pack(self, data: Bytes, width: int) -> bytes:
        return compress(data)

    def unpack(self, packed: memoryview, size_max: int) -> bytes:
        return decompress(packed, size_max)


PACKINGS.add(Zstd())
