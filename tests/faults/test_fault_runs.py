"""Whole runs in containers: every fault struck, seen, healed and told from the history; by hand; whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from whole_run import Background, background, container, edgerig, events, left_behind, summary, until

pytestmark = [pytest.mark.containers, pytest.mark.slow]

FLEET = """
name: faults
seed: 5
devices:
  pi:
    profile: raspberry-pi-4
    count: 4
    cpus: 0.2
    memory: 160 MiB
    link: {up: 2 Mbit/s, down: 6 Mbit/s, delay: 20 ms}
data: {dataset: mnist-mini, partition: {kind: iid}, samples_per_device: 600}
model: mlp
training: {rounds: 400, local_epochs: 2, batch_size: 16, optimizer: {kind: sgd, lr: 0.03, momentum: 0.9}}
policy: {kind: synchronous, deadline: 15 s, quorum: 0.5}
compression: {uplink: {sparsify: {top_k: 0.05}, quantize: int8, entropy: zstd}, downlink: {quantize: fp16}}
faults:
"""
# What happens to four devices in 37 s: times from the first round on.
FAULTS = """
  - {at: 1 s, out_of_memory: pi-1, heal_after: 3 s}
  - {at: 1 s, duplicate_delivery: pi-2, heal_after: 5 s}
  - {at: 1 s, clock_offset: {device: pi-3, offset: -2 h}, heal_after: 5 s}
  - {when: 40 % of bytes sent, partition: {device: pi-4, direction: up}, heal_after: 2 s}
  - {at: 7 s, poison: {device: pi-2, how: nan}, heal_after: 4 s}
  - {at: 7 s, poison: {device: pi-3, how: sign_flip}, heal_after: 4 s}
  - {at: 7 s, link_change: {device: pi-4, link: {up: 300 kbit/s, delay: 200 ms}}, heal_after: 4 s}
  - {at: 13 s, client_takeover: pi-1, heal_after: 7 s}
  - {at: 13 s, corrupt_payload: {device: pi-2, share: 100 %}, heal_after: 5 s}
  - {at: 13 s, disk_full: pi-3, heal_after: 4 s}
  - {at: 13 s, late_delivery: {device: pi-4, delay: 4 s}, heal_after: 7 s}
  - {at: 22 s, kill: coordinator, heal_after: 1 s}
  - {at: 26 s, kill: broker, heal_after: 1 s}
  - {at: 36 s, kill: hostd}
"""
LAST = "kill-14"


class Run:
    def __init__(self, root: Path, process: Background) -> None:
        self.root, self.process = root, process

    def seen(self, event: str, **fields: Any) -> Any:
        """Wait for an event with these fields."""

        def there() -> Any:
            assert self.process.process.poll() is None, self.process.log.read_text()[-3000:]
            found = [e for e in events(self.root, event) if all(e.get(k) == v for k, v in fields.items())]
            return found[-1] if found else None

        return until(there, timeout_s=150, what=f"{event} {fields}")


@contextmanager
def started(folder: Path, faults: str) -> Iterator[Run]:
    file = folder / "faults.yaml"
    file.write_text(FLEET + (faults or "  []"))
    runs = folder / "runs"
    with background("run", file, "--runs", runs, "--no-build", log=folder / "log") as process:
        until(lambda: (runs / "latest").exists(), timeout_s=60, what="the run's folder")
        run = Run((runs / "latest").resolve(), process)
        run.seen("round_opened")
        yield run


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Every fault of the list, two by hand, and at last two mutants of the emulation; then the run is ended."""
    with started(tmp_path_factory.mktemp("faults"), FAULTS) as run:
        runs = run.root.parent
        run.seen("fault_healed", fault=LAST)
        number = run.seen("round_closed")["round"]
        hand = edgerig("fault", "latest", "pause", "pi-1", "--heal-after", "2s", "--runs", runs)
        assert hand.returncode == 0, hand.stdout + hand.stderr
        slow = edgerig("link", "latest", "pi-2", "--up", "200kbit/s", "--runs", runs)
        assert slow.returncode == 0, slow.stdout + slow.stderr
        healed = edgerig("heal", "latest", "by-hand-2", "--runs", runs)
        assert healed.returncode == 0, healed.stdout + healed.stderr
        refused = edgerig("fault", "latest", "pause", "hostd", "--runs", runs)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        unhooked = edgerig("fault", "latest", "flood", "pi-1", "--runs", runs)
        assert unhooked.returncode == 2, unhooked.stdout + unhooked.stderr
        until(
            lambda: run.seen("round_closed")["round"] > number + 3,
            timeout_s=60,
            what="rounds after the faults",
        )
        # Mutants for real: a quota lifted and a link's shaper cleared behind hostd's back.
        docker("update", "--cpus", "1.5", container(run.root.name, "pi-3"))
        veth = run.seen("link_applied", device="pi-4") and _veth(run.root, "pi-4")
        subprocess.run(["tc", "qdisc", "del", "dev", veth, "root"], check=True, timeout=30)
        run.seen("lapse", what="cpu_readback", about="pi-3")
        run.seen("lapse", what="link_lost", about="pi-4")
        run.process.send(signal.SIGINT)
        assert run.process.wait(90) == 4
        yield run


