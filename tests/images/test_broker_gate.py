"""The broker's gate: Mosquitto starts when the token of this boot is there, and never on another boot's."""

from __future__ import annotations

import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.containers

WAIT_S = 60  # a start takes under a second; a loaded machine takes longer
TOKEN = re.compile(r"link-ready token (\d+-\d+) in")


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


class Broker:
    """One gated broker container without a network."""

    def __init__(self, folder: Path) -> None:
        self.name = f"edgerig-gate-{uuid.uuid4().hex[:8]}"
        self.gate = folder / "gate"
        self.gate.mkdir()
        private = folder / "private"
        private.mkdir()
        (private / "mosquitto.conf").write_text(
            "listener 1883 127.0.0.1\nallow_anonymous false\n", encoding="utf-8"
        )
        folder.chmod(0o755)
        self._folder = folder

    def start(self, gate_wait_s: int = 120) -> None:
        docker(
            *("run", "--detach", "--init", "--name", self.name, "--network", "none", "--cap-drop", "ALL"),
            *("--read-only", "--user", "20002:20002", "--volume", f"{self._folder}:/run/edgerig:ro"),
            *("--env", "EDGERIG_NODE=broker", "--env", "EDGERIG_GATE=/run/edgerig/gate"),
            *("--env", "EDGERIG_PRIVATE=/run/edgerig/private", "--env", f"EDGERIG_GATE_WAIT_S={gate_wait_s}"),
            "edgerig-broker",
        )

    def tokens(self) -> list[str]:
        return TOKEN.findall(docker("logs", self.name))

    def open_gate(self, token: str) -> None:
        fresh = self.gate / ".broker"
        fresh.write_text(token + "\n", encoding="utf-8")
        fresh.rename(self.gate / "broker")

    def wait_for(self, text: str, times: int = 1) -> str:
        deadline = time.monotonic() + WAIT_S
        while (log := docker("logs", self.name)).count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} did not come {times} times:\n{log}"
            time.sleep(0.1)
        return log

    def exit_code(self) -> int:
        return int(docker("wait", self.name))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    gated = Broker(tmp_path)
    yield gated
    subprocess.run(["docker", "rm", "--force", gated.name], capture_output=True, timeout=WAIT_S, check=False)


def token_as_hostd_computes_it(container: str) -> str:
    pid = docker("inspect", "--format", "{{.State.Pid}}", container).strip()
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return f"{os.stat(f'/proc/{pid}/ns/net').st_ino}-{fields[19]}"


def test_right_token_starts_mosquitto(broker: Broker) -> None:
    broker.start()
    log = broker.wait_for("waiting for the link-ready token")
    assert "mosquitto version" not in log
    broker.open_gate(broker.tokens()[0])
    log = broker.wait_for("running")
    assert "link ready" in log


@pytest.mark.skipif(os.geteuid() != 0, reason="another process's namespace can be read by root only")
def test_container_and_host_compute_the_same_token(broker: Broker) -> None:
    broker.start()
    broker.wait_for("waiting for the link-ready token")
    assert broker.tokens() == [token_as_hostd_computes_it(broker.name)]


@pytest.mark.parametrize("token", [None, "", "1-1", "prefix-of-a-token"])
def test_wrong_token_waits_and_gives_up(broker: Broker, token: str | None) -> None:
    if token is not None:
        broker.open_gate(token)
    broker.start(gate_wait_s=1)
    assert broker.exit_code() == 3
    log = docker("logs", broker.name)
    assert "no link-ready token of this boot after 1 s" in log
    assert "mosquitto version" not in log


def test_token_of_the_last_boot_opens_nothing(broker: Broker) -> None:
    broker.start()
    broker.wait_for("waiting for the link-ready token")
    broker.open_gate(broker.tokens()[0])
    broker.wait_for("running")
    docker("kill", broker.name)
    docker("start", broker.name)
    log = broker.wait_for("waiting for the link-ready token", times=2)
    first, second = broker.tokens()
    assert first != second
    assert log.count("link ready\n") == 1
    broker.open_gate(second)
    broker.wait_for("link ready\n", times=2)


def test_term_ends_a_waiting_broker_at_once(broker: Broker) -> None:
    broker.start()
    broker.wait_for("waiting for the link-ready token")
    started_s = time.monotonic()
    docker("stop", "--time", "20", broker.name)
    assert time.monotonic() - started_s < 15
    assert broker.exit_code() == 143


def test_missing_private_folder_is_named() -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "edgerig-broker"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 2
    assert "EDGERIG_PRIVATE" in done.stderr
