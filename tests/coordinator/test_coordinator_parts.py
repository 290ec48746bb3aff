"""The small parts around the core: deliveries, inbox, refusals, live objects, samples, configuration, policy."""

from __future__ import annotations

import hashlib
from random import Random

import numpy as np
import pytest
from support.rig_root import make_artifact, make_plan

from coordinator import events as e
from coordinator.config import from_plan, link_budget, model_chunk_bytes
from coordinator.inbound import Complete, Inbound
from coordinator.inbox import Delivery, Inbox
from coordinator.live import DELTAS_MAX, LiveModels
from coordinator.policies import AgentView, Close, Extend, Fail, Replace, RoundView, Wait, make_policy
from coordinator.refusals import KEYS_MAX, RefusalLog
from coordinator.samples import BrokerSamples
from topology.plan import DevicePlan, Link, PolicyPlan, Shape
from wire import chunks, topics
from wire import messages as m
from wire.codecs import model as versions

PAYLOAD = bytes(range(256)) * 40
SHA = hashlib.sha256(PAYLOAD).hexdigest()


class Desk:
    """An inbound with one grant, and what it refused."""

    def __init__(self) -> None:
        self.refused: list[tuple[str, str]] = []
        self.inbound = Inbound(
            "r",
            bytes_max=1 << 20,
            objects_max=4,
            refuse=lambda agent, topic, reason, size: self.refused.append((agent, reason)),
            defect_of=lambda payload: "" if payload == PAYLOAD else "wrong",
        )
        self.inbound.grant("d-0", "r1-t1", SHA, len(PAYLOAD))

    def chunk(
        self, index: int, message: bytes, agent: str = "d-0", task: str = "r1-t1", now: float = 0.0
    ) -> object:
        return self.inbound.take(Delivery(topics.chunk("r", agent, task, index), message, False), now)

    def control(self, topic: str, payload: bytes) -> object:
        return self.inbound.take(Delivery(topic, payload, False), 0.0)


def test_chunks_in_any_order_with_duplicates_make_one_update() -> None:
    desk, pieces = Desk(), chunks.split(PAYLOAD, 3_000)
    order = [2, 0, 0, 3, 2]
    events = [desk.chunk(index, pieces[index], now=float(index)) for index in order]
    assert all(not isinstance(event, Complete) for event in events)
    assert desk.inbound.grant("d-0", "r1-t1", SHA, len(PAYLOAD)) == (1,)
    assert desk.inbound.geometry("d-0", "r1-t1", SHA) == 3_000
    whole = desk.chunk(1, pieces[1])
    assert isinstance(whole, Complete)
    assert whole.payload == PAYLOAD
    assert whole.event.payload_bytes == sum(len(pieces[i]) for i in [*order, 1]), "resends and headers count"
    assert whole.event.chunks == 6
    assert desk.chunk(1, pieces[1]) is None
    assert desk.inbound.duplicates == 1
    assert not desk.refused


def test_signs_of_life_come_once_a_second() -> None:
    desk, pieces = Desk(), chunks.split(PAYLOAD, 1_000)
    heard = [desk.chunk(i, pieces[i], now=0.3 * i) for i in range(8)]
    assert [i for i, event in enumerate(heard) if isinstance(event, e.ChunksHeard)] == [0, 4]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "malformed"),
        (b"x" * 100, "not_granted"),
        (chunks.split(b"other" * 500, 1_000)[0], "not_granted"),
        (chunks.split(PAYLOAD, 1_000)[1], "wrong_topic"),
        (chunks.split(PAYLOAD, 1_000)[0][:-1] + b"\x99", "crc"),
        (bytes(2 << 20), "malformed"),
    ],
)
def test_a_chunk_that_is_none_of_the_grant_is_refused(message: bytes, reason: str) -> None:
    desk = Desk()
    assert desk.chunk(0, message) is None
    assert desk.refused == [("d-0", reason)]


def test_nothing_is_assembled_without_a_grant() -> None:
    desk = Desk()
    for index, piece in enumerate(chunks.split(PAYLOAD, 3_000)):
        assert desk.chunk(index, piece, agent="d-1") is None
        assert desk.chunk(index, piece, task="r1-t9") is None
        assert desk.refused[-2:] == [("d-1", "not_granted"), ("d-0", "not_granted")]
    desk.inbound.drop("d-0", "r1-t1")
    assert desk.chunk(0, chunks.split(PAYLOAD, 3_000)[0]) is None
    assert desk.refused[-1] == ("d-0", "closed_task")


def test_bytes_that_are_not_what_was_offered_are_thrown_away() -> None:
    desk = Desk()
    liar = [bytearray(piece) for piece in chunks.split(PAYLOAD, 20_000)]
    body = bytes(len(PAYLOAD))
    forged = chunks.cut(body, 20_000, 0, digest=bytes.fromhex(SHA))
    assert len(liar) == 1
    event = desk.chunk(0, forged)
    assert event == e.UpdateBroken(agent="d-0", task="r1-t1", reason="sha256")