def _veth(root: Path, device: str) -> str:
    lines = (root / "nodes" / "hostd" / "undo.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines if line]
    return str([e["host_interface"] for e in found if e.get("device") == device][-1])


def of(run: Run, event: str, node: str) -> list[dict[str, Any]]:
    return [found for found in events(run.root, event) if found["node"] == node]


def span(run: Run, fault: str) -> tuple[float, float]:
    applied = next(e for e in events(run.root, "fault_applied") if e["fault"] == fault)
    healed = next(e for e in events(run.root, "fault_healed") if e["fault"] == fault)
    return applied["mono_s"], healed["mono_s"]


def during(run: Run, fault: str, event: str, *, slack_s: float = 1.0, **fields: Any) -> list[dict[str, Any]]:
    begin, end = span(run, fault)
    return [
        e
        for e in events(run.root, event)
        if begin <= e["mono_s"] <= end + slack_s and all(e.get(k) == v for k, v in fields.items())
    ]


def test_every_fault_struck_took_and_was_healed_in_time(finished: Run) -> None:
    faults = summary(finished.root)["faults"]
    assert len(faults) == 16
    assert all(f["applied"] and f["verified"] and f["healed"] for f in faults), faults
    assert max(f["lateness_s"] for f in faults) < 1.5
    assert {f["id"] for f in faults if not f["planned"]} == {"by-hand-1", "by-hand-2"}


def test_the_agent_dies_of_the_kernels_hand(finished: Run) -> None:
    (fault,) = (f for f in summary(finished.root)["faults"] if f["kind"] == "out_of_memory")
    assert "by the OOM killer" in fault["detail"]
    assert during(finished, "out_of_memory-1", "container_died", about="pi-1")
    assert during(finished, "out_of_memory-1", "container_started", slack_s=10, about="pi-1")


def test_devices_that_do_wrong_are_seen_to(finished: Run) -> None:
    done = {node: of(finished, "misbehaviour", node)[-1]["done"] for node in ("pi-2", "pi-3", "pi-4")}
    assert done["pi-2"]["duplicate_delivery"] > 0
    assert done["pi-4"]["late_delivery"] > 0
    refused = during(finished, "poison-5", "update_discarded", agent="pi-2", outcome="refused")
    assert refused
    assert all("not_finite" in e["reason"] for e in refused)
    assert done["pi-3"]["poison"] > 0
    assert during(finished, "corrupt_payload-9", "message_refused", agent="pi-2", reason="crc")
    assert any("No space left" in e["reason"] for e in during(finished, "disk_full-10", "failed"))


def test_a_wrong_clock_moves_the_stamps_and_nothing_else(finished: Run) -> None:
    begin, end = span(finished, "clock_offset-3")
    stamps = [
        e["wall_s"] - e["mono_s"]
        for e in events(finished.root)
        if e["node"] == "pi-3" and begin + 1 < e["mono_s"] < end and "wall_s" not in e["fields"]
    ]
    probed = events(finished.root, "probed")[0]
    assert stamps
    assert all(abs(stamp + 7200 - (probed["wall_s"] - probed["mono_s"])) < 5 for stamp in stamps)


def test_an_intruder_puts_the_device_out_again_and_again(finished: Run) -> None:
    assert len([e for e in during(finished, "client_takeover-8", "disconnected") if e["node"] == "pi-1"]) >= 2
    after = [
        e
        for e in of(finished, "connected", "pi-1")
        if e["mono_s"] > span(finished, "client_takeover-8")[1] - 3
    ]
    assert after


def test_late_offers_come_late(finished: Run) -> None:
    encoded = {e["task"]: e["mono_s"] for e in of(finished, "encoded", "pi-4")}
    waits = [
        e["mono_s"] - encoded[e["task"]]
        for e in during(finished, "late_delivery-11", "update_offered", slack_s=5, agent="pi-4")
        if e["task"] in encoded
    ]
    assert max(waits) >= 4.0


def test_a_partition_at_a_share_of_the_bytes_meets_an_upload(finished: Run) -> None:
    begin, _ = span(finished, "partition-4")
    granted = [e["mono_s"] for e in events(finished.root, "update_granted") if e["agent"] == "pi-4"]
    assert any(0 <= begin - at < 2 for at in granted)


def test_services_come_back_and_the_run_goes_on(finished: Run) -> None:
    assert len(events(finished.root, "run_started")) == 2
    assert len(of(finished, "probed", "hostd")) == 2
    checks = {check["name"]: check["outcome"] for check in summary(finished.root)["checks"]}
    assert checks["updates_conserved"] == checks["versions_gapless"] == "pass"
    assert checks["faults_met_tasks"] == checks["progress_after_heal"] == "pass"
    assert checks["nothing_leaked"] == "pass"


def test_the_mutants_are_caught(finished: Run) -> None:
    """A quota that was lifted and a link that was cleared in mid-run: the emulation did not hold."""
    check = edgerig("check", finished.root, "--only", "emulation_held")
    assert check.returncode == 1
    lapses = {(lapse["what"], lapse["node"]) for lapse in summary(finished.root)["lapses"]}
    assert {("cpu_readback", "pi-3"), ("link_lost", "pi-4")} <= lapses


# --- whoever is killed, the host is clean -------------------------------------------------------------------


def _ifbs() -> frozenset[str]:
    """Some kernels make two of their own."""
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=False).stdout
    return frozenset(line.split()[0] for line in links.splitlines() if line.startswith("ifb"))


