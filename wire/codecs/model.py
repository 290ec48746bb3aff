"""The downlink: versions of a model, whole or as the difference to a version the agent holds. Lossless.

A version is a vector of bit patterns (uint16 of float16, or uint32 of float32 where `downlink: none`), named
by the sha256 of its little-endian bytes. Differences are taken between patterns, as integers, so a whole
download and every chain of deltas end in the same bits; the model an agent trains is the float32 of those
patterns.

    object   16 bytes: magic "EM", format, kind, width, three zeros, n (u32), changed (u32), then streams
    full     the patterns
    sparse   places of the changed elements, then their differences
    dense    the exclusive-or with the base
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Bytes, Float32, require_finite, to_fp16
from wire.codecs.entropy import PACKINGS, PLACES, read_places, write_places
from wire.codecs.errors import CodecError
from wire.codecs.payload import Reader, Writer

Patterns: TypeAlias = NDArray[np.unsignedinteger[Any]]
Dtype: TypeAlias = Literal["fp16", "none"]

MAGIC = b"EM"
FORMAT = 1
HEADER = struct.Struct("<2sBBB3xII")
FULL, SPARSE, DENSE = 0, 1, 2

WIDTHS: dict[Dtype, int] = {"fp16": 2, "none": 4}
_UINTS: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
_FLOATS: dict[int, np.dtype[Any]] = {2: np.dtype("<f2"), 4: np.dtype("<f4")}

# Above this share of changed elements the places cost more than the zeros of an exclusive-or that is sent
# whole.
SPARSE_SHARE_MAX = 0.25

_packings = [PACKINGS.named(name) for name in ("raw", "planes")]
_places = (PLACES.named("binned"), PLACES.named("gaps"))


def to_patterns(vector: NDArray[np.floating], dtype: Dtype = "fp16") -> Patterns:
    """The bit patterns of a version: `vector` rounded to nearest float16 (its range clips), or as float32."""
    values = np.ascontiguousarray(vector, dtype=np.float32)
    require_finite(values)
    rounded: NDArray[Any] = to_fp16(values) if dtype == "fp16" else values.astype("<f4")
    patterns: Patterns = rounded.view(_UINTS[WIDTHS[dtype]])
    return patterns


def from_patterns(patterns: Patterns) -> Float32:
    """The model itself, float32[n], a fresh array. Raises CodecError("not_finite")."""
    values: Float32 = patterns.view(_FLOATS[patterns.itemsize]).astype(np.float32)
    require_finite(values)
    return values


def version_sha256(patterns: Patterns) -> str:
    """The name of a version: sha256 of its little-endian bytes, in hex."""
    return hashlib.sha256(_little(patterns).data).hexdigest()


def encode_full(patterns: Patterns) -> bytes:
    """A version whole, its byte planes packed apart: exponents compress, mantissas do not."""
    writer = _begin(patterns, FULL, patterns.size)
    _write_patterns(writer, patterns)
    return writer.bytes()


def decode_full(payload: Bytes, n: int, dtype: Dtype = "fp16") -> Patterns:
    """The patterns of a whole version of n elements. Raises CodecError for any bytes that are not one."""
    reader = Reader(payload, PACKINGS)
    kind, changed = _read_header(reader, n, WIDTHS[dtype])
    if kind != FULL or changed != n:
        raise CodecError("stage", f"kind {kind} where a whole version is due")
    patterns = _read_patterns(reader, n, WIDTHS[dtype])
    reader.end()
    return patterns


def encode_delta(base: Patterns, new: Patterns) -> bytes:
    """What turns `base` into `new` (same length and width)."""
    if base.shape != new.shape or base.dtype != new.dtype:
        raise CodecError("base", f"{base.shape} {base.dtype} and {new.shape} {new.dtype}")
    changed = np.flatnonzero(base != new)
    if changed.size > SPARSE_SHARE_MAX * new.size:
        writer = _begin(new, DENSE, new.size)
        _write_patterns(writer, base ^ new)
        return writer.bytes()
    writer = _begin(new, SPARSE, changed.size)
    write_places(writer, _places, changed, new.size)
    _write_patterns(writer, new[changed] - base[changed])
    return writer.bytes()


def apply_delta(base: Patterns, payload: Bytes) -> Patterns:
    """The new version, a fresh array. Raises CodecError; the caller compares its sha256 with its name."""
    reader = Reader(payload, PACKINGS)
    kind, changed = _read_header(reader, base.size, base.itemsize)
    if kind == SPARSE:
        places = read_places(reader, changed, base.size)
        differences = _read_patterns(reader, changed, base.itemsize)
        reader.end()
        new = base.copy()
        new[places] += differences
        return new
    if kind != DENSE or changed != base.size:
        raise CodecError("stage", f"kind {kind} where a delta is due")
    mask = _read_patterns(reader, base.size, base.itemsize)
    reader.end()
    return mask ^ base


def _little(patterns: Patterns) -> Patterns:
    return np.ascontiguousarray(patterns, dtype=_UINTS[patterns.itemsize])


def _begin(patterns: Patterns, kind: int, changed: int) -> Writer:
    writer = Writer(_packings)
    writer.raw(HEADER.pack(MAGIC, FORMAT, kind, patterns.itemsize, patterns.size, changed))
    return writer


def _read_header(reader: Reader, n: int, width: int) -> tuple[int, int]:
    magic, version, kind, its_width, its_n, changed = HEADER.unpack(reader.raw(HEADER.size))
    if magic != MAGIC:
        raise CodecError("magic")
    if version != FORMAT:
        raise CodecError("version", f"{version}, this side speaks {FORMAT}")
    if (its_n, its_width) != (n, width):
        raise CodecError("n", f"{its_n} elements of {its_width} bytes, here {n} of {width}")
    if changed > n:
        raise CodecError("count", f"{changed} of {n} elements")
    return kind, changed


def _write_patterns(writer: Writer, patterns: Patterns) -> None:
    writer.stream(_little(patterns).view(np.uint8).data, width=patterns.itemsize)


def _read_patterns(reader: Reader, count: int, width: int) -> Patterns:
    return np.frombuffer(reader.stream(count * width), _UINTS[width])
