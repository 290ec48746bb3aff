"""Client drift against its definition in numpy, from the journal, with bounded memory, and beside the loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coordinator_world import PARAMETERS, World, make_config
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.drift import DriftWorker, Recorded, Row, UpdateDrift, dot, measure
from coordinator.journal import Journal
from coordinator.merges import FEDAVG
from wire.codecs import Decoded

N = 400_000  # more than one block


def update(seed: int, sparse: bool, n: int = 50) -> Decoded:
    rng = np.random.default_rng(seed)
    if not sparse:
        return Decoded(n, None, rng.standard_normal(n).astype(np.float32))
    at = np.sort(rng.choice(n, max(1, n // 10), replace=False)).astype(np.int64)
    return Decoded(n, at, rng.standard_normal(at.size).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.booleans(), st.floats(0.5, 500.0)), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
)
def test_norm_and_cosine_are_what_numpy_says(kinds: list[tuple[bool, float]], seed: int) -> None:
    updates = [update(seed + i, sparse) for i, (sparse, _) in enumerate(kinds)]
    rows = [Row(f"{i}", f"d-{i}", weight) for i, (_, weight) in enumerate(kinds)]
    found = list(measure(rows, lambda task: updates[int(task)], 50))
    dense = np.stack([u.dense().astype(np.float64) for u in updates])
    mean = np.average(dense, axis=0, weights=[row.weight for row in rows])
    for one, vector in zip(found, dense, strict=True):
        assert one.norm == pytest.approx(np.linalg.norm(vector), rel=1e-5)
        wanted = vector @ mean / (np.linalg.norm(vector) * np.linalg.norm(mean))
        assert one.cosine == pytest.approx(wanted, abs=1e-5)
        assert -1.0 <= (one.cosine or 0.0) <= 1.0


def test_an_update_of_nothing_has_no_direction() -> None:
    nothing, some = Decoded(4, None, np.zeros(4, np.float32)), Decoded(4, None, np.ones(4, np.float32))
    rows = [Row("0", "d-0", 1.0), Row("1", "d-1", 1.0)]
    first, second = measure(rows, lambda task: (nothing, some)[int(task)], 4)
    assert first == UpdateDrift("0", "d-0", 0.0, None)
    assert second.cosine == pytest.approx(1.0)


@pytest.mark.parametrize("sparse", [False, True])
def test_products_go_over_every_block(sparse: bool) -> None:
    one = update(3, sparse, N)
    vector = np.random.default_rng(4).standard_normal(N).astype(np.float32)
    assert dot(one, vector) == pytest.approx(float(one.dense().astype(np.float64) @ vector), rel=1e-9)


def test_only_one_update_is_held_at_a_time() -> None:
    """Each is asked for twice, in the recorded order, and nothing is kept between."""
    asked: list[str] = []

    def update_of(task: str) -> Decoded:
        asked.append(task)
        return update(int(task), False)

    rows = [Row(f"{i}", "d", 1.0) for i in range(5)]
    assert len(list(measure(rows, update_of, 50))) == 5
    assert asked == [*"01234", *"01234"]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Of a run with three versions, on disk."""
    world = World(make_config(4, rounds=3), 3)
    world.run()
    path = tmp_path / "journal.sqlite"
    world.journal.db.execute("VACUUM INTO ?", (str(path),))
    return path


def test_the_worker_tells_every_merged_update_of_a_version(journal: Path) -> None:
    worker = DriftWorker(Recorded(journal, PARAMETERS, FEDAVG))
    for version in (1, 2, 3, 9):
        worker.submit(version, version)
    done = list(worker.stop())
    assert [(fields["version"], fields["round"]) for fields in done] == [(v, v) for v in (1, 2, 3, 9)]
    updates = [fields["updates"] for fields in done]
    assert [len(one) for one in updates] == [4, 4, 4, 0]  # type: ignore[arg-type]
    assert all(x["norm"] > 0 and 0 < x["cosine"] <= 1 for x in updates[0])  # type: ignore[attr-defined]


def test_updates_that_were_let_go_are_a_gap_and_no_failure(journal: Path) -> None:
    db = Journal.open(journal, run="r", plan_sha256="0" * 64).db
    db.execute("UPDATE updates SET payload = NULL WHERE task IN (SELECT task FROM merges WHERE version = 2)")
    db.close()
    worker = DriftWorker(Recorded(journal, PARAMETERS, FEDAVG))
    for version in (1, 2, 3):
        worker.submit(version, version)
    assert [fields["version"] for fields in worker.stop()] == [1, 3]
