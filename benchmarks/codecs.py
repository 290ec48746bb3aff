"""How small and how fast the codecs are: python -m benchmarks.codecs [--json]

On recorded error-feedback updates of real training (`recorded`), on one core, in processor time (which other
processes on the machine stretch less than wall time), each operation's best of several runs. `ratio`: float32
bytes over payload bytes, over all fifteen updates. `encode`: from a delta to the payload, residual updated;
`decode`: from the payload into a float32 accumulator; both in MB of float32 per second. `nmse`: |x -
decoded|^2 / |x|^2, mean over updates.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from benchmarks.recorded import CHAINS, Recording, load, load_slice, restore
from wire.codecs import Chain, CodecSpec, Layer, decode, layers_of, make_chain
from wire.codecs.arrays import Positions
from wire.codecs.entropy import CHOICES, PACKINGS, PLACES, write_places
from wire.codecs.entropy.gaps import gap_bytes
from wire.codecs.feedback import ErrorFeedback
from wire.codecs.payload import Writer

Vector = NDArray[np.float32]
Figures = dict[str, Any]

REPEATS = 21
ROTATIONS = 20
MB = 1e6
PAPER = {
    "stc_1_100": 351.0,
    "stc_1_400": 1152.0,
}  # Sattler et al. 2019, total compression at these sparsities


def seconds(call: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Processor seconds of the fastest of several calls, each after an untimed `before`."""
    best = math.inf
    for _ in range(REPEATS):
        before()
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def log2_choose(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def speeds(vector: Vector, chain: Chain, layers: Sequence[Layer] = ()) -> Figures:
    """MB of float32 per second through error feedback, and into an accumulator."""
    feedback = ErrorFeedback(vector.size)

    def reset() -> None:
        feedback.settle("task", "merged")
        feedback.decay(0.0)

    encode_s = seconds(lambda: feedback.encode("task", vector, chain, seed=1, layers=layers), before=reset)
    payload = feedback.payload("task") or b""
    accumulator = np.zeros(vector.size, np.float32)
    decode_s = seconds(lambda: decode(payload, n=vector.size).add_into(accumulator, 0.1))
    size = vector.nbytes / MB
    return {"encode_mb_s": size / encode_s, "decode_mb_s": size / decode_s}


def sparse(name: str) -> Figures:
    """One of the recorded chains: sizes, speeds, and the same on uniform positions."""
    recording, chain = load(name), make_chain(CHAINS[name])
    layers = layers_of(recording.shapes)
    fast = speeds(restore(recording.updates[-1], recording.n), chain, layers)
    return sizes(name) | fast | uniform(name, chain, recording)


def sizes(name: str) -> Figures:
    """Ratio and error over all recorded updates of a chain, and its positions beside zstd-3 on gap bytes."""
    recording, chain = load(name), make_chain(CHAINS[name])
    layers = layers_of(recording.shapes)
    payload_bytes, errors, against_gaps = 0, [], []
    for update in recording.updates:
        vector = restore(update, recording.n)
        payload = chain.encode(vector, seed=update.seed, layers=layers)
        payload_bytes += len(payload)
        sent = decode(payload, n=recording.n)
        assert sent.positions is not None
        chosen = vector[sent.positions].astype(np.float64)
        lost = update.energy - float(np.sum(chosen**2)) + float(np.sum((chosen - sent.values) ** 2))
        errors.append(lost / update.energy)
        plain = len(zstandard.ZstdCompressor(level=3).compress(gap_bytes(sent.positions).data))
        against_gaps.append(places_bytes(chain, sent.positions, recording.n, layers) / plain)
    return {
        "ratio": 4 * recording.n * len(recording.updates) / payload_bytes,
        "nmse": float(np.mean(errors)),
        "positions_to_zstd3_gaps_max": max(against_gaps),
    }


def places_bytes(chain: Chain, positions: Positions, n: int, layers: Sequence[Layer]) -> int:
    """What the chain's position codes make of a list of positions."""
    packings, codes = (CHOICES[chain.spec.entropy][side] for side in (0, 1))
    writer = Writer([PACKINGS.named(name) for name in packings])
    write_places(writer, tuple(PLACES.named(name) for name in codes), positions, n, layers)
    return writer.size


def uniform(name: str, chain: Chain, recording: Recording) -> Figures:
    """The same chain on uniformly drawn positions, where nothing clusters."""
    rng = np.random.default_rng(1)
    vector = (rng.standard_t(3, recording.n) * 1e-3).astype(np.float32)
    payload = chain.encode(vector, seed=1)
    positions = decode(payload, n=recording.n).positions
    assert positions is not None
    figures: Figures = {
        "uniform_ratio": 4 * recording.n / len(payload),
        "uniform_position_bits": 8 * places_bytes(chain, positions, recording.n, ()) / positions.size,
        "uniform_position_bits_bound": log2_choose(recording.n, positions.size) / positions.size,
    }
    if name in PAPER:
        figures["uniform_ratio_paper"] = PAPER[name]
    return figures


def eden(bits: int) -> Figures:
    """Unbiased scale, the error of one rotation, mean of twenty; a real local delta."""
    vector = load_slice()
    spec = CodecSpec(rotate="hadamard", quantize="eden", bits=bits, entropy="none")
    chain = make_chain(spec, feedback=False)
    payloads = [chain.encode(vector, seed=seed) for seed in range(ROTATIONS)]
    energy = float(np.sum(np.square(vector, dtype=np.float64)))
    errors = [
        float(np.sum(np.square(decode(payload, n=vector.size).values - vector, dtype=np.float64))) / energy
        for payload in payloads
    ]
    figures: Figures = {"ratio": vector.nbytes / len(payloads[0])}
    figures |= speeds(vector, make_chain(spec))
    return figures | {
        "nmse": float(np.mean(errors)),
        "overhead": len(payloads[0]) / (vector.size * bits / 8) - 1,
    }


def lossless() -> Figures:
    """A real local delta, every bit kept, beside zstd level 3 on the same bytes."""
    vector = load_slice()
    chain = make_chain(CodecSpec(entropy="lossless"))
    payload = chain.encode(vector, seed=0)
    data = vector.tobytes()
    plain = zstandard.ZstdCompressor(level=3).compress(data)
    accumulator = np.zeros(vector.size, np.float32)
    encode_s = seconds(lambda: chain.encode(vector, seed=0))
    decode_s = seconds(lambda: decode(payload, n=vector.size).add_into(accumulator, 0.1))
    plain_s = seconds(lambda: zstandard.ZstdCompressor(level=3).compress(data))
    exact = np.array_equal(decode(payload, n=vector.size).values, vector)
    return {
        "ratio": vector.nbytes / len(payload),
        "encode_mb_s": vector.nbytes / MB / encode_s,
        "decode_mb_s": vector.nbytes / MB / decode_s,
        "nmse": 0.0 if exact else math.nan,
        "zstd_ratio": len(plain) / len(payload),
        "zstd_speed_ratio": plain_s / encode_s,
    }


def measure() -> Figures:
    chains = {name: sparse(name) for name in CHAINS}
    chains |= {f"eden_{bits}bit": eden(bits) for bits in (1, 2, 4)}
    return {"chains": chains | {"lossless": lossless()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="for machines")
    as_json = parser.parse_args().json
    figures = measure()
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    for name, chain in figures["chains"].items():
        print(name)
        for key, value in chain.items():
            print(f"  {key:32s}{value:12.4f}")


if __name__ == "__main__":
    main()
