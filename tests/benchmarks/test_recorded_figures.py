"""Pages that cite a benchmark say what is recorded in benchmarks/data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (REPOSITORY / "benchmarks" / "data" / name).read_text(encoding="utf-8")
    )
    return found


def page_of(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text(encoding="utf-8")


def test_the_page_of_the_transport_says_what_was_measured() -> None:
    found, page = recorded("transport.json"), page_of("transport.md")
    beats = found["heartbeat_p99_s_by_group"]
    assert f"| {found['ideal_ratio']} | {found['cubic']['ideal_ratio']} |" in page
    assert f"| {beats['bbr']} | {beats['cubic']} |" in page
    assert f"| {beats['bbr_bloated']} | {beats['cubic_bloated']} |" in page


def test_the_page_of_the_schedules_says_what_was_measured() -> None:
    found, page = recorded("stragglers.json"), page_of("schedules.md")
    for name, seconds in found["median_virtual_s"].items():
        label = name.replace("_", " ")
        assert (
            f"| {label} | {found['server_lr'][name]} | {seconds:.0f} s | {found['updates'][name]:.0f} |"
            in page
        )
    assert f"{found['speedup_vs_wait_all']} times sooner" in page
    assert f"{found['speedup_vs_deadline']} times sooner" in page


def test_the_page_of_the_links_says_what_was_measured() -> None:
    links, page = recorded("links.json"), page_of("links.md")
    for key in ("rate_error_max", "queue_error_max", "delay_error_ms_median", "delay_error_ms_p99", "jitter_error_max",
                "hostd_cpu_constant", "hostd_cpu_jitter"):  # fmt: skip
        assert f"| `{key}` | {links[key]} |" in page
    assert links["loss_ok"] is True
    assert f"| `cpu_error_max` | {recorded('devices.json')['cpu_error_max']} |" in page
    brought = recorded("bringup.json")
    assert f"| `bringup_ratio` | {brought['bringup_ratio']} |" in page
    assert f"| `measured_ratio` | {brought['measured_ratio']} |" in page
