"""`edgerig status --serve`: an address that stays, whatever becomes of runs; Ctrl-C ends it."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).parents[2]


def test_it_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgerig", "status", "latest", "--serve", "0", "--runs", str(tmp_path)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().split(",")[0])
        assert address.hostname == "127.0.0.1"
        connection = http.client.HTTPConnection(address.netloc, timeout=30)
        connection.request("GET", "/status")
        response = connection.getresponse()
        assert (response.status, b"no coordinator" in response.read()) == (502, True)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        command = [sys.executable, "-m", "edgerig", "status", "--serve", port, "--runs", str(tmp_path)]
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 3
    assert "cannot listen on port" in done.stderr
