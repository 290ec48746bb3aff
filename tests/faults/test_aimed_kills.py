"""Twenty kills of coordinator and broker in containers, most of them aimed at a moment; nothing may be lost by them.

SIGKILL goes to the process itself, by a test that reads the coordinator's history as it is written: a few milliseconds
after the moment, and afterwards the history says whether the aim was met.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from whole_run import background, container, edgerig, events, until

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(600)]

# An upload takes a third of a second, a merge and a publication some tens of milliseconds each.
FLEET = """
name: aimed
seed: 9
devices:
  pi:
    profile: raspberry-pi-4
    count: 4
    cpus: 0.25
    memory: 160 MiB
    link: {up: 1 Mbit/s, down: 20 Mbit/s, delay: 10 ms}
data: {dataset: mnist-mini, partition: {kind: iid}, samples_per_device: 100}
model: cnn
training: {rounds: 400, local_epochs: 1, batch_size: 16, optimizer: {kind: sgd, lr: 0.03}}
policy: {kind: synchronous, deadline: 20 s, quorum: 0.5}
compression: {uplink: {sparsify: {top_k: 0.02}, quantize: int8, entropy: zstd}, downlink: {quantize: fp16}}
"""
AIM_S = 40.0  # a moment that has not come by then does not come
POLL_S = 0.001
DEVICES = 4
RECEIVED, SENT = 0, 8  # columns of /proc/net/dev
SPACING_S = 1.0  # so that a round gets somewhere between two kills


class Moments:
    """The coordinator's history as it grows."""

    def __init__(self, root: Path) -> None:
        self._file = root / "nodes" / "coordinator" / "history.jsonl"
        self._at = self._file.stat().st_size

    def wait(self, *names: str) -> dict[str, Any]:
        """The next event of one of these names from now on."""
        deadline = time.monotonic() + AIM_S
        while time.monotonic() < deadline:
            for event in self._new():
                if event["event"] in names:
                    return event
            time.sleep(POLL_S)
        raise AssertionError(f"no {' or '.join(names)} within {AIM_S:.0f} s")

    def _new(self) -> Iterator[dict[str, Any]]:
        with open(self._file, "rb") as file:
            file.seek(self._at)
            for line in file.read().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                with suppress(ValueError):  # a line that a kill tore, and the line end after it
                    yield json.loads(line)


class Books:
    """The journal, read beside the coordinator that writes it: the history of a moment comes after the moment."""

    PENDING = """SELECT count(*) FROM updates WHERE task NOT IN (SELECT task FROM merges)
                 AND task NOT IN (SELECT task FROM outcomes)"""
    VERSION = "SELECT max(version) FROM versions"

    def __init__(self, root: Path) -> None:
        file = root / "nodes" / "coordinator" / "journal.sqlite"
        self._db = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5.0)

    def number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])


