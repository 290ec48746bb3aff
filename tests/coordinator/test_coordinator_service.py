"""The whole coordinator as a process against a real broker, with scripted agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.broker import free_port
from support.coordinator_rig import Rig, check_run, until
from support.mqtt_agent import REPORT
from support.rig_root import make_plan

from wire import messages as m
from wire import topics


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**changes: Any) -> Rig:
        made.append(Rig(tmp_path, make_plan(3, **changes)))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


def test_a_run_from_start_to_finish(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.start()
    rig.connect()
    assert rig.wait() == 0
    check_run(rig, versions=3)
    assert (rig.folder / "alive").exists()
    assert [event["reason"] for event in rig.events("round_closed")] == ["complete"] * 3
    assert [event["version"] for event in rig.events("evaluated")] == [0, 1, 2, 3]
    assert all(agent.finished.is_set() for agent in rig.agents)
    received = rig.events("update_received")
    assert all(event["payload_bytes"] > event["bytes"] for event in received)
    published = rig.events("version_published")
    assert published[0]["objects"][0]["name"] == "v0"


def test_what_makes_no_sense_is_recorded_with_its_sender_and_harms_nobody(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig()
    hostile = rig.agents[0]
    rig.start()
    rig.connect()
    until(rig.seen("round_opened"), "a round")
    for kind in (
        "hello",
        "offer",
        "progress",
        "failed",
        "ask",
        "nonsense",
        "update/r1-t1/0",
        "update/r1-t1/x",
    ):
        for payload in (b"", b"\xc1garbage", b"\x81" * 3_000, bytes(70_000)):
            hostile.publish(f"rig/run-1/up/{hostile.name}/{kind}", payload)
    hostile.publish(topics.status("run-1", hostile.name), b"\xff\xff")
    hostile.publish(f"rig/run-1/up/{hostile.name}/hello", m.encode(m.Ask(tasks=())))
    hostile.send(m.Offer(task="r9-t999", sha256="0" * 64, bytes=10, report=REPORT))
    hostile.send(m.Failed(task="r1-t2", reason="not mine"))
    assert rig.wait() == 0
    check_run(rig, versions=3)
    refused = rig.events("message_refused")
    assert {event["agent"] for event in refused} <= {hostile.name, ""}
    assert {"malformed", "unknown_topic", "wrong_topic", "too_large"} <= {
        event["reason"] for event in refused
    }
    assert sum(event["count"] for event in refused) >= 20


def test_a_coordinator_killed_in_a_round_goes_on_with_it(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(policy={"quorum": 1.0})
    slow = rig.agents[2]
    train, slow.update = slow.update, lambda task: None
    rig.start()
    rig.connect()
    until(rig.seen("update_acked", 2), "two acks")
    assert rig.process is not None
    rig.process.kill()
    rig.process.wait()
    slow.update = train
    rig.start()
    assert rig.wait() == 0
    check_run(rig, versions=3)
    assert [event["epoch"] for event in rig.events("run_started")] == [1, 2]
    assert {task.task for task in rig.agents[0].tasks if task.round == 1} == {rig.agents[0].tasks[0].task}


def test_a_broker_that_forgot_everything_is_taught_again(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(policy={"quorum": 1.0})
    slow = rig.agents[1]
    train, slow.update = slow.update, lambda task: None
    rig.start()
    rig.connect()
    until(rig.seen("update_acked", 2), "two acks")
    rig.broker.kill()
    slow.update = train
    rig.broker.start()
    assert rig.wait() == 0
    check_run(rig, versions=3)


def test_an_agent_killed_with_its_task_gets_it_again(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(policy={"quorum": 1.0})
    victim = rig.agents[0]
    train, victim.update = victim.update, lambda task: None
    rig.start()
    rig.connect()
    until(lambda: victim.tasks, "a task for the victim")
    victim.die()
    until(rig.seen("agent_offline"), "the last will")
    victim.update = train
    victim.connect()
    assert rig.wait() == 0
    check_run(rig, versions=3)
    assert len({task.task for task in victim.tasks if task.round == 1}) == 1
    assert len([task for task in victim.tasks if task.round == 1]) == 2


def test_sigterm_ends_cleanly_and_the_next_start_goes_on(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(policy={"quorum": 1.0})
    train, rig.agents[0].update = rig.agents[0].update, lambda task: None
    rig.start()
    rig.connect()
    until(rig.seen("update_acked", 2), "two acks")
    assert rig.process is not None
    rig.process.terminate()
    assert rig.wait() == 143
    rig.agents[0].update = train
    rig.start()
    assert rig.wait() == 0
    check_run(rig, versions=3)


def failure_of(rig: Rig) -> str:
    assert rig.wait() == 3
    assert rig.process is not None
    assert rig.process.stderr is not None
    return rig.process.stderr.read()


def test_a_broker_that_is_not_there(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    nobody = free_port()
    rig.start("--broker-port", str(nobody), "--connect-timeout", "1")
    said = failure_of(rig)
    assert f"127.0.0.1:{nobody} cannot be reached" in said
    assert "awaited: a connection within 1 s" in said


def test_a_broker_that_refuses(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    (rig.root / "private" / "coordinator" / "password").write_text("wrong")
    rig.start()
    said = failure_of(rig)
    assert "refuses us" in said
    assert "wrong" not in said, "no secret in a message"


def test_another_runs_journal(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.start()
    until(rig.seen("run_started"), "a start")
    assert rig.process is not None
    rig.process.kill()
    rig.process.wait()
    plan = (rig.root / "plan.json").read_bytes()
    (rig.root / "plan.json").write_bytes(plan.replace(b'"run-1"', b'"run-2"'))
    rig.start()
    assert "another run's journal" in failure_of(rig)
