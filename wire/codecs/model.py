"""The downlink: versions of a model, whole or as the difference to a version the agent holds. Lossless.

A version is a vector of bit patterns (uint16 of float16, uint32 of float32 where `downlink: none`, or for int8 one
byte a parameter and behind them one exponent for each 1,024), named by the sha256 of its little-endian bytes.
Differences are taken between patterns, as integers, so a whole download and every chain of deltas end in the same
bits; the model an agent trains is the float32 of those patterns.

What rounding leaves out stays with the coordinator, which rounds its exact model anew for every version: error
feedback on the server's side. With a `share` less than one, a version differs from the one before only in that share
of its parameters, those that have drifted farthest; every tenth is rounded whole, so that a restart needs no other.

    object   16 bytes: magic "EM", format, kind, width, three zeros, n (u32), changed (u32), then streams
    full     the patterns
    sparse   places of the changed elements, then their differences
    dense    the exclusive-or with the base
    steps    int8: the differences of all, modulo 256; most are 0 or one step
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Literal, TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from wire.codecs.arrays import Bytes, Float32, require_finite, to_fp16
from wire.codecs.entropy import PACKINGS, PLACES, read_places, write_places
from wire.codecs.errors import CodecError
from wire.codecs.payload import Reader, Writer
from wire.codecs.sparsify.top_k import top_k

Patterns: TypeAlias = NDArray[np.unsignedinteger[Any]]
Dtype: TypeAlias = Literal["fp16", "int8", "none"]

MAGIC = b"EM"
FORMAT = 1
HEADER = struct.Struct("<2sBBB3xII")
FULL, SPARSE, DENSE, STEPS = 0, 1, 2, 3

WIDTHS: dict[Dtype, int] = {"fp16": 2, "int8": 1, "none": 4}
_UINTS: dict[int, np.dtype[Any]] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
_FLOATS: dict[int, np.dtype[Any]] = {2: np.dtype("<f2"), 4: np.dtype("<f4")}

# Above this share of changed elements the places cost more than the zeros of an exclusive-or that is sent
# whole.
SPARSE_SHARE_MAX = 0.25

# Parameters that share an exponent. A power of two as the scale changes seldom, so that a delta is small, and a
# product with it is exact on every machine.
SCALE_BLOCK = 1_024
INT8_MAX = 127
EXPONENT_BIAS = 128  # exponents are stored as bytes; those of float32's normal numbers lie within
EXPONENT_MIN, EXPONENT_MAX = -126, 121  # 127 steps of the largest are just finite

KEY_EVERY = 10  # versions; where not all is renewed, every tenth is rounded whole

_packings = {
    1: [PACKINGS.named(name) for name in ("raw", "zstd", "huffman")],
    2: [PACKINGS.named(name) for name in ("raw", "planes")],
    4: [PACKINGS.named(name) for name in ("raw", "planes")],
}
_places = (PLACES.named("binned"), PLACES.named("gaps"))


def to_patterns(vector: NDArray[np.floating], dtype: Dtype = "fp16") -> Patterns:
    """The bit patterns of a version: `vector` rounded to nearest float16 (its range clips) or int8, or as float32."""
    values = np.ascontiguousarray(vector, dtype=np.float32)
    require_finite(values)
    if dtype == "int8":
        return _to_int8(values)
    rounded: NDArray[Any] = to_fp16(values) if dtype == "fp16" else values.astype("<f4")
    patterns: Patterns = rounded.view(_UINTS[WIDTHS[dtype]])
    return patterns


def from_patterns(patterns: Patterns) -> Float32:
    """The model itself, float32[n], a fresh array. Raises CodecError("not_finite")."""
    if patterns.itemsize == 1:
        return _from_int8(patterns)
    values: Float32 = patterns.view(_FLOATS[patterns.itemsize]).astype(np.float32)
    require_finite(values)
    return values


def items(n: int, dtype: Dtype) -> int:
    """How many patterns a model of n parameters has."""
    return n + -(-n // SCALE_BLOCK) if dtype == "int8" else n


def parameters_of(patterns: Patterns) -> int:
    """How many parameters are in so many patterns."""
    size = patterns.size
    return size - -(-size // (SCALE_BLOCK + 1)) if patterns.itemsize == 1 else size


def _to_int8(values: Float32) -> Patterns:
    n = values.size
    patterns = np.empty(items(n, "int8"), np.uint8)
    if not n:
        return patterns
    starts = np.arange(0, n, SCALE_BLOCK)
    largest = np.maximum.reduceat(np.abs(values), starts)
    mantissas, exponents = np.frexp(largest.astype(np.float64) / INT8_MAX)
    exponents = np.clip(exponents - (mantissas == 0.5), EXPONENT_MIN, EXPONENT_MAX).astype(np.int64)
    for index, start in enumerate(starts):
        piece = np.ldexp(values[start : start + SCALE_BLOCK].astype(np.float64), -int(exponents[index]))
        steps = np.clip(np.rint(piece), -INT8_MAX, INT8_MAX).astype(np.int8)
        patterns[start : start + steps.size] = steps.view(np.uint8)
    patterns[n:] = exponents + EXPONENT_BIAS
    return patterns


def _from_int8(patterns: Patterns) -> Float32:
    n = parameters_of(patterns)
    steps, exponents = patterns[:n].view(np.int8), patterns[n:].astype(np.int64) - EXPONENT_BIAS
    if exponents.size and (exponents.min() < EXPONENT_MIN or exponents.max() > EXPONENT_MAX):
        raise CodecError("scale", f"exponents from {exponents.min()} to {exponents.max()}")
    values = steps.astype(np.float32)
    scales = np.ldexp(np.ones(exponents.size, np.float32), exponents)
    for index, start in enumerate(range(0, n, SCALE_BLOCK)):
        values[start : start + SCALE_BLOCK] *= scales[index]
    return values


class Rounding(Struct, frozen=True):
    """How a version is made of the exact model. `share`: of the parameters that differ from the version before."""

    dtype: Dtype = "fp16"
    share: float = 1.0

    def patterns(self, version: int, master: NDArray[np.floating], before: Patterns | None) -> Patterns:
        """Of `version`, whose predecessor is `before` (None: not known, then it is rounded whole)."""
        whole = to_patterns(master, self.dtype)
        if self.share >= 1 or before is None or version % KEY_EVERY == 0 or before.shape != whole.shape:
            return whole
        drift = np.ascontiguousarray(master, np.float32) - from_patterns(before)
        renewed = top_k(drift, max(1, round(self.share * drift.size)))
        patterns: Patterns = before.copy()
        patterns[renewed] = whole[renewed]
        return patterns


def as_rounding(rounding: Rounding | Dtype) -> Rounding:
    return rounding if isinstance(rounding, Rounding) else Rounding(rounding)


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
        steps = new.itemsize == 1
        writer = _begin(new, STEPS if steps else DENSE, new.size)
        _write_patterns(writer, new - base if steps else base ^ new)
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
    if kind not in (DENSE, STEPS) or changed != base.size:
        raise CodecError("stage", f"kind {kind} where a delta is due")
    mask = _read_patterns(reader, base.size, base.itemsize)
    reader.end()
    patterns: Patterns = mask + base if kind == STEPS else mask ^ base
    return patterns


def _little(patterns: Patterns) -> Patterns:
    return np.ascontiguousarray(patterns, dtype=_UINTS[patterns.itemsize])


def _begin(patterns: Patterns, kind: int, changed: int) -> Writer:
    writer = Writer(_packings[patterns.itemsize])
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
