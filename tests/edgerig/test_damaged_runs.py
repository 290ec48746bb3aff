"""Runs that died, were never prepared, or whose files are damaged: said in a line, with what to do next."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from compose import session
from compose.session import DETACHED_NAME, RunnerLock
from compose.sweep import sweep
from edgerig import cli
from edgerig.status import look
from emulation.docker_host import DockerHost, DockerProblem
from history.summary import SUMMARY_NAME
from history.writer import HistoryWriter
from learning.datasets import DatasetError
from topology.plan import load_plan
from topology.validate import load_topology

EXAMPLES = Path(__file__).parents[2] / "topology" / "examples"

Edgerig = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture
def edgerig(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Edgerig:
    """(exit code, standard output, standard error) of a command."""
    monkeypatch.setenv("EDGERIG_RUNS", str(tmp_path))

    def ended(*words: str) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgerig", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return caught.value.code, said.out, said.err

    return ended


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run that was prepared and that nobody drives."""
    made = session.create(
        load_topology(EXAMPLES / "smoke.yaml"), runtime="process", runs=tmp_path, data_dir=None, run="r-1"
    )
    made.lock.release()
    return made.root


def begin(root: Path) -> None:
    device = load_plan(root / "plan.json").devices[0].name
    path = root / "nodes" / "coordinator" / "history.jsonl"
    with closing(HistoryWriter(path, "coordinator")) as history:
        history.append("status_served", url="http://127.0.0.1:1")
        history.append("agent_online", agent=device, boot="b")
        history.append("round_opened", round=1)


def test_a_run_is_alive_exactly_while_somebody_drives_it(root: Path) -> None:
    begin(root)
    plan = load_plan(root / "plan.json")
    lock = RunnerLock(root)
    alive = look(root, plan)
    lock.release()
    assert (alive.state, alive.devices[0].online, bool(alive.url)) == ("running", True, True)
    dead = look(root, plan)
    assert (dead.state, dead.devices[0].online, dead.url) == ("dead", False, "")
    assert "edgerig down r-1" in dead.text()
    (root / DETACHED_NAME).touch()
    assert look(root, plan).state == "running"


