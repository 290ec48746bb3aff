"""Whatever goes wrong ends as its own message and the documented exit code."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from pathlib import Path

import pytest

from compose import session
from compose.process_runtime import BROKER_WAIT_S
from edgerig import cli
from edgerig.commands import record
from history.reader import read_history
from topology.validate import load_topology

EXAMPLES = Path(__file__).parents[2] / "topology" / "examples"


def ended(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["edgerig", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def test_ctrl_c_in_a_command_that_started_nothing_says_no_more_than_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "find_run", interrupt)
    assert ended(monkeypatch, "report") == 4
    assert capsys.readouterr().err == "interrupted\n"


def test_a_port_that_another_program_holds_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(session, "choose_ports", lambda plan: (port, {}))
        words = ("run", str(EXAMPLES / "quickstart.yaml"), "--runtime", "process", "--runs", str(tmp_path))
        assert ended(monkeypatch, *words) == 3
    assert (
        f"port {port} of loopback, meant for this run's broker, is held by another" in capsys.readouterr().err
    )
    events = read_history((tmp_path / "latest").resolve()).events
    moments = [event.mono_s for event in events if event.event in ("probed", "down")]
    assert max(moments) - min(moments) < BROKER_WAIT_S / 4, "not as the end of a broker that gives up"


def test_files_of_one_name_are_a_bad_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "bus.up").write_text("".join(f"{ms}\n" for ms in range(0, 2000, 4)))
    (tmp_path / "t.yaml").write_text(
        "name: x\ndevices:\n  a: {profile: laptop, cpus: 0.1, link: {up: {vary: {trace: {file: a/bus.up}}}}}\n"
        "  b: {profile: laptop, cpus: 0.1, link: {up: {vary: {trace: {file: b/bus.up}}}}}\n"
        "data: {dataset: mnist-mini}\nmodel: mlp\ntraining: {rounds: 1}\n"
    )
    words = ("run", str(tmp_path / "t.yaml"), "--runtime", "process", "--runs", str(tmp_path / "runs"))
    assert ended(monkeypatch, *words) == 2
    assert "files of a run need different names" in capsys.readouterr().err


def test_a_topology_may_come_through_a_pipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = (EXAMPLES / "quickstart.yaml").read_bytes()
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    try:
        loaded = load_topology(f"/dev/fd/{reader}")
    finally:
        os.close(reader)
    assert loaded.sha256 == hashlib.sha256(content).hexdigest()
    made = session.create(loaded, runtime="process", runs=tmp_path, data_dir=None)
    made.lock.release()
    assert (made.root / "topology.yaml").read_bytes() == content
    assert made.plan.topology_sha256 == loaded.sha256
