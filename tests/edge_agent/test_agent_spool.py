"""The spool against power cuts, kills, full and damaged disks: old state or new, content in one place exactly."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from agent_builders import keep_pair, report, variate

from edge_agent.disk import FolderDisk
from edge_agent.ledger import Carried, DiskBroken, SpoolError
from edge_agent.spool import Spool
from edge_agent.state import Phase
from learning.optimizers import OptimizerState
from learning.trainer import Own
from simulation.disk import ForgetfulDisk, PowerCut
from wire.codecs import decode, uplink_spec
from wire.codecs.model import to_patterns, version_sha256
from wire.messages import Report, UplinkSpec

N = 300
UPLINK = UplinkSpec(chain=uplink_spec(0.05, "int8"))


def delta(seed: int, n: int = N) -> Any:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def as_report(carried: Carried) -> Report:
    return report(residual_norm=carried.residual_norm, residual_share=carried.residual_share)


def keep(spool: Spool, task: str, seed: int, own: Own | None = None) -> None:
    spool.prepare(task, delta(seed), UPLINK, seed=seed, version=0, report=as_report, own=own)
    spool.commit(task)


def own_of(seed: int, kind: str = "adam") -> Own:
    """Parameters that never travel, a personal model, and an optimizer's state."""
    vectors = (delta(seed), delta(seed + 1)) if kind == "adam" else (delta(seed),)
    return Own(local=delta(seed, 7), personal=delta(seed, 11), optimizer=OptimizerState(kind, seed, vectors))


def hold(spool: Spool, version: int) -> None:
    patterns = to_patterns(delta(version))
    spool.hold(version, version_sha256(patterns), "fp16", patterns)


STORY: list[Callable[[Spool], object]] = [
    lambda s: s.hold_graph(hashlib.sha256(b"graph").hexdigest(), b"graph"),
    lambda s: hold(s, 0),
    lambda s: keep(s, "t1", 1),
    lambda s: s.acked("t1"),
    lambda s: keep(s, "t2", 2, own_of(20)),
    lambda s: s.settle("t1", True),
    lambda s: hold(s, 1),
    lambda s: keep(s, "t3", 3, own_of(30, "sgd")),
    lambda s: s.settle("t2", False),
    lambda s: s.settle("t3", True),
    lambda s: s.hold_control(hashlib.sha256(b"c0").hexdigest(), b"c0"),
    lambda s: keep_pair(s, "t4", 4),
    lambda s: keep_pair(s, "t5", 5),
    lambda s: s.settle("t4", False, True),
    lambda s: s.hold_control(hashlib.sha256(b"c1").hexdigest(), b"c1"),
    lambda s: s.settle("t5", True),
    lambda s: keep_pair(s, "t6", 6),
    lambda s: s.settle("t6", False, True),
]


def snapshot(spool: Spool) -> tuple[object, ...]:
    """All that counts: items with their content, residual, version, graph."""
    restored = spool.restored()
    items = tuple((i.task, i.sha256, i.phase, spool.payload(i.task)) for i in restored.items)
    return (
        items,
        spool.residual(N).tobytes(),
        restored.version,
        restored.version_sha256,
        restored.graph_sha256,
        restored.control_sha256,
        variate(spool).tobytes(),
        own_bytes(spool.own()),
    )


def own_bytes(own: Own) -> tuple[object, ...]:
    local, personal = (None if v is None else v.tobytes() for v in (own.local, own.personal))
    state = own.optimizer
    return (
        local,
        personal,
        state and (state.kind, state.count, [vector.tobytes() for vector in state.vectors]),
    )


def reference() -> tuple[list[tuple[object, ...]], list[int]]:
    """The state after every step, and how many disk operations had happened by then."""
    disk = ForgetfulDisk()
    spool = Spool(disk, "run-1")
    states, counts = [snapshot(spool)], [disk.operations]
    for step in STORY:
        step(spool)
        states.append(snapshot(spool))
        counts.append(disk.operations)
    return states, counts


