"""Add golden bytes for messages that have none yet, or look different by now: python scripts/add_golden_messages.py

Never rewrites one that is there: bytes that were once sent stay decodable, or the schema version gets a new number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from wire import messages as m

FILE = Path(__file__).parent.parent / "tests" / "wire" / "golden" / "messages.json"
SHA, OTHER = "0123456789abcdef" * 4, "f" * 64
GRAPH = {"name": "graph-01234567", "bytes": 41_234, "chunks": 3, "sha256": SHA}
FULL = {"name": "v7", "bytes": 413_000, "chunks": 26, "sha256": OTHER}
DELTA = {"name": "v6-v7", "bytes": 9_100, "chunks": 1, "sha256": SHA, "base_version": 6}
MODEL = {"version": 7, "sha256": SHA, "parameters": 206_922, "dtype": "fp16", "full": FULL, "deltas": [DELTA]}
TRAIN = {
    "local_epochs": 2,
    "batch_size": 16,
    "lr": 0.05,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.0001,
    "personal": {"kind": "ditto", "steps": 40, "proximal": 0.5},
    "evaluate": True,
}
UPLINK = {
    "chain": {
        "sparsify": {"kind": "top_k", "fraction": 0.01, "per_layer": True},
        "rotate": "hadamard", "quantize": "eden", "bits": 2, "entropy": "smallest",
    },
    "feedback": {"kind": "dgc", "momentum": 0.9, "decay_after": 3, "decay_factor": 0.5, "restart": "fresh"},
    "bypass": False,
}  # fmt: skip
CONTROL = {
    "object": {"name": "c7", "bytes": 371_000, "chunks": 24, "sha256": SHA}, "dtype": "fp16",
    "chain": {"quantize": "int8"},
}  # fmt: skip
REPORT = {
    "samples": 600, "steps": 38, "loss": 0.75, "train_s": 3.5, "step_s": 0.09, "fetch_s": 0.5, "fetch_bytes": 9_100,
    "peak_rss_bytes": 91_000_000, "residual_norm": 1.25, "raw_bytes": 827_688,
}  # fmt: skip
ONE: dict[str, Any] = {"task": "r3-t12"}
FIGURES = {
    "version": 7,
    "received": {"samples": 120, "loss": 0.75, "answers": 120, "correct": 90},
    "personal": {"samples": 120, "loss": 0.25, "answers": 120, "correct": 114},
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "task": {
        **ONE, "round": 3, "model": MODEL, "graph": GRAPH, "train": TRAIN, "uplink": UPLINK, "seed": 2**62,
        "deadline_s": 60.0, "control": CONTROL, "probe": 256, "survey": True, "inline_bytes": 3_150,
    },
    "grant": {**ONE, "sha256": SHA, "chunk_bytes": 6_250, "window_bytes": 25_000, "missing": [3, 17]},
    "ack": {**ONE, "sha256": SHA},
    "outcome": {**ONE, "sha256": SHA, "outcome": "late", "version": 4, "reason": "round 3 was closed"},
    "cancel": {**ONE, "reason": "the round is complete"},
    "resync": {"epoch": 2},
    "finish": {"reason": "target"},
    "hello": {
        "boot": "b-1", "version": 6, "version_sha256": OTHER, "task": "r3-t12", "unsettled": ["r2-t8"], "samples": 600,
        "spool": [{"task": "r2-t9", "sha256": SHA, "bytes": 2_800}], "software": "edgerig 0.1",
    },
    "offer": {
        **ONE, "sha256": SHA, "bytes": 21, "report": {**REPORT, "local": FIGURES},
        "update": "aW4gdGhlIG9mZmVyIGl0c2VsZiAh",
    },
    "surveyed": {"task": "survey-v7", "figures": FIGURES},
    "progress": {**ONE, "phase": "uploading", "done": 3, "total": 11},
    "probed": {"task": "p3-v2-e1", "loss": 2.25, "samples": 256, "fetch_bytes": 9_100},
    "failed": {**ONE, "reason": "the loss became NaN"},
    "ask": {"tasks": ["r2-t8", "r2-t9"]},
    "status": {"online": True, "boot": "b-1"},
}  # fmt: skip


def encoded() -> dict[str, bytes]:
    """Every example as this version sends it. A message without an example is a KeyError."""
    kinds = {kind.__struct_config__.tag: kind for kind in (*m.Down.__args__, *m.Up.__args__)}
    return {
        str(tag): m.encode(msgspec.convert({**EXAMPLES[str(tag)], "type": tag}, kind))
        for tag, kind in kinds.items()
    }


def main() -> None:
    golden: list[dict[str, Any]] = json.loads(FILE.read_text()) if FILE.exists() else []
    known = {one["bytes"] for one in golden}
    for tag, payload in encoded().items():
        if payload.hex() not in known:
            fields = EXAMPLES[tag]
            golden.append({"type": tag, "schema": m.MESSAGE_SCHEMA, "bytes": payload.hex(), "fields": fields})
            print(f"added {tag}: {len(payload)} bytes")
    FILE.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
