"""Pages that cite a benchmark say what is recorded in benchmarks/data."""

from __future__ import annotations

import json
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_the_page_of_the_transport_says_what_was_measured() -> None:
    found = json.loads((REPOSITORY / "benchmarks" / "data" / "transport.json").read_text(encoding="utf-8"))
    page = (REPOSITORY / "docs" / "transport.md").read_text(encoding="utf-8")
    beats = found["heartbeat_p99_s_by_group"]
    assert f"| {found['ideal_ratio']} | {found['cubic']['ideal_ratio']} |" in page
    assert f"| {beats['bbr']} | {beats['cubic']} |" in page
    assert f"| {beats['bbr_bloated']} | {beats['cubic_bloated']} |" in page