def test_content_is_in_the_residual_or_in_a_payload() -> None:
    spool = Spool(ForgetfulDisk(), "run-1")
    total = np.zeros(N, np.float32)
    kept_sent = np.zeros(N, np.float32)
    for number in range(12):
        keep(spool, f"t{number}", number)
        total += delta(number)
        if number % 3 == 2:
            for item, back in zip(spool.restored().items, (True, False, True), strict=True):
                if not back:
                    decode(spool.payload(item.task), n=N).add_into(kept_sent, 1.0)
                spool.settle(item.task, back)
        waiting = np.zeros(N, np.float32)
        for item in spool.restored().items:
            decode(spool.payload(item.task), n=N).add_into(waiting, 1.0)
        np.testing.assert_allclose(spool.residual(N) + waiting + kept_sent, total, atol=1e-4)
    assert np.abs(kept_sent).max() > 0


def test_what_is_the_devices_own_counts_with_its_update_and_not_before() -> None:
    spool = Spool(ForgetfulDisk(), "run-1")
    spool.hold_graph(hashlib.sha256(b"graph").hexdigest(), b"graph")
    keep(spool, "t1", 1, own_of(10))
    spool.prepare("t2", delta(2), UPLINK, seed=2, version=0, report=as_report, own=own_of(20))
    assert own_bytes(spool.own()) == own_bytes(own_of(10))
    spool.discard("t2")
    assert own_bytes(spool.own()) == own_bytes(own_of(10))
    keep(spool, "t3", 3)  # a task that keeps nothing takes nothing away
    assert own_bytes(spool.own()) == own_bytes(own_of(10))
    keep(spool, "t4", 4, own_of(40, "sgd"))
    assert own_bytes(spool.own()) == own_bytes(own_of(40, "sgd"))


def test_under_another_graph_the_device_begins_anew() -> None:
    spool = Spool(ForgetfulDisk(), "run-1")
    keep(spool, "t1", 1, own_of(10))
    spool.hold_graph(hashlib.sha256(b"another").hexdigest(), b"another")
    assert spool.own() == Own()


def run_until_power_cut(disk: ForgetfulDisk) -> None:
    def everything() -> None:
        spool = Spool(disk, "run-1")
        for change in STORY:
            change(spool)

    with pytest.raises(PowerCut):
        everything()


def test_a_power_cut_at_any_operation_leaves_the_old_state_or_the_new() -> None:
    states, counts = reference()
    tried = 0
    for cut in range(counts[-1]):
        step = next(i for i, count in enumerate(counts[1:]) if cut < count)
        for luck in range(8):
            disk = ForgetfulDisk()
            disk.cut_at = cut
            run_until_power_cut(disk)
            found = snapshot(Spool(disk.after_power_cut(Random(luck)), "run-1"))
            assert found in states[step : step + 2], (
                f"power cut at operation {cut}, in step {step}, luck {luck}"
            )
            assert snapshot(Spool(disk.after_kill(), "run-1")) in states[step : step + 2]
            tried += 1
    assert tried > 300


def test_going_on_after_a_power_cut_needs_no_repair() -> None:
    for cut in range(4, reference()[1][-1], 3):
        disk = ForgetfulDisk()
        disk.cut_at = cut
        run_until_power_cut(disk)
        disk = disk.after_power_cut(Random(cut))
        spool = Spool(disk, "run-1")
        for item in spool.restored().items:
            spool.settle(item.task, True)
        keep(spool, "t9", 9)
        assert [item.task for item in Spool(disk, "run-1").restored().items] == ["t9"]


def refused(change: Callable[[Spool], object], spool: Spool) -> str:
    try:
        change(spool)
    except SpoolError as error:
        return str(error)
    return ""


