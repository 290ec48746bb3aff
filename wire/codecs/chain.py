"""A chain of stages: an update in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from wire.codecs.arrays import Bytes, Float32, require_finite, vector_of
from wire.codecs.budget import fill
from wire.codecs.bypass import checked_runs, places, write_bypass
from wire.codecs.decode import LIMITS, Limits, decode
from wire.codecs.decoded import Decoded
from wire.codecs.entropy import CHOICES, PACKINGS, PLACES, write_places
from wire.codecs.errors import CodecError
from wire.codecs.layers import Layer
from wire.codecs.payload import DENSE, SEED_BYTES, Header, Writer
from wire.codecs.quantize import QUANTIZERS, Options
from wire.codecs.rotate import ROTATIONS
from wire.codecs.seeds import as_seed, generator
from wire.codecs.sparsify import SPARSIFIERS, Choice, Sparsifier
from wire.codecs.spec import CodecSpec, Sparsify

DENSE_BLOCK = 1_024  # a scale (4 bytes) per 1,024 values adds 0.4 % to int8


class Chain:
    """Encodes updates as `spec` says. Holds no state between calls; make it with `make_chain`."""

    def __init__(self, spec: CodecSpec, *, feedback: bool = True) -> None:
        if spec.entropy not in CHOICES:
            raise CodecError("spec", f"entropy: {spec.entropy!r} is not one of {', '.join(sorted(CHOICES))}")
        packings, codes = CHOICES[spec.entropy]
        self.spec = spec
        self.feedback = feedback
        self._packings = [PACKINGS.named(name) for name in packings]
        self._places = tuple(PLACES.named(name) for name in codes)
        self._quantizer = QUANTIZERS.named(spec.quantize)
        self._quantizer.check(spec)
        self._rotation = ROTATIONS.named(spec.rotate)
        self._sparsifier: Sparsifier | None = None
        if spec.sparsify is not None:
            self._sparsifier = SPARSIFIERS.named(spec.sparsify.kind)
            self._sparsifier.check(spec.sparsify)
        self.block = spec.block if spec.block is not None else (0 if spec.sparsify else DENSE_BLOCK)
        if not 0 <= self.block < 1 << 32:
            raise CodecError("spec", f"block: {spec.block} is not a number of values")

    def encode(
        self,
        vector: NDArray[np.floating],
        *,
        seed: bytes | int,
        bypass: Sequence[slice] = (),
        exact: Sequence[slice] = (),
        layers: Sequence[Layer] = (),
    ) -> bytes:
        """The payload of float32[n]. The same vector and seed give the same bytes.

        `bypass`: parts that go along as float16; `exact`: as float32, whatever the chain does to the rest.

        `layers`: the tensors of the model (`layers_of`), needed for `per_layer`; given, they make the payload a
        few per cent smaller. Raises CodecError("not_finite") for NaN and
        infinity: such an update would stay in the residual for ever.
        """
        body = vector_of(vector)
        require_finite(body)
        return self.encode_finite(body, seed=seed, bypass=bypass, exact=exact, layers=layers)

    def encode_finite(
        self,
        body: Float32,
        *,
        seed: bytes | int,
        bypass: Sequence[slice] = (),
        exact: Sequence[slice] = (),
        layers: Sequence[Layer] = (),
    ) -> bytes:
        """The same for a float32 vector that the caller has checked: reading it twice more is a tenth of the time."""
        runs = checked_runs(bypass, body.size, exact)
        front = Writer(self._packings)
        if not runs:
            return self._filled(body, as_seed(seed), layers, b"", 0)
        write_bypass(front, body, runs)
        if not body.flags.writeable:
            body = body.copy()
        # Out of the chain's sight for as long as it works: a copy would be a second vector in a device's memory.
        apart = places(runs)
        kept = body[apart]
        body[apart] = 0
        try:
            return self._filled(body, as_seed(seed), layers, front.bytes(), len(runs))
        finally:
            body[apart] = kept

    def _filled(self, body: Float32, seed: int, layers: Sequence[Layer], prefix: bytes, runs: int) -> bytes:
        """With a budget of bytes, as many elements as fit into it."""
        options = self.spec.sparsify
        if options is None or options.bytes is None:
            return self._payload(body, seed, options, layers, prefix, runs)

        def attempt(count: int) -> bytes:
            sized = msgspec.structs.replace(options, fraction=count / body.size, bytes=None)
            return self._payload(body, seed, sized, layers, prefix, runs)

        return fill(attempt, body.size, options.bytes)

    def decode(self, payload: Bytes, *, n: int, limits: Limits = LIMITS) -> Decoded:
        """Same as the function `decode`: a payload says itself how it is read."""
        return decode(payload, n=n, limits=limits)

    def _payload(
        self,
        body: Float32,
        seed: int,
        options: Sparsify | None,
        layers: Sequence[Layer],
        prefix: bytes,
        runs: int,
    ) -> bytes:
        tail = Writer(self._packings)
        values, code, seeded = body, DENSE, bool(self._rotation.code)
        if self._sparsifier is not None and options is not None:
            positions = self._sparsifier.select(body, Choice(options, seed, layers))
            values, code = body[positions], self._sparsifier.code
            if not self._sparsifier.implied:
                write_places(tail, self._places, positions, body.size, layers)
            elif not self.feedback and values.size:
                values *= np.float32(body.size / values.size)
            seeded = seeded or self._sparsifier.implied
        writer = Writer(self._packings)
        head = Header(code, self._rotation.code, self._quantizer.code, runs, body.size, values.size)
        writer.raw(head.pack())
        if seeded:
            writer.raw(seed.to_bytes(SEED_BYTES, "little"))
        writer.raw(prefix)
        writer.raw(tail.bytes())
        rotated = self._rotation.forward(values, seed)
        if self._rotation.code:
            require_finite(rotated)  # sums of thousands of numbers near the largest float32 overflow
        self._quantizer.write(writer, rotated, self._options(seed))
        return writer.bytes()

    def _options(self, seed: int) -> Options:
        return Options(self.spec, generator(seed), self.block, unbiased=not self.feedback)


def make_chain(spec: CodecSpec, *, feedback: bool = True) -> Chain:
    """The chain a topology asks for. Raises CodecError("spec") with what is allowed.

    `feedback`: its updates go through error feedback, so stages take the scale of least error; without it the
    unbiased one. `ErrorFeedback` refuses a chain made for the other.
    """
    return Chain(spec, feedback=feedback)
