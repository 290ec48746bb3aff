"""Add golden payloads for chains that have none yet: python scripts/add_golden_payloads.py

Never rewrites one that is there: bytes that were once sent stay decodable, or the payload format gets a new number.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np

from wire.codecs import CodecSpec, Sparsify, decode, layers_of, make_chain
from wire.codecs.payload import FORMAT

FILE = Path(__file__).parent.parent / "tests" / "wire" / "golden" / "payloads.json"
N = 9_000
TOP = Sparsify(kind="top_k", fraction=0.01)
CHAINS = {
    "none": CodecSpec(entropy="none", sparsify=TOP),
    "fp16": CodecSpec(quantize="fp16", sparsify=TOP),
    "bf16": CodecSpec(quantize="bf16", sparsify=TOP),
    "int8": CodecSpec(quantize="int8", sparsify=TOP),
    "int8 in blocks": CodecSpec(quantize="int8", sparsify=TOP, block=16),
    "int4": CodecSpec(quantize="int4", sparsify=TOP),
    "ternary golomb": CodecSpec(quantize="ternary", sparsify=TOP, entropy="golomb"),
    "qsgd": CodecSpec(quantize="qsgd", sparsify=TOP, levels=9),
    "random_k": CodecSpec(quantize="int8", sparsify=Sparsify(kind="random_k", fraction=0.01)),
    "threshold": CodecSpec(quantize="fp16", sparsify=Sparsify(kind="threshold", threshold=0.2)),
    "lossless": CodecSpec(sparsify=Sparsify(kind="top_k", fraction=0.02), entropy="lossless"),
    "exact runs": CodecSpec(quantize="int8", sparsify=TOP),
    "smallest": CodecSpec(quantize="int8", sparsify=TOP, entropy="smallest"),
    **{
        f"eden {bits}": CodecSpec(
            rotate="hadamard", quantize="eden", bits=bits, sparsify=Sparsify(kind="top_k", fraction=0.02)
        )
        for bits in (1, 2, 3, 4)
    },
}
EXACT = {"exact runs"}  # those that carry running statistics, too


def main() -> None:
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    vector = (np.random.default_rng(0).standard_t(3, N) * 1e-2).astype(np.float32)
    vector.reshape(90, 100)[:, ::3] *= 4  # columns, so that `turned` is worth its table
    for name, spec in CHAINS.items():
        if name in golden:
            continue
        payload = make_chain(spec).encode(
            vector,
            seed=7,
            bypass=[slice(8_990, 9_000)],
            exact=[slice(8_000, 8_020)] if name in EXACT else [],
            layers=layers_of([(90, 100)]),
        )
        decoded = decode(payload, n=N)
        assert decoded.positions is not None
        golden[name] = {
            "format": FORMAT,
            "n": N,
            "spec": msgspec.to_builtins(spec),
            "payload": payload.hex(),
            "positions": decoded.positions.astype("<u2").tobytes().hex(),
            "values": decoded.values.astype("<f4").tobytes().hex(),
        }
        print(f"added {name}: {len(payload)} bytes")
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
