"""Docker's command and networks as the runner uses them, with a command and an engine that only play them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compose import engine
from compose.errors import EnvironmentProblem, Interrupted
from compose.signals import interruptible

# `docker` starts the compose plugin as its child; this one says when it is there, and will not hear of SIGTERM.
STUBBORN = """#!/bin/sh
sh -c 'trap "" TERM; echo $$ > {pid}.draft; mv {pid}.draft {pid}; kill -INT {runner}; sleep 60 & wait; wait' &
wait
"""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_signal_during_compose_ends_the_plugin_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "plugin"
    command = tmp_path / "docker"
    command.write_text(STUBBORN.format(pid=pid_file, runner=os.getpid()))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(engine, "COMPOSE_END_WAIT_S", 0.3)
    with pytest.raises(Interrupted), interruptible():
        engine.compose("p", tmp_path / "compose.yaml", ["up"])
    plugin, deadline = int(pid_file.read_text()), time.monotonic() + 5
    while runs(plugin) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(plugin)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("write /var/lib/docker: no space left on device", "the disk is full"),
        ("Bind for 0.0.0.0:9000 failed: port is already allocated", "another program holds that port"),
        ("invalid pool request: Pool overlaps with other one on this address space", "edgerig sweep"),
        ("something new", "edgerig doctor"),
    ],
)
def test_what_compose_says_becomes_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, hint: str
) -> None:
    command = tmp_path / "docker"
    command.write_text(f"#!/bin/sh\necho 'Error response from daemon: {said}' >&2\nexit 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(EnvironmentProblem, match="`docker compose up` failed") as caught:
        engine.compose("p", tmp_path / "compose.yaml", ["up"])
    assert said in caught.value.log[-1]
    assert hint in caught.value.hint


def an_engine(*subnets: str) -> Any:
    networks = [SimpleNamespace(attrs={"IPAM": {"Config": [{"Subnet": subnet}]}}) for subnet in subnets]
    return SimpleNamespace(networks=SimpleNamespace(list=lambda: networks))


@pytest.fixture
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Beside runs that really start on this host."""
    monkeypatch.setattr(engine, "SUBNET_NAME", f"edgerig-test-{os.getpid()}")
    monkeypatch.setattr(engine, "_reserved", held := list[Any]())
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("EDGERIG_SUBNET", raising=False)
    yield
    for name in held:
        name.close()


@pytest.mark.usefixtures("own_locks")
def test_runs_that_start_side_by_side_get_different_subnets_and_leave_no_file(tmp_path: Path) -> None:
    busy = an_engine("10.213.0.0/24", "172.17.0.0/16")
    assert [engine.free_subnet(busy, 3) for _ in range(3)] == [f"10.213.{n}.0/24" for n in (1, 2, 3)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("own_locks")
@pytest.mark.parametrize("named", ["office", "10.213.0.1/24", "fd00::/64"])
def test_a_subnet_that_is_none_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("EDGERIG_SUBNET", named)
    with pytest.raises(EnvironmentProblem, match="EDGERIG_SUBNET"):
        engine.free_subnet(an_engine(), 3)


@pytest.mark.usefixtures("own_locks")
def test_a_full_pool_says_what_to_do() -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        engine.free_subnet(an_engine("10.0.0.0/8"), 3)
    assert "edgerig sweep" in caught.value.hint