@pytest.mark.parametrize(
    ("topic", "payload", "refused"),
    [
        ("rig/r/up/d-0/hello", m.encode(m.Hello(boot="b")), []),
        ("rig/r/up/d-0/hello", m.encode(m.Ask(tasks=())), [("d-0", "wrong_topic")]),
        ("rig/r/up/d-0/hello", b"\xc1", [("d-0", "malformed")]),
        ("rig/r/up/d-0/hello", bytes(70_000), [("d-0", "too_large")]),
        ("rig/r/up/d-0/hello", m.encode(m.Hello(v=9, boot="b")), [("d-0", "version")]),
        ("rig/r/up/d-0/wishes", b"", [("d-0", "unknown_topic")]),
        ("rig/r/up/../hello", b"", [("", "unknown_topic")]),
        ("rig/other/up/d-0/hello", b"", [("d-0", "wrong_run")]),
        ("rig/r/status/d-0", b"", []),
        ("rig/r/status/coordinator", b"anything", []),
    ],
)
def test_control_messages(topic: str, payload: bytes, refused: list[tuple[str, str]]) -> None:
    desk = Desk()
    event = desk.control(topic, payload)
    assert desk.refused == refused
    assert isinstance(event, e.MessageArrived) == (topic.endswith("hello") and not refused)


def test_the_inbox_turns_away_messages_but_never_our_own_results() -> None:
    inbox = Inbox(items_max=2, bytes_max=100)
    assert inbox.put(Delivery("t", bytes(60), False))
    assert not inbox.put(Delivery("t", bytes(60), False))
    assert inbox.put(Delivery("t", bytes(40), False))
    assert not inbox.put(Delivery("t", b"", False))
    assert inbox.put(e.Tick())
    assert len(inbox.take(0, 10)) == 3
    assert inbox.overflowed() == 2
    assert inbox.overflowed() == 0
    assert inbox.put(Delivery("t", bytes(60), False))


def test_a_flood_is_counted_in_full_and_recorded_once_a_second() -> None:
    log = RefusalLog()
    lines = [line for i in range(1_000) if (line := log.note("d-0", "t", "malformed", 3, i * 0.001))]
    assert [line.count for line in lines] == [1]
    (held,) = log.flush(1.5)
    assert held.count == 999
    assert log.flush(9.0) == []
    assert log.total == 1_000


def test_invented_senders_do_not_fill_the_memory() -> None:
    log = RefusalLog()
    lines = [line for i in range(KEYS_MAX * 3) if (line := log.note(f"x-{i}", "t", "malformed", 3, 0.0))]
    held = log.flush(0.0, everything=True)
    assert len(lines) <= KEYS_MAX + 1
    assert sum(line.count for line in [*lines, *held]) == KEYS_MAX * 3


def test_live_objects_lead_to_the_same_bits_by_every_path() -> None:
    rng = np.random.default_rng(1)
    master = rng.standard_normal(5_000).astype(np.float32)
    live, history, store = LiveModels(make_artifact().to_bytes(), "fp16", 700), {}, {}
    withdrawn: set[str] = set()
    for version in range(12):
        patterns = versions.to_patterns(master)
        history[version] = patterns
        change = live.advance(version, patterns)
        store |= {item.ref.name: item for item in change.publish}
        withdrawn |= {ref.name for ref in change.withdraw}
        assert len(live.everything()) <= 1 + 1 + DELTAS_MAX
        assert {item.ref.name for item in live.everything()} == (store.keys() - withdrawn) | {
            live.graph.ref.name
        }
        master = master.copy()
        master[rng.integers(0, 5_000, 30)] += 0.01
    ref = live.ref
    assert (ref.version, ref.sha256) == (11, versions.version_sha256(history[11]))
    bodies = {
        name: b"".join(bytes(chunks.parse(c).body) for c in item.chunks) for name, item in store.items()
    }
    assert np.array_equal(versions.decode_full(bodies[ref.full.name], 5_000), history[11])
    assert len(ref.deltas) == DELTAS_MAX
    held = history[ref.deltas[0].base_version or 0]
    for delta in ref.deltas:
        held = versions.apply_delta(held, bodies[delta.name])
    assert np.array_equal(held, history[11])
    assert sum(delta.bytes for delta in ref.deltas) < ref.full.bytes


def test_a_control_variate_lives_as_long_as_its_version() -> None:
    live, rng = LiveModels(b"artifact", "fp16", 700), np.random.default_rng(3)
    for version in range(4):
        control = versions.to_patterns(rng.standard_normal(900).astype(np.float32))
        keep = {1} if version < 3 else ()
        change = live.advance(version, control, keep, control)
        assert f"c{version}" in [item.ref.name for item in change.publish]
        assert live.control_of(version).chunks > 1
    assert {"c1", "c2"} <= {ref.name for ref in change.withdraw}
    assert {item.ref.name for item in live.everything()} >= {"v3", "c3"}
    with pytest.raises(AssertionError, match="no control variate of 1"):
        live.control_of(1)


