"""A chain of stages: an update in, bytes out, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from wire.codecs.arrays import Bytes, Float32, Positions, require_finite, vector_of
from wire.codecs.bypass import checked_runs, places, read_bypass, write_bypass
from wire.codecs.decoded import Decoded
from wire.codecs.entropy import CHOICES, PACKINGS, PLACES, read_places, write_places
from wire.codecs.errors import CodecError
from wire.codecs.payload import Header, Reader, Writer
from wire.codecs.quantize import QUANTIZERS, Options
from wire.codecs.seeds import as_seed, generator
from wire.codecs.sparsify import SPARSIFIERS, Sparsifier
from wire.codecs.spec import CodecSpec

DENSE = 0  # the sparsify code of a payload with every element
SEED_BYTES = 8
DENSE_BLOCK = 1_024  # a scale (4 bytes) per 1,024 values adds 0.4 % to int8


class Limits(Struct, frozen=True, kw_only=True):
    """What a decoder accepts. The caller knows n; this bounds what the caller could be talked into."""

    payload_bytes_max: int = 1 << 28  # the float32 update of a model with 67 M parameters
    n_max: int = 1 << 28


LIMITS = Limits()


class Chain:
    """Encodes updates as `spec` says. Holds no state between calls; make it with `make_chain`."""

    def __init__(self, spec: CodecSpec) -> None:
        if spec.entropy not in CHOICES:
            raise CodecError("spec", f"entropy: {spec.entropy!r} is not one of {', '.join(sorted(CHOICES))}")
        packings, codes = CHOICES[spec.entropy]
        self.spec = spec
        self._packings = [PACKINGS.named(name) for name in packings]
        self._places = tuple(PLACES.named(name) for name in codes)
        self._quantizer = QUANTIZERS.named(spec.quantize)
        self._sparsifier: Sparsifier | None = None
        if spec.sparsify is not None:
            self._sparsifier = SPARSIFIERS.named(spec.sparsify.kind)
            self._sparsifier.check(spec.sparsify)
        self._block = spec.block if spec.block is not None else (0 if spec.sparsify else DENSE_BLOCK)
        if not 0 <= self._block < 1 << 32:
            raise CodecError("spec", f"block: {spec.block} is not a number of values")

    def encode(
        self, vector: NDArray[np.floating], *, seed: bytes | int, bypass: Sequence[slice] = ()
    ) -> bytes:
        """The payload of float32[n]. The same vector and seed give the same bytes.

        Raises CodecError("not_finite") for NaN and infinity: such an update would stay in the residual for
        ever.
        """
        body = vector_of(vector)
        require_finite(body)
        number = as_seed(seed)
        runs = checked_runs(bypass, body.size)
        writer = Writer(self._packings)
        tail = Writer(self._packings)
        if runs:
            write_bypass(tail, body, runs)
            body = body.copy()
            body[places(runs)] = 0
        count = self._write_body(tail, body, number)
        writer.raw(Header(self._code, 0, self._quantizer.code, len(runs), body.size, count).pack())
        if self._sparsifier is not None and self._sparsifier.implied:
            writer.raw(number.to_bytes(SEED_BYTES, "little"))
        writer.raw(tail.bytes())
        return writer.bytes()

    def decode(self, payload: Bytes, *, n: int, limits: Limits = LIMITS) -> Decoded:
        """Same as the function `decode`: a payload says itself how it is read."""
        return decode(payload, n=n, limits=limits)

    @property
    def _code(self) -> int:
        return DENSE if self._sparsifier is None else self._sparsifier.code

    def _write_body(self, writer: Writer, body: Float32, seed: int) -> int:
        values = body
        if self._sparsifier is not None and self.spec.sparsify is not None:
            positions = self._sparsifier.select(body, self.spec.sparsify, seed)
            values = body[positions]
            if not self._sparsifier.implied:
                write_places(writer, self._places, positions, body.size)
        self._quantizer.write(writer, values, Options(rng=generator(seed), block=self._block))
        return values.size


def make_chain(spec: CodecSpec) -> Chain:
    """The chain a topology asks for. Raises CodecError("spec") with what is allowed."""
    return Chain(spec)


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
    require_finite(values)
    return Decoded(n=n, positions=positions, values=values)


def _read(reader: Reader, header: Header) -> tuple[Positions | None, Float32]:
    if header.rotate:
        raise CodecError("stage", f"rotate code {header.rotate}")
    sparsifier = None if header.sparsify == DENSE else SPARSIFIERS.coded(header.sparsify)
    quantizer = QUANTIZERS.coded(header.quantize)
    seed = int.from_bytes(reader.raw(SEED_BYTES), "little") if sparsifier and sparsifier.implied else 0
    extra = read_bypass(reader, header.bypass_runs, header.n) if header.bypass_runs else None
    if sparsifier is None:
        if header.values != header.n:
            raise CodecError("count", f"{header.values} values in a dense payload of {header.n}")
        return None, _overwrite(quantizer.read(reader, header.values), extra)
    if sparsifier.implied:
        positions = sparsifier.draw(header.n, header.values, seed)
    else:
        positions = read_places(reader, header.values, header.n)
    return _union(positions, quantizer.read(reader, header.values), extra)


def _overwrite(values: Float32, extra: tuple[Positions, Float32] | None) -> Float32:
    if extra is None:
        return values
    values = values.copy()  # it may be a view of the payload
    values[extra[0]] = extra[1]
    return values


def _union(
    positions: Positions, values: Float32, extra: tuple[Positions, Float32] | None
) -> tuple[Positions, Float32]:
    """Both lists in one; where they meet, the bypass holds (an implied choice cannot avoid it)."""
    if extra is None:
        return positions, values
    free = ~np.isin(positions, extra[0], assume_unique=True)
    every = np.concatenate([positions[free], extra[0]])
    order = np.argsort(every, kind="stable")
    return every[order], np.concatenate([values[free], extra[1]])[order]