def test_a_full_disk_changes_nothing_and_passes() -> None:
    found = set()
    for full in range(reference()[1][-1]):
        disk = ForgetfulDisk()
        disk.full_at = full
        spool = Spool(disk, "run-1")
        for number, change in enumerate(STORY):
            before = snapshot(spool)
            if not (problem := refused(change, spool)):
                continue
            assert "No space left" in problem
            found.add(number)
            for task in ("t1", "t2", "t3"):
                spool.discard(task)
            assert snapshot(spool) == before
            assert snapshot(Spool(disk.after_power_cut(Random(full)), "run-1")) == before
            disk.full_at = None
            change(spool)
    assert found == set(range(len(STORY)))


def test_a_directory_that_cannot_be_synced_falls_back_or_stops() -> None:
    class Failing(ForgetfulDisk):
        fail_at = -1
        for_good = False

        def sync(self) -> None:
            if self.operations == self.fail_at or (self.for_good and self.operations > self.fail_at > 0):
                self.operations += 1
                raise OSError(5, "Input/output error")
            super().sync()

    for for_good in (False, True):
        disk = Failing()
        spool = Spool(disk, "run-1")
        keep(spool, "t1", 1)
        before = snapshot(spool)
        spool.prepare("t2", delta(2), UPLINK, seed=2, version=0, report=as_report)
        disk.fail_at, disk.for_good = disk.operations + 2, for_good  # sync, write, and this sync
        with pytest.raises(DiskBroken if for_good else SpoolError):
            spool.commit("t2")
        spool.discard("t2")
        assert snapshot(spool) == before
        if not for_good:
            assert snapshot(Spool(disk.after_power_cut(Random(1)), "run-1")) == before


def test_disk_use_is_bounded() -> None:
    disk = ForgetfulDisk()
    spool = Spool(disk, "run-1")
    largest = 0
    for number in range(40):
        keep(spool, f"t{number}", number)
        hold(spool, number)
        spool.settle(f"t{number}", number % 2 == 0)
        largest = max(largest, disk.bytes_held)
    assert largest < 2 * 4 * N + 2 * 2 * N + 2_000
    assert len(disk.names()) <= 3


def test_the_fifth_update_is_refused() -> None:
    spool = Spool(ForgetfulDisk(), "run-1")
    for number in range(4):
        keep(spool, f"t{number}", number)
    before = snapshot(spool)
    spool.prepare("t4", delta(4), UPLINK, seed=4, version=0, report=as_report)
    with pytest.raises(SpoolError, match="4 updates wait"):
        spool.commit("t4")
    spool.discard("t4")
    assert snapshot(spool) == before


