"""Bad input to the coordinator: each a counted reason that names its sender, and the loop goes on."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from coordinator_world import REPORT, make_config, sha
from test_coordinator_stories import S, Stage, of, sent

from coordinator import actions as a
from coordinator import events as e
from coordinator.inbound import OVER_MAX, Complete, Inbound
from coordinator.inbox import Delivery
from wire import chunks, topics
from wire import messages as m

UPDATE = bytes(range(256)) * 40
SHA = hashlib.sha256(UPDATE).hexdigest()
HELLO = m.encode(m.Hello(boot="b1"))


class Door:
    """An inbound with one grant, and what it refused: (agent, reason)."""

    def __init__(self) -> None:
        self.refused: list[tuple[str, str]] = []
        self.inbound = Inbound(
            "r", bytes_max=30_000, objects_max=3, defect_of=lambda _payload: "",
            refuse=lambda agent, _topic, reason, _size: self.refused.append((agent, reason)),
        )  # fmt: skip
        self.inbound.grant("d-0", "t1", SHA, len(UPDATE))

    def take(self, topic: str, payload: bytes, now: float = 0.0) -> object:
        return self.inbound.take(Delivery(topic, payload, retained=False), now)

    def chunk(
        self, index: int, message: bytes, task: str = "t1", agent: str = "d-0", now: float = 0.0
    ) -> object:
        return self.take(topics.chunk("r", agent, task, index), message, now)


def cut(index: int, size: int = 3_000) -> bytes:
    return chunks.split(UPDATE, size)[index]


@pytest.mark.parametrize(
    ("topic", "payload", "refused"),
    [
        ("rig/other/up/d-0/hello", HELLO, ("d-0", "wrong_run")),
        ("rig/other/up/d-0/update/t1/0", cut(0), ("d-0", "wrong_run")),
        ("rig/r/up/d-0/nonsense", HELLO, ("d-0", "unknown_topic")),
        ("rig/r/up/d-0/update/t1/x", cut(0), ("d-0", "unknown_topic")),
        ("rig/r/model/v1/0", b"", ("", "unknown_topic")),
        ("elsewhere", b"", ("", "unknown_topic")),
        ("rig/r/up/d-0/offer", HELLO, ("d-0", "wrong_topic")),
        ("rig/r/up/d-0/hello", HELLO[:-1], ("d-0", "malformed")),
        ("rig/r/up/d-0/hello", bytes(70_000), ("d-0", "too_large")),
        ("rig/r/up/d-0/hello", msgspec.msgpack.encode({"type": "hello", "v": 9}), ("d-0", "version")),
        ("rig/r/up/d-0/hello", msgspec.msgpack.encode({"type": "greeting", "v": 9}), ("d-0", "version")),
    ],
)
def test_a_message_that_makes_no_sense_names_its_sender(
    topic: str, payload: bytes, refused: tuple[str, str]
) -> None:
    door = Door()
    assert door.take(topic, payload) is None
    assert door.refused == [refused]


@pytest.mark.parametrize("payload", [b"\xff\xfe", HELLO, bytes(70_000)])
def test_a_status_that_makes_no_sense_is_refused_and_told(payload: bytes) -> None:
    door = Door()
    assert door.take("rig/r/status/d-0", payload) == e.StatusRefused(agent="d-0")
    assert len(door.refused) == 1


def test_a_device_with_an_unreadable_last_will_is_gone_until_it_says_hello() -> None:
    stage = Stage(make_config(3))
    stage.everybody()
    agent = stage.core.state.agents["d-1"]
    assert agent.online
    stage.feed(e.StatusRefused(agent="d-1"))
    assert not agent.online
    assert [
        action.fields["agent"] for action in stage.done if getattr(action, "event", "") == "agent_offline"
    ] == ["d-1"]
    assert any(isinstance(getattr(action, "message", None), m.Resync) for action in stage.done)
    stage.say("d-1", m.Hello(boot="b2"))
    assert agent.online
    stage.feed(e.StatusRefused(agent="nobody"))


def test_a_resend_of_a_complete_update_is_nobodys_fault_and_other_bytes_are() -> None:
    door = Door()
    done = [door.chunk(i, piece) for i, piece in enumerate(chunks.split(UPDATE, 3_000))]
    assert isinstance(done[-1], Complete)
    assert door.chunk(0, cut(0)) is None
    assert (door.inbound.duplicates, door.refused) == (1, [])
    assert door.chunk(0, chunks.split(UPDATE[::-1], 3_000)[0]) is None
    assert door.refused == [("d-0", "other_content")]


def test_a_chunk_of_a_cancelled_task_and_of_one_that_never_was() -> None:
    door = Door()
    door.chunk(0, cut(0))
    door.inbound.drop("d-0", "t1")
    assert door.chunk(1, cut(1)) is None
    assert door.chunk(0, cut(0), task="t9") is None
    assert door.chunk(0, cut(0), agent="d-1") is None, "another agent's grant is none"
    assert door.refused == [("d-0", "closed_task"), ("d-0", "not_granted"), ("d-1", "not_granted")]
    door.inbound.grant("d-0", "t1", SHA, len(UPDATE))
    assert door.chunk(1, cut(1)) is not None, "granted anew it is welcome"


def test_two_chunks_that_disagree_and_sizes_that_lie() -> None:
    door = Door()
    door.chunk(0, cut(0))
    digest = bytes.fromhex(SHA)
    door.chunk(0, chunks.cut(bytes(len(UPDATE)), 3_000, 0, digest))  # the same place, other bytes
    door.chunk(1, chunks.cut(UPDATE, 2_000, 1, digest))  # the same object, cut differently
    door.chunk(0, chunks.cut(UPDATE + b"!", 3_000, 0, digest))  # longer than was offered
    door.chunk(0, b"")
    door.chunk(0, b"EC" + bytes(60))
    door.chunk(2, cut(3))
    assert [agent for agent, _ in door.refused] == ["d-0"] * 6
    assert [reason for _, reason in door.refused] == [
        "disagree", "geometry", "not_granted", "malformed", "not_granted", "wrong_topic",
    ]  # fmt: skip
    rest = [door.chunk(i, piece) for i, piece in enumerate(chunks.split(UPDATE, 3_000))]
    assert isinstance(rest[-1], Complete), "none of it has done any harm"
    assert rest[-1].payload == UPDATE


def test_an_assembly_that_nobody_goes_on_with_gives_its_memory_back_and_can_begin_again() -> None:
    door = Door()
    door.chunk(0, cut(0), now=0.0)
    assert door.inbound.expire(600.0) == 0
    assert door.inbound.expire(601.0) == 1
    assert door.refused == [("d-0", "expired")]
    assert door.inbound.grant("d-0", "t1", SHA, len(UPDATE)) is None, "all of it is missing"
    done = [door.chunk(i, piece, now=700.0) for i, piece in enumerate(chunks.split(UPDATE, 3_000))]
    assert isinstance(done[-1], Complete)


def test_what_is_remembered_of_closed_tasks_is_bounded() -> None:
    door = Door()
    for number in range(OVER_MAX + 10):
        door.inbound.grant("d-0", f"x{number}", SHA, len(UPDATE))
        door.inbound.drop("d-0", f"x{number}")
    assert len(door.inbound._over) == OVER_MAX
    door.chunk(0, cut(0), task="x0")
    assert door.refused[-1] == ("d-0", "not_granted")


# --- the core ------------------------------------------------------------------------------------------------------


def test_an_update_for_a_version_long_gone_is_told_so_and_never_granted() -> None:
    stage = Stage(rounds=30)
    stage.everybody()
    old = stage.task("d-0")
    stage.offline("d-0")
    stage.give("d-1")
    stage.give("d-2")
    stage.wait(6.0)  # the round closes without it
    assert stage.core.state.tasks[old].ended
    back = stage.hello("d-0", boot="b2", spool=(m.SpoolItem(task=old, sha256=sha(old), bytes=500),))
    assert sent(back, m.Cancel, "d-0")[0].task == old
    assert not of(back, a.SendGrant, task=old)
    late = stage.say("d-0", m.Offer(task=old, sha256=sha(old), bytes=500, report=REPORT))
    assert sent(late, m.Cancel, "d-0")[0].task == old
    assert not of(late, a.SendGrant)


def test_an_update_for_a_task_that_nobody_remembers_is_counted_and_cancelled() -> None:
    stage = Stage()
    stage.everybody()
    gone = stage.say("d-0", m.Offer(task="r0-t0", sha256=sha("x"), bytes=9, report=REPORT))
    assert of(gone, a.Refused, agent="d-0", reason="unknown_task")
    assert sent(gone, m.Cancel, "d-0")[0].task == "r0-t0"


def test_a_device_that_went_away_with_its_grant_does_not_hold_up_the_others() -> None:
    stage = Stage(open_grant_bytes_max=1_000)
    stage.everybody()
    task = stage.task("d-2")
    assert of(stage.offer("d-2", size=900), a.SendGrant, agent="d-2")
    stage.offline("d-2")
    assert not of(stage.offer("d-0", size=900), a.SendGrant), "it may be back in a moment"
    stage.now += 5.1
    taken = stage.offer("d-0", size=900)
    assert [x.agent for x in of(taken, a.SendGrant)] == ["d-0"]
    assert of(taken, a.DropAssembly, agent="d-2", task=task)
    assert stage.state(task) is S.OFFERED
    assert not of(stage.offer("d-1", size=900), a.SendGrant), "d-0 is here and keeps its room"
    done = stage.receive("d-0")
    assert [x.agent for x in of(done, a.SendGrant)] == ["d-1"], "who is here goes before who is away"
    stage.hello("d-2", spool=(m.SpoolItem(task=task, sha256=sha(task), bytes=900),))
    assert [x.agent for x in of(stage.receive("d-1"), a.SendGrant)] == ["d-2"]


def test_when_only_devices_that_are_away_wait_nothing_turns_in_circles() -> None:
    stage = Stage(open_grant_bytes_max=1_000, policy={"deadline_s": 300.0})
    stage.everybody()
    for name in ("d-0", "d-1", "d-2"):
        stage.offer(name, size=900)
        stage.offline(name)
    stage.now += 20.0
    for name in ("d-0", "d-1", "d-2"):
        stage.hello(
            name, spool=(m.SpoolItem(task=stage.task(name), sha256=sha(stage.task(name)), bytes=900),)
        )
        stage.offline(name)
    assert len(stage.core.state.grants) == 1
