"""A payload in, an update out: every size, code and number checked before it is used."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from wire.codecs.arrays import Bytes, Float32, Positions, require_finite
from wire.codecs.bypass import read_bypass
from wire.codecs.decoded import Decoded
from wire.codecs.entropy import PACKINGS, read_places
from wire.codecs.errors import CodecError
from wire.codecs.payload import DENSE, SEED_BYTES, Header, Reader
from wire.codecs.quantize import QUANTIZERS
from wire.codecs.rotate import ROTATIONS
from wire.codecs.sparsify import SPARSIFIERS, Sparsifier


class Limits(Struct, frozen=True, kw_only=True):
    """What a decoder accepts. The caller knows n; this bounds what the caller could be talked into."""

    payload_bytes_max: int = 1 << 28  # the float32 update of a model with 67 M parameters
    n_max: int = 1 << 28
    magnitude_max: float = float("inf")  # of any value


LIMITS = Limits()


def decode(payload: Bytes, *, n: int, limits: Limits = LIMITS) -> Decoded:
    """The update in a payload made for n elements.

    Everything is checked before it is allocated or used. Raises CodecError, and nothing else, for any bytes.
    """
    if len(payload) > limits.payload_bytes_max or n > limits.n_max:
        raise CodecError("too_large", f"{len(payload)} bytes for {n} elements")
    reader = Reader(payload, PACKINGS)
    header = reader.header()
    if header.n != n:
        raise CodecError("n", f"{header.n} elements, here the model has {n}")
    if header.values > n:
        raise CodecError("count", f"{header.values} values for {n} elements")
    positions, values = _read(reader, header)
    reader.end()
    require_finite(values, limits.magnitude_max)
    return Decoded(n=n, positions=positions, values=values)


def _read(reader: Reader, header: Header) -> tuple[Positions | None, Float32]:
    sparsifier = None if header.sparsify == DENSE else SPARSIFIERS.coded(header.sparsify)
    if sparsifier is None and header.values != header.n:
        raise CodecError("count", f"{header.values} values in a dense payload of {header.n}")
    rotation, quantizer = ROTATIONS.coded(header.rotate), QUANTIZERS.coded(header.quantize)
    seeded = bool(header.rotate) or (sparsifier is not None and sparsifier.implied)
    seed = int.from_bytes(reader.raw(SEED_BYTES), "little") if seeded else 0
    extra = read_bypass(reader, header.bypass_runs, header.n) if header.bypass_runs else None
    positions = None if sparsifier is None else _positions(reader, header, sparsifier, seed)
    stored = quantizer.read(reader, rotation.padded(header.values))
    values = rotation.backward(stored, header.values, seed)
    if extra is None:
        return positions, values
    if positions is None:
        return None, _overwrite(values, extra)
    return _union(positions, values, extra)


def _positions(reader: Reader, header: Header, sparsifier: Sparsifier, seed: int) -> Positions:
    if sparsifier.implied:
        return sparsifier.draw(header.n, header.values, seed)
    return read_places(reader, header.values, header.n)


def _overwrite(values: Float32, extra: tuple[Positions, Float32]) -> Float32:
    values = values.copy()  # it may be a view of the payload
    values[extra[0]] = extra[1]
    return values


def _union(
    positions: Positions, values: Float32, extra: tuple[Positions, Float32]
) -> tuple[Positions, Float32]:
    """Both lists in one; where they meet, the bypass holds (an implied choice cannot avoid it)."""
    free = ~np.isin(positions, extra[0], assume_unique=True)
    every = np.concatenate([positions[free], extra[0]])
    order = np.argsort(every, kind="stable")
    return every[order], np.concatenate([values[free], extra[1]])[order]
