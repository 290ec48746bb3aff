"""Two payloads in one update: what was trained, and what travels with it (SCAFFOLD's Δc).

8 bytes: magic "E2", format, zero, bytes of the first payload (u32); then both payloads
"""

from __future__ import annotations

import struct

from wire.codecs import CodecError
from wire.codecs.arrays import Bytes

MAGIC = b"E2"
FORMAT = 1
HEADER = struct.Struct("<2sBxI")


def join(first: Bytes, second: Bytes) -> bytes:
    return b"".join((HEADER.pack(MAGIC, FORMAT, len(first)), first, second))


def split(payload: Bytes) -> tuple[memoryview, memoryview]:
    """Views of both. Raises CodecError for bytes that are no pair."""
    view = memoryview(payload)
    if len(view) < HEADER.size:
        raise CodecError("truncated", f"{len(view)} bytes are no pair")
    magic, version, size = HEADER.unpack(view[: HEADER.size])
    if magic != MAGIC:
        raise CodecError("magic", "no pair of payloads")
    if version != FORMAT:
        raise CodecError("version", f"pair format {version}, this side speaks {FORMAT}")
    rest = view[HEADER.size :]
    if size > len(rest):
        raise CodecError("truncated", f"the first payload has {size} bytes, {len(rest)} are here")
    return rest[:size], rest[size:]
