"""Sizes on recorded updates of real training: what the codecs are for, and they do not depend on the machine."""

from __future__ import annotations

import pytest

from benchmarks.codecs import sizes
from benchmarks.recorded import DATA, load

DATA_BYTES_MAX = 4_000_000  # small files committed: a clone stays quick


@pytest.mark.parametrize(
    ("name", "ratio"), [("top_k_1pct_int8", 280), ("stc_1_100", 480), ("stc_1_400", 1_600)]
)
def test_recorded_updates_become_as_small_as_promised(name: str, ratio: float) -> None:
    figures = sizes(name)
    assert figures["ratio"] >= ratio
    assert figures["positions_to_zstd3_gaps_max"] <= 1
    assert 0 < figures["nmse"] < 1


def test_recordings_are_complete_and_small() -> None:
    for name in ("top_k_1pct_int8", "stc_1_100", "stc_1_400"):
        recording = load(name)
        steps = {(update.round, update.device) for update in recording.updates}
        assert steps == {(number, device) for number in range(1, 6) for device in range(3)}
        assert recording.n == 1_663_370
    assert sum(path.stat().st_size for path in DATA.iterdir()) <= DATA_BYTES_MAX
