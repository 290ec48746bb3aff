"""The downlink: versions of a model, whole or as the difference to a version the agent holds. Lossless.

A version is a vector of bit patterns (uint16 of float16, or uint32 of float32 where `downlink: none`), named
by the sha256 of its little-endian bytes. Differences are taken between patterns, as integers, so a whole
download and every chain of deltas end in the same bits; the model an agent trains is the float32 of those
patterns.

    object   16 bytes: magic "EM", format, kind, width, three zeros, n (u32), changed (u32), then streams
    full     one stream per byte plane, least significant first
    sparse   places of the changed elements, then their differences, one stream per byte plane
    dense    the exclusive-or with the base, one stream per byte plane
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Bytes, Float32, require_finite, to_fp16
from wire.codecs.entropy import CHOICES, PACKINGS, PLACES, read_places, write_places
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

_packings = [PACKINGS.named(name) for name in CHOICES["zstd"][0]]
_places = tuple(PLACES.named(name) for name in CHOICES["zstd"][1])


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
    """A version whole, byte planes apart: exponents compress, mantissas do not."""
    writer = _begin(patterns, FULL, patterns.size)
    _write_planes(writer, patterns)
    return writer.bytes()


def decode_full(payload: Bytes, n: int, dtype: Dtype = "fp16") -> Patterns:
    """The patterns of a whole version of n elements. Raises CodecError for any bytes that are not one."""
    reader = Reader(payload, PACKINGS)
    kind, changed = _read_header(reader, n, WIDTHS[dtype])
    if kind != FULL or changed != n:
        raise CodecError("stage", f"kind {kind} where a whole version is due")
    patterns = _read_planes(reader, n, WIDTHS[dtype])
    reader.end()
    return patterns


def encode_delta(base: Patterns, new: Patterns) -> bytes:
    """What turns `base` into `new` (same length and width)."""
    if base.shape != new.shape or base.dtype != new.dtype:
        raise CodecError("base", f"{base.shape} {base.dtype} and {new.shape} {new.dtype}")
    changed = np.flatnonzero(base != new)
    if changed.size > SPARSE_SHARE_MAX * new.size:
        writer = _begin(new, DENSE, new.size)
        _write_planes(writer, base ^ new)
        return writer.bytes()
    writer = _begin(new, SPARSE, changed.size)
    write_places(writer, _places, changed, new.size)
    _write_planes(writer, new[changed] - base[changed])
    return writer.bytes()


def apply_delta(base: Patterns, payload: Bytes) -> Patterns:
    """The new version, a fresh array. Raises CodecError; the caller compares its sha256 with its name."""
    reader = Reader(payload, PACKINGS)
    kind, changed = _read_header(reader, base.size, base.itemsize)
    if kind == SPARSE:
        places = read_places(reader, changed, base.size)
        differences = _read_planes(reader, changed, base.itemsize)
        reader.end()
        new = base.copy()
        new[places] += differences
        return new
    if kind != DENSE or changed != base.size:
        raise CodecError("stage", f"kind {kind} where a delta is due")
    mask = _read_planes(reader, base.size, base.itemsize)
    reader.end()
    mask ^= base
    return mask


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


def _write_planes(writer: Writer, patterns: Patterns) -> None:
    octets = _little(patterns).view(np.uint8).reshape(patterns.size, patterns.itemsize)
    for plane in range(patterns.itemsize):
        writer.stream(np.ascontiguousarray(octets[:, plane]).data)


def _read_planes(reader: Reader, count: int, width: int) -> Patterns:
    # Every plane is unpacked, hence checked, before the array for all of them is made.
    planes = [reader.stream(count) for _ in range(width)]
    octets = np.empty((count, width), np.uint8)
    for index, plane in enumerate(planes):
        octets[:, index] = np.frombuffer(plane, np.uint8)
    patterns: Patterns = octets.reshape(-1).view(_UINTS[width])
    return patterns
