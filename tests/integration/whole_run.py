"""Drive the real `edgerig` command from a test, and look at what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SMOKE = REPOSITORY / "topology" / "examples" / "smoke.yaml"
LABEL = "io.edgerig.run"

# More rounds than any test waits for: what the tests interrupt.
LONG = """
name: long
seed: 3
devices:
  pi: {profile: raspberry-pi-4, count: 3, link: home-wifi, cpus: 0.3}
data: {dataset: mnist-mini, samples_per_device: 300, partition: {kind: iid}}
model: mlp
training: {rounds: 400, local_epochs: 1, batch_size: 16, optimizer: {kind: sgd, lr: 0.05, momentum: 0.9}}
policy: {kind: synchronous, cohort: 3, deadline: 30 s, quorum: 0.5}
compression: {uplink: {sparsify: {top_k: 0.01}, quantize: int8, entropy: zstd}, downlink: {quantize: fp16}}
expect: {updates_lost: 0}
"""


def edgerig(
    *arguments: str | Path, timeout_s: float = 400, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    environment = {**os.environ, **({"PATH": path} if path is not None else {})}
    return subprocess.run(
        [sys.executable, "-m", "edgerig", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=REPOSITORY,
        env=environment,
        check=False,
    )


class Background:
    """`edgerig run` as a process that a test interrupts, kills or waits for."""

    def __init__(self, *arguments: str | Path, log: Path) -> None:
        self.log = log
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgerig", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                start_new_session=True,
            )

    def wait(self, timeout_s: float = 400) -> int:
        return self.process.wait(timeout_s)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


@contextmanager
def background(*arguments: str | Path, log: Path) -> Iterator[Background]:
    running = Background(*arguments, log=log)
    try:
        yield running
    finally:
        running.end()


def events(root: Path, name: str = "") -> list[dict[str, Any]]:
    """Every event below a run's folder, in the order of their clocks; a field `node` is `about` here."""
    found = []
    for file in root.glob("nodes/*/history.jsonl"):
        for line in file.read_bytes().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            found.append(
                event | event["fields"] | {"node": event["node"], "about": event["fields"].get("node")}
            )
    found.sort(key=lambda event: event["mono_s"])
    return [event for event in found if not name or event["event"] == name]


def until(condition: Callable[[], Any], *, timeout_s: float, what: str) -> Any:
    """Poll a condition of the outside world; fails with what was awaited."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


def left_behind(run: str) -> list[str]:
    """Containers, networks and volumes that still carry this run's label."""
    found = []
    for kind, listing in (
        ("container", ["ps", "-aq"]),
        ("network", ["network", "ls", "-q"]),
        ("volume", ["volume", "ls", "-q"]),
    ):
        done = subprocess.run(
            ["docker", *listing, "--filter", f"label={LABEL}={run}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        found += [f"{kind} {line}" for line in done.stdout.split()]
    return found


def container(run: str, node: str) -> str:
    """The id of a run's container."""
    labels = ["--filter", f"label={LABEL}={run}", "--filter", f"label=io.edgerig.node={node}"]
    done = subprocess.run(
        ["docker", "ps", "-aq", *labels], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()


def summary(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((root / "summary.json").read_text())
    return loaded
