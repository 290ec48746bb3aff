"""Faults by hand: the socket, what is refused, and what is answered when a fault is seen to take."""

from __future__ import annotations

import json
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from emulation.control import SOCKET_NAME, Answer, ControlServer, FaultRequest, HealRequest, ask
from emulation.faults import REGISTRY
from emulation.faults.by_hand import ByHand, refusal
from emulation.faults.core import Apply, FaultCore, Heal
from emulation.lease import Lease
from history.writer import HistoryWriter
from topology.plan import FaultPlan, Plan


class Bench:
    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / ("long" * 40)  # longer than the name of a socket may be
        self.armed: list[FaultPlan] = []
        self.core = FaultCore([])
        self.hand = ByHand(
            ControlServer(self.folder),
            self.core,
            HistoryWriter(tmp_path / "history.jsonl", "hostd"),
            refuse=lambda request: "no" if request.kind == "flood" else "",
            arm=self.armed.extend,
        )

    def asked(self, request: Any) -> tuple[threading.Thread, list[Answer]]:
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(ask(self.folder, request, 10)))
        thread.start()
        return thread, answers

    def turn(self) -> list[Apply | Heal]:
        """Turns until something was asked for."""
        for _ in range(100_000):
            if found := self.hand.poll(1.0):
                return found
        raise AssertionError("nobody asked")


def test_only_its_owner_may_ask(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    mode = (bench.folder / SOCKET_NAME).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    bench.hand.close()
    assert not (bench.folder / SOCKET_NAME).exists()


def test_a_fault_by_hand_is_armed_struck_and_answered_when_it_is_seen(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    thread, answers = bench.asked(FaultRequest(kind="kill", targets=("a",), heal_after_s=5.0))
    (apply,) = bench.turn()
    assert isinstance(apply, Apply)
    assert (apply.fault.id, apply.fault.targets, apply.fault.trigger.text) == ("by-hand-1", ("a",), "by hand")
    assert bench.armed == [apply.fault]
    assert thread.is_alive()
    bench.hand.settled("by-hand-1", True, "a: exited")
    thread.join(10)
    assert answers == [Answer(ok=True, detail="a: exited", fault="by-hand-1")]
    thread, answers = bench.asked(HealRequest(fault="by-hand-1"))
    assert bench.turn() == [Heal(apply.fault)]
    thread.join(10)
    assert answers[0].ok
    bench.hand.close()


@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"{}\n",
        b'{"op": "fault"}\n',
        b"\xff\xfe\n",
        b'{"op":"fault","kind":"x","targets":[]}\n',
        b"x" * 300_000,
    ],
)
def test_what_is_no_request_is_answered_and_nothing_happens(tmp_path: Path, content: bytes) -> None:
    bench = Bench(tmp_path)
    with socket.socket(socket.AF_UNIX) as client:
        # The folder's name is too long for a socket's; relative to an open folder it is not.
        import os

        handle = os.open(bench.folder, os.O_RDONLY)
        client.connect(f"/proc/self/fd/{handle}/{SOCKET_NAME}")
        os.close(handle)
        sender = threading.Thread(target=client.sendall, args=(content,))
        sender.start()
        received = b""
        client.settimeout(0.01)
        while not received.endswith(b"\n"):
            assert bench.hand.poll(1.0) == []
            try:
                piece = client.recv(65_536)
            except TimeoutError:
                continue
            except ConnectionResetError:
                break  # it was told, and hung up on what it still had to say
            if not piece:
                break
            received += piece
        sender.join(10)
    assert not received or json.loads(received)["ok"] is False
    assert bench.armed == []
    bench.hand.close()


def test_refusals_and_unknown_faults_are_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for request, says in (
        (FaultRequest(kind="flood", targets=("a",)), "no"),
        (HealRequest(fault="x"), "in force: none"),
    ):
        thread, answers = bench.asked(request)
        while thread.is_alive():
            assert bench.hand.poll(1.0) == []
            thread.join(0.001)
        assert not answers[0].ok
        assert says in answers[0].detail
    bench.hand.close()


def test_whoever_waits_is_told_that_the_run_has_ended(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    thread, answers = bench.asked(FaultRequest(kind="kill", targets=("a",)))
    bench.turn()
    bench.hand.close()
    thread.join(10)
    assert "ended" in answers[0].detail


@pytest.mark.parametrize(
    ("kind", "targets", "says"),
    [
        ("flood", ("d0",), "no fault is called"),
        ("kill", ("d9",), "cannot hit d9"),
        ("partition", ("broker",), "cannot hit broker"),
        ("pause", ("hostd",), "cannot hit hostd"),
        ("link_change", ("d0",), "nothing would change"),
        ("kill", ("hostd", "broker", "d0"), ""),
        ("poison", ("d1",), ""),
    ],
)
def test_hostd_refuses_what_the_plan_says_is_impossible(
    kind: str, targets: tuple[str, ...], says: str
) -> None:
    found = refusal(small_plan(), REGISTRY, FaultRequest(kind=kind, targets=targets))
    assert says in found if says else not found


def small_plan() -> Plan:
    from hostd_rig import make_plan

    return make_plan()


def test_a_lease_lapses_with_the_lock_and_without_a_file_it_cannot_be_known(tmp_path: Path) -> None:
    from compose.session import RunnerLock

    lock, seen = RunnerLock(tmp_path), tmp_path / "seen"
    lease = Lease(tmp_path / "runner.lock", seen)
    assert not lease.lapsed()
    lock.release()
    assert lease.lapsed()
    assert Lease(tmp_path / "runner.lock", seen).lapsed()  # a hostd that starts again remembers
    assert not Lease(
        tmp_path / "runner.lock"
    ).lapsed()  # never seen held: a lock that does not reach this far
    assert not Lease(None).lapsed()
    assert not Lease(tmp_path / "nothing", seen).lapsed()
