"""How fast updates become a version: python -m benchmarks.merge --json

1.66 M float32 parameters (the cnn), 50 distinct updates, everything in one process on one thread; medians of
interleaved repetitions. Decoding and validation (bounds, finite, magnitude) are part of every figure of ours.

    dense_ratio_to_axpy     bandwidth of a dense merge over that of a plain numpy `acc += w * u` on the same vectors
    ratio_to_flwr           the same merge against `flwr`'s aggregate of the same updates, arrays in memory already
    sparse_ratio_to_dense   updates/s at top-1 %, int8, zstd over those of the dense merge
    rss_ratio_1000_to_10    peak resident memory of a version of 1,000 updates over one of 10, read from a journal
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coordinator import actions as a
from coordinator import merge
from coordinator.journal import Journal, aligned
from coordinator.merges import FEDAVG, Item
from wire.codecs import make_chain, uplink_spec
from wire.codecs import model as versions
from wire.codecs.arrays import Float32

SHAPES = ((32, 1, 5, 5), (32,), (64, 32, 5, 5), (64,), (512, 3136), (512,), (10, 512), (10,))  # the cnn
PARAMETERS = sum(int(np.prod(shape)) for shape in SHAPES)
UPDATES = 50
REPEATS = 7


def vectors(count: int = UPDATES) -> list[Float32]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal(PARAMETERS, np.float32) * np.float32(0.01) for _ in range(count)]


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def axpy(updates: Sequence[Float32]) -> Float32:
    accumulator = np.zeros(PARAMETERS, np.float32)
    for number, update in enumerate(updates):
        accumulator += np.float32(100 + number) * update
    return accumulator


def flwr_results(updates: Sequence[Float32]) -> list[tuple[list[Any], int]]:
    """What a Flower server holds: a list of arrays and the number of samples, for each client."""
    results = []
    for number, update in enumerate(updates):
        layers, at = [], 0
        for shape in SHAPES:
            size = int(np.prod(shape))
            layers.append(update[at : at + size].reshape(shape))
            at += size
        results.append((layers, 100 + number))
    return results


def speeds() -> dict[str, float]:
    try:
        from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
        from flwr.server.strategy.aggregate import aggregate
    except ImportError:
        raise SystemExit(
            "merge: it needs flwr: install '.[bench]' into an environment of its own, without requirements.lock"
        ) from None
    updates, master = vectors(), np.zeros(PARAMETERS, np.float32)
    raw, small = make_chain(uplink_spec(None, entropy="none")), make_chain(uplink_spec(0.01, "int8"))
    dense = [Item(aligned(raw.encode(u, seed=1)), 100 + i) for i, u in enumerate(updates)]
    sparse = [Item(small.encode(u, seed=i), 100 + i) for i, u in enumerate(updates)]
    theirs = flwr_results(updates)
    sent = [(ndarrays_to_parameters(layers), n) for layers, n in theirs]
    assert np.allclose(
        merge.apply(master, dense, FEDAVG).master[:25], aggregate(theirs)[0].reshape(-1)[:25], atol=1e-6
    )
    ways: dict[str, Callable[[], Any]] = {
        "axpy": lambda: axpy(updates),
        "dense": lambda: merge.apply(master, dense, FEDAVG),
        "sparse": lambda: merge.apply(master, sparse, FEDAVG),
        "flwr": lambda: aggregate(theirs),
        # As the bytes come from the network, which is where our own figure begins.
        "flwr_from_bytes": lambda: aggregate([(parameters_to_ndarrays(p), n) for p, n in sent]),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        work()
    gc.disable()
    for _ in range(REPEATS):
        for name, work in ways.items():
            taken[name].append(seconds(work))
    t = {name: statistics.median(times) for name, times in taken.items()}
    gigabytes = UPDATES * PARAMETERS * 4 / 1e9
    return {
        "dense_ratio_to_axpy": round(t["axpy"] / t["dense"], 3),
        "ratio_to_flwr": round(t["flwr"] / t["dense"], 2),
        "ratio_to_flwr_from_bytes": round(t["flwr_from_bytes"] / t["dense"], 2),
        "sparse_ratio_to_dense": round(t["dense"] / t["sparse"], 2),
        "axpy_gb_s": round(gigabytes / t["axpy"], 2),
        "dense_gb_s": round(gigabytes / t["dense"], 2),
        "flwr_gb_s": round(gigabytes / t["flwr"], 2),
        "sparse_updates_per_s": round(UPDATES / t["sparse"], 1),
        "sparse_update_bytes": round(statistics.mean(len(item.payload) for item in sparse)),
    }


# --- memory ---------------------------------------------------------------------------------------------------------


def fill(path: Path, cohort: int) -> None:
    """A journal with one round of `cohort` updates, waiting to be merged."""
    chain = make_chain(uplink_spec(0.01, "int8"))
    payloads = [chain.encode(u, seed=i) for i, u in enumerate(vectors())]
    journal = Journal.open(path, run="r", plan_sha256="0" * 64)
    zeros = np.zeros(PARAMETERS, np.float32)
    with journal.transaction():
        journal.begin_model(zeros, versions.to_patterns(zeros))
        for number in range(cohort):
            task, payload = f"r1-t{number + 1}", payloads[number % len(payloads)]
            journal.apply(
                a.JournalTask(task=task, agent=f"d-{number}", round=1, version=0, seed=1, deadline_s=1.0)
            )
            journal.apply(
                a.JournalUpdate(task=task, agent=f"d-{number}", sha256=hashlib.sha256(payload).hexdigest(),
                                bytes=len(payload), samples=100, position=number, report=None, defect=""),
                payload,
            )  # fmt: skip
    journal.close()


MERGE = """
import sys
from pathlib import Path
import numpy as np
from benchmarks.merge import PARAMETERS
from coordinator import actions as a
from coordinator.journal import Journal
journal = Journal.open(Path(sys.argv[1]), run="r", plan_sha256="0" * 64)
items = tuple(
    a.MergeItem(task, agent, sha256, samples)
    for task, agent, sha256, samples in journal.db.execute(
        "SELECT task, agent, sha256, samples FROM updates ORDER BY position"
    )
)
with journal.transaction():
    version = a.CommitVersion(version=1, round=1, server_lr=1.0, updates=items)
    journal.commit_version(version, np.zeros(PARAMETERS, np.float32), "fp16")
status = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")))
"""


def peak_kib(cohort: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        fill(path, cohort)
        done = subprocess.run(
            [sys.executable, "-c", MERGE, str(path)], check=True, capture_output=True, text=True
        )
        return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object (the only form there is)")
    parser.parse_args()
    few, many = peak_kib(10), peak_kib(1000)
    memory = {"rss_ratio_1000_to_10": round(many / few, 3), "peak_rss_mb_1000": round(many * 1024 / 1e6, 1)}
    print(json.dumps({**speeds(), **memory}))


if __name__ == "__main__":
    main()
