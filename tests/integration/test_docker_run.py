"""Real containers, broker and links: the smoke topology to its end, and what can cut it short."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from whole_run import (
    LONG,
    SMOKE,
    background,
    container,
    edgerig,
    events,
    left_behind,
    summary,
    until,
)

pytestmark = [pytest.mark.containers, pytest.mark.slow]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    done = edgerig("run", SMOKE, "--runs", runs)
    assert done.returncode == 0, done.stdout + done.stderr
    return (runs / "latest").resolve()


def test_verdict_and_figures(finished: Path) -> None:
    found = summary(finished)
    assert found["verdict"] == "pass"
    assert found["runtime"] == "docker"
    assert found["rounds"] == 2
    # How busy the host of this test is is not what is tested.
    assert [lapse for lapse in found["lapses"] if lapse["what"] != "run_delay"] == []


def test_every_link_and_quota_was_measured(finished: Path) -> None:
    for device in summary(finished)["devices"]:
        assert device["cpu_effective"] == pytest.approx(device["cpu_requested"], rel=0.10)
        for direction in ("up", "down"):
            link = device["link"][direction]
            assert link["requested"]["rate_bit_s"] == pytest.approx(link["effective"]["rate_bit_s"], rel=0.05)
            allowed_s = max(0.002, 0.05 * link["requested"]["delay_s"])
            assert abs(link["effective"]["delay_s"] - link["requested"]["delay_s"]) <= allowed_s
        assert 0 < device["peak_rss_mb"] <= 120


def test_no_agent_connected_before_its_gate_opened(finished: Path) -> None:
    opened: dict[str, float] = {}
    for event in events(finished, "gate_opened"):
        opened.setdefault(event["about"], event["mono_s"])
    connected = [event for event in events(finished, "connected") if event["node"] != "coordinator"]
    assert {event["node"] for event in connected} == {
        device["name"] for device in summary(finished)["devices"]
    }
    for event in connected:
        assert event["mono_s"] >= opened[event["node"]], event


def test_nothing_is_left(finished: Path) -> None:
    assert left_behind(summary(finished)["run"]) == []
    assert not (finished / "private").exists()


def test_audit(finished: Path) -> None:
    done = edgerig("audit", finished)
    assert done.returncode == 0, done.stdout + done.stderr


# --- a longer run, which the tests below interrupt ---


@pytest.fixture
def long(tmp_path: Path) -> Iterator[Any]:
    """`edgerig run` of the long topology; `in_round` waits for a round and gives the folder."""
    file = tmp_path / "long.yaml"
    file.write_text(LONG)
    runs = tmp_path / "runs"
    with background("run", file, "--runs", runs, "--no-build", log=tmp_path / "log") as running:

        def in_round(number: int = 2) -> Path:
            def there() -> Any:
                root = (runs / "latest").resolve()
                reached = any(event["round"] >= number for event in events(root, "round_opened"))
                assert running.process.poll() is None, running.log.read_text()
                return root if reached else None

            found: Path = until(there, timeout_s=180, what=f"round {number}")
            return found

        running.in_round = in_round  # type: ignore[attr-defined]
        yield running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_tears_down_cleanly(long: Any, number: signal.Signals) -> None:
    root = long.in_round()
    long.send(number)
    assert long.wait(90) == 4
    assert left_behind(root.name) == []
    assert not (root / "private").exists()
    assert summary(root)["verdict"] == "interrupted"
    assert (root / "report.html").exists()


def test_a_killed_runners_host_is_cleared_and_sweep_takes_its_credentials(long: Any) -> None:
    """The lease has lapsed: hostd removes everything, itself last. Credentials are files of the user's."""
    root = long.in_round()
    long.send(signal.SIGKILL)
    long.wait(30)
    until(lambda: not left_behind(root.name), timeout_s=30, what="hostd to clear the host")
    assert (root / "private").exists()
    done = edgerig("sweep", "--runs", root.parent)
    assert done.returncode == 0, done.stderr
    assert not (root / "private").exists()


def test_runs_side_by_side_and_sweep_spares_the_living(long: Any, tmp_path: Path) -> None:
    root = long.in_round()
    done = edgerig("run", SMOKE, "--runs", tmp_path / "other", "--no-build")
    # Quotas may be off while two runs share two cores.
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert summary((tmp_path / "other" / "latest").resolve())["rounds"] == 2
    edgerig("sweep", "--runs", root.parent)
    assert left_behind(root.name), "sweep must not touch a run that is alive"


@pytest.mark.parametrize("node", ["coordinator", "broker"])
def test_the_run_goes_on_after_a_restart(long: Any, node: str) -> None:
    """The coordinator resumes from its journal; the broker has forgotten everything and is told again."""
    root = long.in_round(2)
    subprocess.run(
        ["docker", "restart", "-t", "0", container(root.name, node)],
        check=True,
        timeout=60,
        capture_output=True,
    )
    newest = max(event["round"] for event in events(root, "round_opened"))
    long.in_round(newest + 3)
    long.send(signal.SIGINT)
    long.wait(90)
    versions = [event["version"] for event in events(root, "version_committed")]
    assert versions == sorted(set(versions))
    done = edgerig("audit", root)
    assert done.returncode == 0, done.stdout + done.stderr


def test_up_status_logs_down(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text(LONG)
    runs = tmp_path / "runs"
    done = edgerig("up", file, "--runs", runs, "--no-build")
    assert done.returncode == 0, done.stderr
    root = (runs / "latest").resolve()
    try:
        until(lambda: events(root, "round_opened"), timeout_s=180, what="the first round")
        assert f"{root.name}: running, round " in edgerig("status", "--runs", runs).stdout
        logged = edgerig("logs", "--runs", runs, "--node", "pi-1").stdout.splitlines()
        assert logged
        assert all(line.startswith("pi-1 | ") for line in logged)
        edgerig("sweep", "--runs", runs)
        assert left_behind(root.name), "a run that was brought up on purpose is not swept"
    finally:
        done = edgerig("down", "--runs", runs)
    assert left_behind(root.name) == []
    assert (root / "summary.json").exists()
