"""The process runtime end to end: the whole system without Docker on the PATH."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from whole_run import LONG, REPOSITORY, SMOKE, background, edgerig, events, summary, until

from learning.datasets import load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    without_docker = os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "docker").exists()
    )
    done = edgerig("run", SMOKE, "--runtime", "process", "--runs", runs, path=without_docker)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(runs) in done.stdout  # the path of the report
    assert re.search(r"started [1-9]\d* services", done.stdout)
    return (runs / "latest").resolve()


def test_it_passes_and_says_which_runtime(finished: Path) -> None:
    found = summary(finished)
    assert found["verdict"] == "pass"
    assert found["runtime"] == "process"
    assert found["rounds"] == 2
    assert found["final_accuracy"] > 0.5
    assert found["uplink_bytes_float32"] > 50 * found["uplink_bytes"] > 0


def test_every_acked_update_was_merged(finished: Path) -> None:
    acked = {(event["node"], event["task"]) for event in events(finished, "acked")}
    merged = {
        (update["agent"], update["task"])
        for event in events(finished, "version_committed")
        for update in event["updates"]
    }
    assert acked == merged != set()


def test_audit_recomputes_the_versions(finished: Path) -> None:
    done = edgerig("audit", finished)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_exported_model_has_the_accuracy_of_the_summary(finished: Path, tmp_path: Path) -> None:
    """By onnxruntime and numpy alone, on the test data as anybody would feed them."""
    done = edgerig("model", "export", finished, "-o", tmp_path / "trained.onnx")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of version 2" in done.stdout
    session = ort.InferenceSession(tmp_path / "trained.onnx", providers=["CPUExecutionProvider"])
    data = load("mnist-mini")
    pixels = data.test_x.reshape(-1, 1, 28, 28).astype(np.float32) / 255
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels})
    assert (logits.argmax(1) == data.test_y).mean() == pytest.approx(
        summary(finished)["final_accuracy"], abs=1e-3
    )


def test_no_secret_is_left(finished: Path) -> None:
    assert not (finished / "private").exists()


def test_the_report_needs_nothing_from_outside(finished: Path) -> None:
    html = (finished / "report.html").read_text()
    assert "pass" in html.lower()
    assert not re.search(r"""(src|href)=["']https?://""", html)


def test_status_of_a_finished_run(finished: Path) -> None:
    done = edgerig("status", finished)
    assert "finished" in done.stdout
    assert done.returncode == 0


def test_examples_validate() -> None:
    for file in sorted((REPOSITORY / "topology" / "examples").glob("*.yaml")):
        done = edgerig("validate", file, "--no-host")
        assert done.returncode == 0, f"{file}: {done.stderr}"


def processes_of(root: Path) -> list[str]:
    """Command lines of living processes that work for this run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(root) in command:
            found.append(command)
    return found


def by_hand(root: Path) -> None:
    """A fault by hand takes and is recorded; what this runtime cannot do is refused by name."""
    done = edgerig("fault", root, "pause", "pi-2", "--heal-after", "1s")
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: events(root, "fault_healed"), timeout_s=20, what="the pause to be healed")
    assert [event["kind"] for event in events(root, "fault_applied")] == ["pause"]
    for words in (("link", root, "pi-1", "--up", "200kbit/s"), ("fault", root, "kill", "hostd")):
        refused = edgerig(*words)
        assert refused.returncode == 1, refused.stdout + refused.stderr
        assert "cannot do link_change" in refused.stdout or "no process hostd" in refused.stdout


def test_a_killed_runner_takes_its_processes_with_it(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text(LONG)
    runs = tmp_path / "runs"
    with background("run", file, "--runtime", "process", "--runs", runs, log=tmp_path / "log") as running:
        until(
            lambda: events((runs / "latest").resolve(), "round_closed"), timeout_s=90, what="the first round"
        )
        root = (runs / "latest").resolve()
        assert len(processes_of(root)) >= 5  # broker, coordinator, three agents
        by_hand(root)
        running.send(signal.SIGKILL)
        running.wait(10)
    until(lambda: not processes_of(root), timeout_s=20, what="the run's processes to end")
