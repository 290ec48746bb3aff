"""Runs of elements that no lossy stage touches: biases, normalisation, tiny tensors; and running statistics.

The first are a few hundred numbers that move the output of a whole layer, so they go along as float16, outside the
chain. Running statistics are no part of what is learnt and have no residual: they go along `exact`, as float32.

In the payload the runs are one table, in order. The top bit of a length marks an exact run; the float16 values of the
others come first, then the float32 values, if there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from wire.codecs.arrays import Float32, Positions, to_fp16
from wire.codecs.errors import CodecError
from wire.codecs.payload import Reader, Writer

RUNS_MAX = 4_096  # two per layer of the deepest network this side has seen; the header has sixteen bits
EXACT = 1 << 31


class Run(NamedTuple):
    start: int
    length: int
    exact: bool = False


def checked_runs(bypass: Sequence[slice], n: int, exact: Sequence[slice] = ()) -> list[Run]:
    """In order, from what the caller gave; an overlap is the caller's fault. What is in both is exact."""
    held = {slice_run(piece, n) for piece in exact}
    plain = {slice_run(piece, n) for piece in bypass} - held
    runs = sorted([Run(*run, exact=True) for run in held] + [Run(*run) for run in plain])
    runs = [run for run in runs if run.length]
    if len(runs) > RUNS_MAX or any(a.start + a.length > b.start for a, b in pairwise(runs)):
        raise CodecError("bypass", f"{len(runs)} runs, at most {RUNS_MAX} that do not overlap")
    return runs


def slice_run(piece: slice, n: int) -> tuple[int, int]:
    start, stop, step = piece.indices(n)
    if step != 1:
        raise CodecError("bypass", f"a run has step 1, not {step}")
    return start, max(0, stop - start)


def places(runs: Sequence[Run]) -> Positions:
    """Every element of the runs."""
    pieces = [np.arange(run.start, run.start + run.length, dtype=np.int64) for run in runs]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)


def write_bypass(writer: Writer, vector: Float32, runs: Sequence[Run]) -> None:
    table = [(run.start, run.length | (EXACT if run.exact else 0)) for run in runs]
    writer.raw(np.array(table, "<u4").tobytes())
    plain, exact = places([r for r in runs if not r.exact]), places([r for r in runs if r.exact])
    writer.stream(to_fp16(vector[plain]).view(np.uint8).data, width=2)
    if exact.size:
        writer.stream(vector[exact].astype("<f4", copy=False).view(np.uint8).data, width=4)


def read_bypass(reader: Reader, number: int, n: int) -> tuple[Positions, Float32]:
    """Positions (strictly increasing) and values of `number` runs."""
    if number > RUNS_MAX:
        raise CodecError("bypass", f"{number} runs, at most {RUNS_MAX}")
    table = np.frombuffer(reader.raw(8 * number), "<u4").reshape(number, 2).astype(np.int64)
    exact = table[:, 1] >= EXACT
    lengths = table[:, 1] & (EXACT - 1)
    ends = table[:, 0] + lengths
    if (lengths == 0).any() or (ends[:-1] > table[1:, 0]).any() or ends[-1] > n:
        raise CodecError("bypass")
    runs = [Run(int(s), int(k), bool(e)) for s, k, e in zip(table[:, 0], lengths, exact, strict=True)]
    positions = places(runs)
    values = np.empty(positions.size, np.float32)
    is_exact = np.repeat(exact, lengths)
    plain = positions.size - int(np.count_nonzero(is_exact))
    values[~is_exact] = np.frombuffer(reader.stream(2 * plain), "<f2")
    if plain < positions.size:
        values[is_exact] = np.frombuffer(reader.stream(4 * (positions.size - plain)), "<f4")
    return positions, values
