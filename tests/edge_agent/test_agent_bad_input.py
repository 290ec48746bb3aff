"""A hostile coordinator: whatever it sends is counted by reason, changes nothing it must not, and kills no agent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from agent_builders import SHA, Driver, grant, names, only, report, task

from edge_agent import actions as a
from edge_agent import events as e
from edge_agent import mqtt
from edge_agent.core import AgentCore
from edge_agent.disk import FolderDisk
from edge_agent.fetch import Fetch
from edge_agent.service import AgentService
from edge_agent.spool import Spool
from topology.plan import AgentConfig
from wire import chunks, topics
from wire import messages as m

MODEL = bytes(range(256)) * 40
CONFIG = AgentConfig(
    run="r", agent="d", broker_host="b", broker_port=1, username="d", password_file="", shard="", state=""
)


def refused(d: Driver) -> dict[str, int]:
    return dict(d.core.state.refused)


def test_a_replayed_ack_is_counted_and_settles_nothing_twice() -> None:
    d = Driver()
    d.offered()
    d.acked()
    assert names(d.acked()) == []
    assert refused(d) == {"repeated": 1}
    d.message(m.Outcome(task="t1", sha256=SHA["b"], outcome="merged"))
    d.settled()
    assert names(d.acked()) == [], "an ack of a task that is over"
    assert refused(d) == {"repeated": 1, "unknown_task": 1}


def test_a_replayed_outcome_gives_nothing_back_twice() -> None:
    d = Driver()
    d.offered()
    d.acked()
    first = d.message(m.Outcome(task="t1", sha256=SHA["b"], outcome="late"))
    again = d.message(m.Outcome(task="t1", sha256=SHA["b"], outcome="late"))
    other = d.message(m.Outcome(task="t1", sha256=SHA["b"], outcome="refused"))
    assert len(only(first, a.Settle)) == 1
    assert only([*again, *other], a.Settle) == []


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (grant("t9"), "unknown_task"),
        (grant("t1", sha="c"), "other_content"),
        (m.Ack(task="t1", sha256=SHA["c"]), "other_content"),
        (m.Ack(task="t9", sha256=SHA["b"]), "unknown_task"),
    ],
)
def test_messages_about_what_was_never_offered(message: m.Down, reason: str) -> None:
    d = Driver()
    d.offered()
    assert names(d.message(message)) == []
    assert refused(d) == {reason: 1}


def test_a_grant_whose_chunks_no_receiver_would_take() -> None:
    d = Driver()
    d.message(task("t1"))
    d.fetched()
    d.trained()
    d.feed(e.Encoded(task="t1", sha256=SHA["b"], bytes=1 << 26, report=report()))
    d.spooled()
    assert only(d.message(grant("t1")), a.StartUpload) == [], "2^26 bytes in chunks of 256 are too many"
    assert refused(d) == {"sizes": 1}


def test_chunks_named_as_missing_that_do_not_exist_are_not_sent() -> None:
    d = Driver()
    d.offered()
    (start,) = only(d.message(grant("t1", missing=(0, 3, 99, 65_000, 0))), a.StartUpload)
    assert start.missing == (0, 3)


def test_a_flood_of_nonsense_is_recorded_once_a_reason() -> None:
    d = Driver()
    for number in range(500):
        d.message(m.Ack(task=f"x{number}", sha256=SHA["b"]))
        d.message(m.Cancel(task=f"y{number}"))
    assert refused(d)["unknown_task"] == 500
    assert len([x for x in d.log if isinstance(x, a.Record) and x.event == "message_refused"]) == 1
    assert len(d.core.state.ended) <= d.core.limits.done_max


# --- downloads -----------------------------------------------------------------------------------------------------


def fetching() -> Fetch:
    pieces = chunks.split(MODEL, 3_000)
    digest = hashlib.sha256(MODEL).hexdigest()
    ref = m.ObjectRef(name="v1", bytes=len(MODEL), chunks=len(pieces), sha256=digest)
    return Fetch("t1", ref, None, None, 1_000_000, 0.0)


def test_two_chunks_of_a_model_that_disagree_and_sizes_that_lie() -> None:
    fetch, digest = fetching(), hashlib.sha256(MODEL).digest()
    assert fetch.chunk(0, chunks.split(MODEL, 3_000)[0], 0.0) == ""
    assert fetch.chunk(0, chunks.cut(bytes(len(MODEL)), 3_000, 0, digest), 0.0) == "disagree"
    assert fetch.chunk(1, chunks.cut(MODEL, 2_600, 1, digest), 0.0) == "geometry"
    assert fetch.chunk(1, chunks.cut(MODEL + b"!", 3_000, 1, digest), 0.0) == "geometry"
    assert fetch.chunk(1, b"EC", 0.0) == "malformed"
    for index, piece in enumerate(chunks.split(MODEL, 3_000)):
        fetch.chunk(index, piece, 0.0)
    assert fetch.payload == MODEL


def test_a_model_that_is_not_what_was_announced_fails_by_name() -> None:
    fetch, digest = fetching(), hashlib.sha256(MODEL).digest()
    forged = bytes(len(MODEL))
    for index in range(4):
        fetch.chunk(index, chunks.cut(forged, 3_000, index, digest), 0.0)
    assert fetch.payload is None
    assert fetch.failure.startswith("sha256")


# --- the whole service ---------------------------------------------------------------------------------------------


class Deaf:
    """A client that is connected to nobody."""

    def start(self) -> None: ...
    def stop(self, farewell: tuple[str, bytes], wait_s: float) -> None: ...
    def subscribe(self, topics: Sequence[str]) -> None: ...
    def unsubscribe(self, topics: Sequence[str]) -> None: ...
    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> int | None:
        return 1


class Idle:
    def start(self) -> None: ...
    def submit(self, job: object) -> None: ...
    def stop(self, task: str) -> None: ...
    def discard(self, task: str) -> None: ...
    def close(self, wait_s: float) -> bool:
        return True


class Lines:
    def __init__(self) -> None:
        self.found: list[tuple[str, dict[str, Any]]] = []

    def append(self, event: str, *, durable: bool = False, **fields: Any) -> None:
        self.found.append((event, fields))

    def sync(self) -> None: ...


def service_of(lines: Lines, spool: Spool) -> AgentService:
    core = AgentCore(boot="b1", samples=1)
    return AgentService(
        CONFIG, core, spool, lines, make_client=lambda _post: Deaf(), make_worker=lambda _post: Idle(),
        clock=lambda: 100.0,
    )  # fmt: skip


def test_bytes_that_are_no_messages_are_counted_by_reason_and_the_loop_goes_on(tmp_path: Path) -> None:
    lines = Lines()
    service = service_of(lines, Spool(FolderDisk(tmp_path / "spool"), "r"))
    service.take(mqtt.Up(session_present=False))
    ack = m.encode(m.Ack(task="t1", sha256=SHA["b"]))
    rng = np.random.default_rng(1)
    hostile = [
        (topics.down("r", "d", "ack"), b"", "malformed"),
        (topics.down("r", "d", "ack"), ack[:-3], "malformed"),
        (topics.down("r", "d", "grant"), ack, "wrong_topic"),
        (topics.down("r", "d", "ack"), msgspec.msgpack.encode({"type": "ack", "v": 7}), "version"),
        (topics.down("r", "d", "ack"), bytes(70_000), "too_large"),
        (topics.down("r", "d", "task"), m.encode(m.Hello(boot="b1")), "malformed"),
        (topics.model("r", "v1", 0) + "x", b"", "topic"),
    ]
    for topic, payload, _ in hostile:
        service.take(mqtt.Message(topic, payload))
    for _ in range(200):
        service.take(mqtt.Message(topics.down("r", "d", "ack"), rng.bytes(int(rng.integers(80)))))
    service.take(mqtt.Message(topics.model("r", "v1", 0), rng.bytes(100)))
    reasons = [fields["reason"] for event, fields in lines.found if event == "message_refused"]
    assert {reason for _, _, reason in hostile} <= set(reasons)
    assert len(reasons) <= 20, "a flood leaves a dozen lines"
    service.take(mqtt.Message(topics.down("r", "d", "finish"), m.encode(m.Finish(reason="done"))))
    assert service.stop_reason == "done"