def test_a_chain_of_deltas_longer_than_the_whole_is_not_offered() -> None:
    rng, live = np.random.default_rng(2), LiveModels(b"artifact", "fp16", 700)
    for version in range(4):
        live.advance(version, versions.to_patterns(rng.standard_normal(5_000).astype(np.float32)))
    assert sum(delta.bytes for delta in live.ref.deltas) < live.ref.full.bytes


def test_a_moved_drop_counter_is_told_and_a_restarted_broker_is_none() -> None:
    samples = BrokerSamples()
    assert samples.note("dropped", b"0") == 0
    assert samples.due(0.0) is None, "the other figures have not come"
    samples.note("received_bytes", b"10")
    samples.note("sent_bytes", b"20")
    assert samples.due(0.0) == {"dropped": 0, "received_bytes": 10, "sent_bytes": 20}
    assert samples.note("dropped", b"3") == 3
    assert samples.note("dropped", b"5") == 2
    assert samples.note("dropped", b"0") == 0
    assert samples.note("dropped", b"not a number") == 0
    assert samples.due(1.0) is None


@pytest.mark.parametrize(
    ("rate_bit_s", "chunk", "window"),
    [
        (None, 65_536, 1 << 20),
        (200_000, 6_250, 25_000),
        (16_000, 1_000, 2_000),
        (4_000, 1_000, 1_000),
        (100_000_000, 65_536, 1 << 20),
    ],
)
def test_a_chunk_is_a_quarter_second_of_the_link_and_the_window_a_second(
    rate_bit_s: int | None, chunk: int, window: int
) -> None:
    link = Link(name="x", up=Shape(rate_bit_s=rate_bit_s), down=Shape())
    device = DevicePlan(name="d", group="d", index=0, profile="p", cpus=1, memory_bytes=1, link=link)
    budget = link_budget(device)
    assert (budget.chunk_bytes, budget.window_bytes) == (chunk, window)


def test_the_configuration_follows_the_plan() -> None:
    plan = make_plan(3, training={"rounds": 9, "stop_at_accuracy": 0.9})
    config = from_plan(plan, 80)
    assert (config.rounds, config.stop_at_accuracy, config.samples_max) == (9, 0.9, 50)
    assert config.uplink == plan.compression.uplink
    assert set(config.agents) == {"d-0", "d-1", "d-2"}
    assert model_chunk_bytes(plan) == 65_536


def view(**changes: object) -> RoundView:
    values: dict[str, object] = {
        "target": 10, "quorum": 7, "mergeable": 0, "expected": 10, "away": 0, "receiving": 0, "spare": 0,
        "deadline": 100.0, "deadline_s": 60.0, "extensions": 0,
    }  # fmt: skip
    return RoundView(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "now", "decision"),
    [
        (view(), 50.0, Wait(100.0)),
        (view(mergeable=10, expected=3), 50.0, Close("complete")),
        (view(mergeable=9, expected=0, away=1), 50.0, Close("absent")),
        (view(mergeable=6, expected=0, away=4), 50.0, Wait(100.0)),
        (view(mergeable=7, expected=3), 100.0, Close("deadline")),
        (view(mergeable=6, expected=4), 100.0, Extend(160.0)),
        (view(mergeable=6, expected=4, extensions=3, receiving=1), 100.0, Wait(101.0)),
        (view(expected=7, spare=9), 50.0, Replace(3)),
        (view(expected=7, spare=1), 50.0, Replace(1)),
        (view(expected=7, spare=1), 90.0, Wait(100.0)),
        (view(mergeable=5, expected=1, spare=9), 50.0, Replace(1)),
        (view(mergeable=5, expected=2, spare=9), 50.0, Wait(100.0)),
        (view(mergeable=8, expected=0, spare=1), 50.0, Close("absent")),
    ],
)
def test_what_the_synchronous_policy_decides(seen: RoundView, now: float, decision: object) -> None:
    assert make_policy(PolicyPlan(cohort=10, quorum=0.7, deadline_s=60.0)).decide(seen, now) == decision


def test_after_the_last_extension_the_run_fails_and_says_why() -> None:
    decision = make_policy(PolicyPlan(cohort=10, quorum=0.7)).decide(view(mergeable=6, extensions=3), 100.0)
    assert isinstance(decision, Fail)
    assert "6 of 7 updates" in decision.reason


def test_the_cohort_is_seeded_and_does_not_depend_on_who_came_first() -> None:
    policy = make_policy(PolicyPlan(cohort=3, over_select=1.3))
    online = [f"d-{i}" for i in range(20)]
    seen = [AgentView(name=name) for name in online]
    one = policy.choose(seen, 20, Random(5))
    assert one == policy.choose(seen[::-1], 20, Random(5))
    assert len(one) == 4
    assert one != policy.choose(seen, 20, Random(6))
    assert make_policy(PolicyPlan(cohort=1, quorum=0.0)).quorum == 1