IFBS = _ifbs()


def host_state(root: Path) -> list[str]:
    """What the run has on this host: containers, networks, shaped veths, IFBs, iptables rules, frozen processes."""
    undo = (root / "nodes" / "hostd" / "undo.jsonl").read_text().splitlines()
    veths = {json.loads(line).get("host_interface") for line in undo if line} - {None}
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    frozen = docker("ps", "-q", "--filter", "status=paused", "--filter", f"label=io.edgerig.run={root.name}")
    return [
        *left_behind(root.name),
        *(line for line in links.splitlines() if line.split("@")[0].split()[0] in veths),
        *(line for line in links.splitlines() if line.startswith("ifb") and line.split()[0] not in IFBS),
        *(line for line in rules.splitlines() if "edgerig" in line),
        *frozen.split(),
    ]


def kill_process(run: str, node: str) -> None:
    """SIGKILL to the service's own process, as a crash would be; not `docker kill`, after which nothing restarts it."""
    top = docker("top", container(run, node), "-eo", "pid,comm").splitlines()[1:]
    pids = [int(line.split()[0]) for line in top if "init" not in line.split()[1]]
    os.kill(pids[0], signal.SIGKILL)


def test_whoever_is_killed_the_host_is_clean_within_seconds(tmp_path: Path) -> None:
    with started(tmp_path, "") as run:
        name = run.root.name
        frozen = edgerig("fault", run.root, "pause", "pi-2", "--heal-after", "300s")
        assert frozen.returncode == 0, frozen.stdout + frozen.stderr
        kill_process(name, "coordinator")
        until(lambda: len(events(run.root, "run_started")) == 2, timeout_s=60, what="the coordinator again")
        kill_process(name, "hostd")
        run.seen("fault_healed", fault="by-hand-1")
        again = edgerig("fault", run.root, "pause", "pi-3", "--heal-after", "300s")
        assert again.returncode == 0, again.stdout + again.stderr
        assert host_state(run.root)
        run.process.send(signal.SIGKILL)
        until(lambda: not host_state(run.root), timeout_s=30, what="the host to be clean")
        assert any(e["event"] == "orphaned" for e in events(run.root))
        # Credentials are files of the user's; the next sweep takes them.
        assert edgerig("sweep", "--runs", run.root.parent).returncode == 0
        assert not (run.root / "private").exists()
