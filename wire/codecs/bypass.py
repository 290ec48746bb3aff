"""Runs of elements that no lossy stage touches: biases, normalisation, tiny tensors.

They are a few hundred numbers that move the output of a whole layer, so they go along as float16, outside the
chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from wire.codecs.arrays import Float32, Positions, to_fp16
from wire.codecs.errors import CodecError
from wire.codecs.payload import Reader, Writer

RUNS_MAX = 4_096  # two per layer of the deepest network this side has seen; the header has sixteen bits


def checked_runs(bypass: Sequence[slice], n: int) -> list[tuple[int, int]]:
    """(start, length) in order, from what the caller gave; an overlap is the caller's fault."""
    runs = sorted(slice_run(piece, n) for piece in bypass)
    runs = [run for run in runs if run[1]]
    if len(runs) > RUNS_MAX or any(a[0] + a[1] > b[0] for a, b in pairwise(runs)):
        raise CodecError("bypass", f"{len(runs)} runs, at most {RUNS_MAX} that do not overlap")
    return runs


def slice_run(piece: slice, n: int) -> tuple[int, int]:
    start, stop, step = piece.indices(n)
    if step != 1:
        raise CodecError("bypass", f"a run has step 1, not {step}")
    return start, max(0, stop - start)


def places(runs: Sequence[tuple[int, int]]) -> Positions:
    """Every element of the runs."""
    return np.concatenate([np.arange(start, start + length, dtype=np.int64) for start, length in runs])


def write_bypass(writer: Writer, vector: Float32, runs: Sequence[tuple[int, int]]) -> None:
    writer.raw(np.array(runs, "<u4").tobytes())
    writer.stream(to_fp16(vector[places(runs)]).view(np.uint8).data, width=2)


def read_bypass(reader: Reader, number: int, n: int) -> tuple[Positions, Float32]:
    """Positions (strictly increasing) and values of `number` runs."""
    if number > RUNS_MAX:
        raise CodecError("bypass", f"{number} runs, at most {RUNS_MAX}")
    table = np.frombuffer(reader.raw(8 * number), "<u4").reshape(number, 2).astype(np.int64)
    ends = table[:, 0] + table[:, 1]
    if (table[:, 1] == 0).any() or (ends[:-1] > table[1:, 0]).any() or ends[-1] > n:
        raise CodecError("bypass")
    positions = places([(int(start), int(length)) for start, length in table])
    return positions, np.frombuffer(reader.stream(2 * positions.size), "<f2").astype(np.float32)