def test_damage_costs_what_is_damaged_and_is_said() -> None:
    disk = ForgetfulDisk()
    spool = Spool(disk, "run-1")
    hold(spool, 0)
    keep(spool, "t1", 1)
    keep(spool, "t2", 2)
    for kind, words in (
        ("update-", "an update"),
        ("model-", "the held model"),
        ("residual-", "the residual"),
    ):
        damaged = disk.after_kill()
        name = next(n for n in damaged.names() if n.startswith(kind))
        content = bytearray(damaged.read(name, 1 << 20))
        content[len(content) // 2] ^= 1
        damaged.write(name, [bytes(content)])
        reopened = Spool(damaged, "run-1")
        assert words in reopened.problems[0]
        keep(reopened, "t3", 3)
    torn = disk.after_kill()
    torn.write("ledger", [torn.read("ledger", 1 << 20)[:-5]])
    assert "ledger" in Spool(torn, "run-1").problems[0]


def test_a_ledger_damaged_anywhere_costs_updates_and_never_the_device() -> None:
    """Names that are no UTF-8 any more, lengths, numbers: the agent starts, says so or goes on, and works."""
    disk = ForgetfulDisk()
    spool = Spool(disk, "run-1")
    for step in STORY[:8]:
        step(spool)
    good = disk.read("ledger", 1 << 20)
    for at, byte in enumerate(good):
        bad = (0xFF, byte ^ 0x80, byte ^ 1)[at % 3]
        damaged = disk.after_kill()
        damaged.write("ledger", [good[:at] + bytes([bad]) + good[at + 1 :]])
        reopened = Spool(damaged, "run-1")
        snapshot(reopened)
        reopened.own()
        keep(reopened, "t9", 9)
        assert "t9" in {item.task for item in Spool(damaged, "run-1").restored().items}, f"byte {at}"


def test_the_state_of_another_run_is_not_taken_over() -> None:
    disk = ForgetfulDisk()
    keep(Spool(disk, "run-1"), "t1", 1)
    other = Spool(disk, "run-2")
    assert other.restored().items == ()
    assert not other.residual(N).any()
    assert "run-1" in other.problems[0]
    assert disk.names() == ["ledger"]


def test_a_model_of_another_size_starts_with_an_empty_residual() -> None:
    spool = Spool(ForgetfulDisk(), "run-1")
    keep(spool, "t1", 1)
    spool.prepare("t2", delta(2, 77), UPLINK, seed=2, version=0, report=as_report)
    spool.commit("t2")
    before = spool.residual(77).copy()
    spool.settle("t1", True)  # nothing it could be added to
    np.testing.assert_array_equal(spool.residual(77), before)


def test_a_delta_that_is_not_finite_is_refused_and_leaves_no_trace() -> None:
    disk = ForgetfulDisk()
    spool = Spool(disk, "run-1")
    bad = delta(1)
    bad[-1] = np.nan
    with pytest.raises(ValueError, match="not_finite"):
        spool.prepare("t1", bad, UPLINK, seed=1, version=0, report=as_report)
    assert disk.names() == []


def test_blocks_of_a_large_residual_agree_with_the_whole(tmp_path: Path) -> None:
    n = 200_000  # more than one block of the disk
    spool = Spool(FolderDisk(tmp_path), "run-1")
    for task, seed in (("t1", 1), ("t2", 2)):
        spool.prepare(task, delta(seed, n), UPLINK, seed=seed, version=0, report=as_report)
        spool.commit(task)
    expected = spool.residual(n)
    decode(spool.payload("t1"), n=n).add_into(expected, 1.0)
    norm = spool.settle("t1", True)
    np.testing.assert_array_equal(spool.residual(n), expected)
    assert norm == pytest.approx(float(np.linalg.norm(expected)), rel=1e-5)
    reopened = Spool(FolderDisk(tmp_path), "run-1")
    np.testing.assert_array_equal(reopened.residual(n), expected)
    assert [(i.task, i.phase) for i in reopened.restored().items] == [("t2", Phase.OFFERED)]


@pytest.mark.parametrize("delay_ms", [3, 17, 40, 90])
def test_a_real_kill_in_the_middle_of_writing(tmp_path: Path, delay_ms: int) -> None:
    """A process that commits and settles as fast as it can is killed; what it printed last must be there."""
    program = textwrap.dedent("""
        import sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        from test_agent_spool import keep
        from edge_agent.disk import FolderDisk
        from edge_agent.spool import Spool
        spool = Spool(FolderDisk(Path(sys.argv[1])), "run-1")
        for number in range(100_000):
            keep(spool, f"t{number}", number)
            print(number, flush=True)
            if number >= 2:
                spool.settle(f"t{number - 2}", number % 2 == 0)
    """)
    paths = os.pathsep.join([os.getcwd(), str(Path(__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    try:
        process.wait(delay_ms / 1000)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    last = int(rest[-1]) if rest else 2
    spool = Spool(FolderDisk(tmp_path), "run-1")
    assert spool.problems == []
    kept = [item.task for item in spool.restored().items]
    assert f"t{last}" in kept or f"t{last + 1}" in kept
    assert 1 <= len(kept) <= 4
    keep(spool, "after", 5)
