"""Whatever goes wrong ends as its own message and the documented exit code."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import pytest

from compose import session, signals
from compose.driver import Driver
from compose.process_runtime import BROKER_WAIT_S
from edgerig import cli
from edgerig.commands import record, run
from history.derive import derive
from history.reader import read_history
from history.summarize import summarize
from history.summary import Summary
from topology.plan import Plan
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


def test_a_relays_port_that_another_program_holds_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        choose = session.choose_ports

        def chosen(plan: Plan) -> tuple[int, dict[str, int]]:
            broker, relays = choose(plan)
            return broker, {**relays, min(relays): port}

        monkeypatch.setattr(session, "choose_ports", chosen)
        words = ("run", str(EXAMPLES / "smoke.yaml"), "--runtime", "process", "--runs", str(tmp_path))
        assert ended(monkeypatch, *words) == 3
    said = capsys.readouterr().err
    assert f"port {port} of loopback, meant for the relay of" in said
    assert "run it again" in said
    events = [event.event for event in read_history((tmp_path / "latest").resolve()).events]
    assert "container_started" not in events


def test_a_signal_after_the_record_is_written_leaves_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first place where the interpreter looks for one again: the record is freed before it does."""

    def come(frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_return"):
            sys.setprofile(None)
            signals.of_this_thread().on_signal(signal.SIGTERM, frame)

    def collected(root: Path, plan: Plan, **_: object) -> Summary:
        summary = summarize(derive(read_history(root), plan))
        sys.setprofile(come)
        return summary

    monkeypatch.setattr(run, "_drive", lambda session, *_: collected(session.root, session.plan))
    words = ("run", str(EXAMPLES / "smoke.yaml"), "--runtime", "process", "--runs", str(tmp_path))
    ended(monkeypatch, *words)
    assert sys.getprofile() is None
    assert not ((tmp_path / "latest").resolve() / "private").exists()


def test_ctrl_c_while_the_record_is_written_says_how_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(run, "collect", interrupt)
    monkeypatch.setattr(Driver, "run", lambda self: None)
    words = ("run", str(EXAMPLES / "smoke.yaml"), "--runtime", "process", "--runs", str(tmp_path))
    assert ended(monkeypatch, *words) == 4
    root = (tmp_path / "latest").resolve()
    assert f"`edgerig report {root}`" in capsys.readouterr().err
    assert not (root / "private").exists()


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
