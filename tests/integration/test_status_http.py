"""The coordinator's status over HTTP: the host reads it, a device cannot reach it."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from whole_run import LONG, container, edgerig, events, until

pytestmark = [pytest.mark.containers, pytest.mark.slow]

# Exit code 0 when something answers there. Three seconds are plenty on a bridge of this host.
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("status")
    file = folder / "long.yaml"
    file.write_text(LONG)
    done = edgerig("up", file, "--runs", folder / "runs")
    assert done.returncode == 0, done.stderr
    root = (folder / "runs" / "latest").resolve()
    try:
        until(lambda: events(root, "round_opened"), timeout_s=180, what="the first round")
        yield root
    finally:
        edgerig("down", "--runs", folder / "runs")


def url_of(root: Path) -> str:
    return str(events(root, "status_served")[-1]["url"])


def connects(root: Path, node: str, host: str, port: int) -> bool:
    command = ["docker", "exec", container(root.name, node), "python3", "-c", CONNECT, host, str(port)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def test_the_host_reads_it_at_the_address_that_status_prints(running: Path) -> None:
    url = url_of(running)
    printed = edgerig("status", "latest", "--runs", running.parent)
    assert f"{url}/metrics" in printed.stdout
    with urllib.request.urlopen(f"{url}/status", timeout=10) as response:
        said = json.load(response)
    assert said["run"] == running.name
    assert len(said["devices"]) == 3
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        assert b"edgerig_device_online{device=" in response.read()
    with urllib.request.urlopen(f"{url}/healthz", timeout=10) as response:
        assert response.read() == b"ok\n"


def test_a_device_reaches_neither_its_address_nor_its_name(running: Path) -> None:
    plan = json.loads((running / "plan.json").read_text())
    network = plan["network"]
    parts = urlsplit(url_of(running))
    host, port = str(parts.hostname), parts.port or 0
    # That it can connect to what it should shows that the question is put well.
    assert connects(running, "pi-1", network["broker_address"], network["broker_port"])
    assert connects(running, "broker", host, port)
    for address in (host, "coordinator", network["gateway"], network["broker_address"]):
        assert not connects(running, "pi-1", address, port), address