def moved(pid: int, column: int) -> int:
    """Bytes that a container has taken in (0) or sent (8)."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return sum(int(line.split(":")[1].split()[column]) for line in lines if "lo:" not in line)


def reached(condition: Callable[[], bool]) -> None:
    """Look as often as the machine can: what is waited for may be over in milliseconds."""
    deadline = time.monotonic() + AIM_S
    while not condition():
        assert time.monotonic() < deadline, f"the moment has not come within {AIM_S:.0f} s"
        time.sleep(0.0002)


def first_chunk_in(root: Path, pid: int) -> dict[str, Any]:
    """A granted update is on its way, and its first bytes have reached the victim."""
    event = Moments(root).wait("update_granted")
    before = moved(pid, RECEIVED)
    reached(lambda: moved(pid, RECEIVED) > before + 4_096)
    return event


def commit_begun(root: Path, pid: int) -> dict[str, Any]:
    """Everybody's update is in the journal: the version's transaction is what comes next."""
    books = Books(root)
    reached(lambda: books.number(Books.PENDING) == 0)
    reached(lambda: books.number(Books.PENDING) == DEVICES)
    return {"version": books.number(Books.VERSION) + 1}


def half_published(root: Path, pid: int) -> dict[str, Any]:
    """A version is in the journal, and some of it has left or reached the victim."""
    books = Books(root)
    version = books.number(Books.VERSION) + 1
    reached(lambda: books.number(Books.VERSION) == version)
    before = moved(pid, SENT)
    until_s = time.monotonic() + 0.01
    while moved(pid, SENT) < before + 65_536 and time.monotonic() < until_s:
        pass
    return {"version": version}


def any_time(root: Path, pid: int) -> dict[str, Any]:
    return Moments(root).wait("task_progress")


class Kill(NamedTuple):
    victim: str
    aim: Callable[[Path, int], dict[str, Any]]
    event: dict[str, Any]
    mono_s: float


PLAN = [
    (victim, aim)
    for aim in (first_chunk_in, commit_begun, half_published)
    for victim in ("coordinator", "broker") * 3
] + [("coordinator", any_time), ("broker", any_time)]


def state(run: str, node: str) -> dict[str, Any]:
    said = subprocess.run(
        ["docker", "inspect", container(run, node), "--format", "{{json .State}}"],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def process_of(run: str, node: str) -> int:
    """The service's own process: the container's first one, or the only child of its init."""
    first = int(state(run, node)["Pid"])
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return int(children[0]) if children else first


def strike(root: Path, victim: str, aim: Callable[[Path, int], dict[str, Any]]) -> Kill:
    pid, before = process_of(root.name, victim), state(root.name, victim)["StartedAt"]
    event = aim(root, pid)
    os.kill(pid, signal.SIGKILL)
    kill = Kill(victim, aim, event, time.monotonic())
    until(lambda: again(root.name, victim, before), timeout_s=30, what=f"{victim} again")
    return kill


def again(run: str, node: str, started_before: str) -> bool:
    """Whether it runs anew; Docker's restart policy counts to five, so it is helped."""
    found = state(run, node)
    if found["StartedAt"] != started_before and found["Running"]:
        return True
    if not found["Running"]:
        subprocess.run(
            ["docker", "start", container(run, node)], check=False, capture_output=True, timeout=60
        )
    return False


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Kill]]:
    folder = tmp_path_factory.mktemp("aimed")
    file, runs = folder / "aimed.yaml", folder / "runs"
    file.write_text(FLEET)
    with background("run", file, "--runs", runs, "--no-build", log=folder / "log") as process:
        until(lambda: (runs / "latest").exists(), timeout_s=60, what="the run's folder")
        root = (runs / "latest").resolve()
        until(lambda: events(root, "version_committed"), timeout_s=120, what="a first version")
        kills = []
        for victim, aim in PLAN:
            kills.append(strike(root, victim, aim))
            time.sleep(SPACING_S)
        assert process.process.poll() is None, process.log.read_text()[-3000:]
        versions = len(events(root, "version_committed"))
        until(
            lambda: len(events(root, "version_committed")) >= versions + 3,
            timeout_s=90,
            what="versions after the last kill",
        )
        process.send(signal.SIGINT)
        assert process.wait(90) == 4
    return root, kills


def met(root: Path, kill: Kill) -> bool:
    """Whether the victim died before what would have ended the moment."""
    if kill.aim is any_time:
        return False
    if kill.aim is first_chunk_in:
        task = kill.event["fields"]["task"]
        ends = [e for e in events(root, "update_received") if e["task"] == task]
    else:
        name = "version_committed" if kill.aim is commit_begun else "version_published"
        ends = [e for e in events(root, name) if e["version"] == kill.event["version"]]
    return all(end["mono_s"] > kill.mono_s for end in ends)


def test_at_least_ten_kills_met_their_moment(struck: tuple[Path, list[Kill]]) -> None:
    root, kills = struck
    hits = [(kill.victim, kill.aim.__name__) for kill in kills if met(root, kill)]
    assert len(kills) == 20
    assert len(hits) >= 10, hits
    assert {aim for _, aim in hits} == {"first_chunk_in", "commit_begun", "half_published"}, hits
    assert {victim for victim, _ in hits} == {"coordinator", "broker"}, hits


def test_the_coordinator_died_and_resumed_each_time(struck: tuple[Path, list[Kill]]) -> None:
    root, kills = struck
    deaths = sum(kill.victim == "coordinator" for kill in kills)
    assert len({e["boot"] for e in events(root, "run_started")}) == 1 + deaths


@pytest.mark.parametrize("check", ["updates_conserved", "versions_gapless"])
def test_nothing_was_lost_or_counted_twice(struck: tuple[Path, list[Kill]], check: str) -> None:
    found = edgerig("check", struck[0], "--only", check)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_version_is_what_its_updates_make(struck: tuple[Path, list[Kill]]) -> None:
    found = edgerig("audit", struck[0])
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_recorded_events_lead_to_the_same_decisions(struck: tuple[Path, list[Kill]]) -> None:
    found = edgerig("replay", struck[0])
    assert found.returncode == 0, found.stdout + found.stderr