def test_what_was_taken_down_has_ended_with_its_verdict(root: Path, edgerig: Edgerig) -> None:
    begin(root)
    edgerig("down", "r-1")
    verdict = json.loads((root / SUMMARY_NAME).read_text())["verdict"]
    state = look(root, load_plan(root / "plan.json"))
    assert (state.state, state.verdict) == ("ended", verdict)
    assert verdict in state.text()


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff\x80", b"[" * 100_000, None])
@pytest.mark.parametrize("command", ["status", "logs", "down", "check", "report", "model export", "heal"])
def test_a_damaged_plan_is_named(command: str, content: bytes | None, root: Path, edgerig: Edgerig) -> None:
    plan = root / "plan.json"
    plan.unlink()
    plan.mkdir() if content is None else plan.write_bytes(content)
    more = {"heal": ["by-hand-1"], "model export": ["-o", str(root / "x.onnx")]}.get(command, [])
    code, _, errors = edgerig(*command.split(), "r-1", *more)
    assert code in (2, 3)
    assert "plan.json cannot be read" in errors
    assert "Traceback" not in errors


def test_a_start_that_was_killed_can_be_found_and_swept(tmp_path: Path, edgerig: Edgerig) -> None:
    half = tmp_path / "half"
    half.mkdir()
    lock = RunnerLock(half)
    (half / "relay.json").write_text("{}")
    assert sweep(None, tmp_path) == {}, "it is being prepared"
    lock.release()
    for words in (
        ("status", "half"),
        ("run", str(EXAMPLES / "smoke.yaml"), "--runtime", "process", "--run-id", "half"),
    ):
        code, _, errors = edgerig(*words)
        assert code == 3
        assert "edgerig sweep" in errors
    (tmp_path / "not-a-run").mkdir()
    assert list(sweep(None, tmp_path)) == ["half"]
    assert [path.name for path in tmp_path.iterdir()] == ["not-a-run"]


@pytest.mark.parametrize("reason", [DatasetError("no"), OSError(28, "No space left on device")])
def test_what_cannot_be_prepared_leaves_nothing(
    reason: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise reason

    monkeypatch.setattr(session, "prepare", fail)
    with pytest.raises(Exception, match=r"no|No space left"):
        session.create(
            load_topology(EXAMPLES / "smoke.yaml"), runtime="process", runs=tmp_path, data_dir=None
        )
    assert not list(tmp_path.iterdir())


def test_a_run_of_somebody_else_is_not_said_to_be_driven(
    root: Path, edgerig: Edgerig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgerig.commands import run

    monkeypatch.setattr(run, "hold_of", lambda _: "hidden")
    code, _, errors = edgerig("down", "r-1")
    assert code == 3
    assert "another user" in errors


@pytest.mark.parametrize(
    "words",
    [
        ("status", "x" * 5_000), ("status", "x" * 5_000 + "/y"), ("logs", "r-1"), ("report", "nobody"),
        ("validate", "{folder}/none.yaml"), ("validate", "{folder}/folder.yaml"), ("data", "{folder}/data.yaml"),
        ("validate", "{folder}/data.yaml"), ("run", "{folder}/none.yaml"), ("model", "inspect", "{folder}/no.onnx"),
    ],
)  # fmt: skip
def test_errors_are_json_where_that_is_asked_for(
    words: tuple[str, ...], root: Path, edgerig: Edgerig, tmp_path: Path
) -> None:
    text = (EXAMPLES / "smoke.yaml").read_text()
    (tmp_path / "model.onnx").mkdir()
    (tmp_path / "folder.yaml").write_text(re.sub(r"(?m)^model: .*$", "model: model.onnx", text))
    (tmp_path / "data.yaml").write_text(text.replace("mnist-mini", "./model.onnx"))
    wants_json = words[0] not in ("logs",)
    code, out, errors = edgerig(
        *(word.format(folder=tmp_path) for word in words), *(["--format", "json"] if wants_json else [])
    )
    assert code in (2, 3)
    assert "Traceback" not in errors
    assert "free space" not in errors
    assert "report RUN" not in errors
    assert len(errors) < 1_000
    if wants_json:
        found = json.loads(out)
        assert not found["ok"]
        assert all(error["message"] for error in found["errors"])


def test_a_sweep_without_docker_says_what_it_swept(
    root: Path, edgerig: Edgerig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{root}/no.sock")
    code, out, errors = edgerig("sweep", "--format", "json")
    assert (code, json.loads(out)) == (0, {"r-1": ["credentials"]})
    assert "containers could not be looked at" in errors
    assert edgerig("sweep")[:2] == (0, "nothing to sweep\n")


def test_a_sweep_without_docker_does_not_call_a_run_of_containers_swept(
    root: Path, edgerig: Edgerig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{root}/no.sock")
    (root / "compose.yaml").touch()
    assert edgerig("sweep")[:2] == (3, "r-1: removed credentials\n")


def test_the_doctor_asks_the_engine_that_runs_would_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(DockerProblem, match=f"no Docker Engine at unix://{tmp_path}/no.sock"):
        DockerHost("x")


def test_a_valid_file_that_a_run_would_refuse_is_said_to_be_so(
    tmp_path: Path, edgerig: Edgerig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGERIG_DATA", raising=False)
    file = tmp_path / "t.yaml"
    file.write_text((EXAMPLES / "smoke.yaml").read_text().replace("mnist-mini", "mnist"))
    code, out, _ = edgerig("validate", "--no-host", "--format", "json", str(file))
    assert code == 0
    assert "a run here will be refused" in json.loads(out)["notes"][0]


def test_a_place_that_is_not_there_is_no_matter_of_free_space(edgerig: Edgerig, tmp_path: Path) -> None:
    code, _, errors = edgerig("calibrate", "--artifact", str(tmp_path / "none" / "x.artifact"))
    assert code == 3
    assert "is there such a folder" in errors
    assert "free space" not in errors
