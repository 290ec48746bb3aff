"""Updates that come within their offer: room is kept for them, never more than there is, and nothing else changes."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
from coordinator_world import REPORT, make_config, sha
from test_coordinator_bad_input import Door
from test_coordinator_http import LookedAt, get
from test_coordinator_stories import S, Stage, of, recorded, sent

from coordinator import actions as a
from coordinator import events as e
from coordinator import merge
from coordinator.config import LinkBudget
from coordinator.decisions import pack_state, unpack_state
from coordinator.inbound import Complete
from topology.plan import UplinkPlan
from topology.plan.compression import AdaptivePlan
from wire import messages as m
from wire.codecs import make_chain, uplink_spec

ROOM = 562  # of an update of 500 bytes, and an eighth


def whole(stage: Stage, agent: str, size: int = 500, content: str = "", task: str = "") -> e.OfferedWhole:
    task = task or stage.task(agent)
    offer = m.Offer(task=task, sha256=sha(content or task), bytes=size, report=REPORT)
    received = e.UpdateReceived(
        agent=agent, task=task, sha256=offer.sha256, bytes=size, payload_bytes=size + 300, chunks=0
    )
    return e.OfferedWhole(offer=offer, received=received)


def second_round(**changes: object) -> Stage:
    """Everybody has given one update of 500 bytes and was given the next task."""
    stage = Stage(**changes)
    stage.everybody()
    for name in stage.config.agents:
        stage.give(name)
    assert all(stage.task(name).startswith("r2") for name in stage.config.agents)
    return stage


def room_of(stage: Stage, agent: str) -> int:
    (task,) = of(stage.done, a.SendTask, task=stage.task(agent))
    return int(task.inline_bytes)


def test_the_first_update_asks_and_the_next_has_its_room() -> None:
    stage = Stage()
    stage.everybody()
    assert room_of(stage, "d-0") == 0
    stage = second_round()
    assert [room_of(stage, name) for name in stage.config.agents] == [ROOM] * 3
    assert stage.core.state.reserved_bytes == 3 * ROOM


def test_it_is_journalled_and_acked_without_a_grant_being_sent() -> None:
    stage = second_round()
    task = stage.task("d-0")
    done = stage.feed(whole(stage, "d-0"))
    (journalled,) = of(done, a.JournalUpdate)
    assert (journalled.task, journalled.sha256, journalled.bytes) == (task, sha(task), 500)
    assert sent(done, m.Ack, "d-0") == [m.Ack(task=task, sha256=sha(task))]
    assert not of(done, a.SendGrant)
    assert recorded(done, "update_received")[0]["chunks"] == 0
    assert stage.core.state.reserved_bytes == 2 * ROOM
    assert stage.core.state.granted_bytes == 0
    again = stage.feed(whole(stage, "d-0", task=task))
    assert sent(again, m.Ack, "d-0"), "a redelivered one is acked again"
    assert not of(again, a.JournalUpdate)


def test_all_of_them_make_the_version() -> None:
    stage = second_round()
    for name in list(stage.config.agents)[:2]:
        stage.feed(whole(stage, name))
    (commit,) = of(stage.feed(whole(stage, "d-2")), a.CommitVersion)
    assert [item.agent for item in commit.updates] == ["d-0", "d-1", "d-2"]


@pytest.mark.parametrize("size", [ROOM + 1, 5_000])
def test_a_larger_one_is_a_mere_offer(size: int) -> None:
    stage = second_round()
    done = stage.feed(whole(stage, "d-0", size))
    assert not of(done, a.JournalUpdate)
    assert of(done, a.SendGrant, agent="d-0", bytes=size)
    assert stage.core.state.reserved_bytes == 2 * ROOM


def test_without_room_it_is_a_mere_offer() -> None:
    stage = Stage()
    stage.everybody()
    done = stage.feed(whole(stage, "d-0"))
    assert not of(done, a.JournalUpdate)
    assert of(done, a.SendGrant, agent="d-0")
    again = stage.feed(whole(stage, "d-0"))
    assert not of(again, a.JournalUpdate), "its bytes come against the grant, or not at all"


def test_an_offer_that_comes_without_gives_the_room_back_and_waits_for_a_grant() -> None:
    stage = second_round()
    assert of(stage.offer("d-0"), a.SendGrant, agent="d-0")
    assert stage.core.state.reserved_bytes == 2 * ROOM
    assert of(stage.receive("d-0"), a.JournalUpdate)


def test_a_hello_voids_the_room() -> None:
    """It was told of it on a connection that may be gone, and does not go by it any more."""
    stage = second_round()
    task = stage.task("d-0")
    stage.hello("d-0", task=task)
    assert task not in stage.core.state.reserved
    assert not of(stage.feed(whole(stage, "d-0")), a.JournalUpdate)


def test_a_task_that_is_sent_again_from_the_start_has_room_again() -> None:
    stage = second_round()
    (again,) = of(stage.hello("d-0", boot="b2"), a.SendTask, agent="d-0")
    assert again.inline_bytes == ROOM
    assert stage.core.state.reserved_bytes == 3 * ROOM


def test_a_task_that_ends_gives_the_room_back() -> None:
    stage = second_round()
    task = stage.task("d-0")
    assert task in stage.core.state.reserved
    stage.say("d-0", m.Failed(task=task, reason="no memory"))
    assert stage.state(task) is S.FAILED
    assert set(stage.core.state.reserved) == {stage.task(name) for name in stage.config.agents} - {task}


def test_another_agents_room_is_of_no_use() -> None:
    stage = second_round()
    done = stage.feed(whole(stage, "d-1", task=stage.task("d-0")))
    assert not of(done, a.JournalUpdate)
    assert of(done, a.Refused, agent="d-1", reason="not_its_task")
    assert stage.task("d-0") in stage.core.state.reserved


def test_no_more_is_kept_than_a_share_of_the_budget() -> None:
    stage = second_round(open_grant_bytes_max=1_600)  # three quarters: 1,200
    assert sorted(room_of(stage, name) for name in stage.config.agents) == [0, ROOM, ROOM]
    waiting = next(name for name in stage.config.agents if not room_of(stage, name))
    assert of(stage.offer(waiting, size=476), a.SendGrant, agent=waiting), "what is left is for who asks"


def test_a_grant_waits_for_room_that_is_kept_and_takes_that_of_who_went_away() -> None:
    stage = second_round(open_grant_bytes_max=1_600, policy={"quorum": 1.0})
    asks = next(name for name in stage.config.agents if not room_of(stage, name))
    first, second = (name for name in stage.config.agents if name != asks)
    assert of(stage.offer(first), a.SendGrant)  # 500 granted, 562 kept
    assert not of(stage.offer(asks, size=700), a.SendGrant)
    stage.offline(second)
    assert stage.core.state.reserved
    assert of(stage.wait(6.0), a.SendGrant, agent=asks), "without asking again"
    assert not stage.core.state.reserved


def test_who_waits_gets_the_room_that_was_kept_for_a_task_that_ends() -> None:
    stage = second_round(open_grant_bytes_max=1_600, policy={"quorum": 0.5, "carry_over": True})
    asks = next(name for name in stage.config.agents if not room_of(stage, name))
    first, second = (name for name in stage.config.agents if name != asks)
    stage.now += 10.0
    stage.say(first, m.Failed(task=stage.task(first), reason="no memory"))  # and is given a younger one
    assert of(stage.offer(first), a.SendGrant)
    assert not of(stage.offer(asks, size=700), a.SendGrant)
    stage.core.state.tasks[stage.task(second)].expires = stage.now + 5.0
    assert of(stage.wait(5.0), a.SendGrant, agent=asks)


def test_what_does_not_fit_into_a_chunk_asks() -> None:
    for chunk_bytes, room in ((ROOM, ROOM), (ROOM - 1, 0)):
        links = dict.fromkeys(["d-0", "d-1", "d-2"], LinkBudget(chunk_bytes, 16_000))
        stage = second_round(config=msgspec.structs.replace(make_config(3), agents=links))
        assert room_of(stage, "d-0") == room


def test_who_is_to_be_met_on_the_way_asks() -> None:
    stage = second_round(always_ask=frozenset({"d-1"}))
    assert [room_of(stage, name) for name in stage.config.agents] == [ROOM, 0, ROOM]


def test_compression_that_measures_the_uplink_asks() -> None:
    adaptive = AdaptivePlan(fraction_min=0.01, fraction_max=0.1)
    assert room_of(second_round(uplink=UplinkPlan(adaptive=adaptive)), "d-0") == 0


def test_room_that_is_kept_is_in_the_metrics() -> None:
    """Else nobody sees why an offer waits while little is granted."""
    _, _, body = get("/metrics", LookedAt(second_round()))
    assert f"edgerig_reserved_bytes {3 * ROOM}\n" in body.decode()


def test_the_state_with_kept_room_comes_back_from_a_recording() -> None:
    state = second_round().core.state
    assert unpack_state(pack_state(state)).reserved == state.reserved


# --- at the door ------------------------------------------------------------------------------------------------------

VALUES = np.full(100, 0.5, np.float32)
NOT_FINITE = np.concatenate([VALUES[:-1], [np.float32(np.nan)]]).astype(np.float32)


def payload_of(values: np.ndarray) -> bytes:
    stand_in = np.where(np.isnan(values), np.float32(1.2345e30), values)
    packed = make_chain(uplink_spec(None, entropy="none")).encode(stand_in, seed=1)
    return packed.replace(np.float32(1.2345e30).tobytes(), np.float32(np.nan).tobytes())


def offer_of(payload: bytes, **changes: object) -> bytes:
    fields = {"task": "t9", "sha256": hashlib.sha256(payload).hexdigest(), "bytes": len(payload)} | changes
    return m.encode(m.Offer(report=REPORT, update=payload, **fields))  # type: ignore[arg-type]


def awaiting(room: int = m.INLINE_BYTES_MAX) -> Door:
    door = Door()
    door.inbound.expect("d-0", "t9", room)
    return door


def test_the_bytes_are_for_the_journal_and_not_in_the_event() -> None:
    door, payload = awaiting(), payload_of(VALUES)
    taken = door.take("rig/r/up/d-0/offer", offer_of(payload))
    assert isinstance(taken, Complete)
    assert isinstance(taken.event, e.OfferedWhole)
    assert taken.payload == payload
    assert taken.event.offer.update == b""
    received = taken.event.received
    assert (received.bytes, received.payload_bytes, received.chunks) == (len(payload), len(payload), 0)
    assert not door.refused


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"bytes": 17}])
def test_other_bytes_than_it_speaks_of_are_refused_and_the_offer_stands(changes: dict[str, object]) -> None:
    door = awaiting()
    taken = door.take("rig/r/up/d-0/offer", offer_of(payload_of(VALUES), **changes))
    assert isinstance(taken, e.MessageArrived)
    assert isinstance(taken.message, m.Offer)
    assert taken.message.update == b""
    assert door.refused == [("d-0", "sha256")]


def test_more_than_an_offer_may_carry_is_no_message() -> None:
    door = Door()
    assert door.take("rig/r/up/d-0/offer", offer_of(bytes(m.INLINE_BYTES_MAX + 1))) is None
    assert door.refused == [("d-0", "malformed")]


def test_a_nan_in_the_last_element_is_a_defect_of_this_one_too() -> None:
    door = awaiting()
    door.inbound._defect_of = lambda payload: merge.defect_of(payload, 100)
    taken = door.take("rig/r/up/d-0/offer", offer_of(payload_of(NOT_FINITE)))
    assert isinstance(taken, Complete)
    assert isinstance(taken.event, e.OfferedWhole)
    assert "not_finite" in taken.event.received.defect


def test_only_what_is_awaited_is_looked_into_and_only_once() -> None:
    """3 kB unpack to a vector as large as the model: whoever sends that again and again must not hold up the run."""
    payload = payload_of(VALUES)
    looked: list[bytes] = []

    def comes(door: Door, task: str = "t9", agent: str = "d-0") -> bool:
        door.inbound._defect_of = lambda found: looked.append(found) or ""  # type: ignore[func-returns-value]
        taken = door.take(f"rig/r/up/{agent}/offer", offer_of(payload, task=task))
        event = taken.event if isinstance(taken, Complete) else taken
        assert isinstance(event, e.OfferedWhole | e.MessageArrived), "the offer stands in any case"
        assert not door.refused
        return isinstance(event, e.OfferedWhole)

    assert not comes(Door())
    assert not comes(awaiting(len(payload) - 1))
    assert not comes(awaiting(), task="t8")
    assert not comes(awaiting(), agent="d-1")
    ended = awaiting()
    ended.inbound.expect("d-0", "t9", 0)  # sent again, without
    assert not comes(ended)
    assert not looked
    door = awaiting(len(payload))
    door.inbound.expect("d-0", "probe-1", 0)
    assert [comes(door) for _ in range(3)] == [True, False, False]
    assert looked == [payload]
