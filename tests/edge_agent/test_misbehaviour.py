"""An agent that does wrong on purpose: only through its own file, only what it says, and its books stay honest."""

from __future__ import annotations

import errno
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent import mqtt
from edge_agent.misbehaviour import EVENT, Hook, HookedClient, HookedDiary, HookedDisk, not_a_number, spoiler
from history.writer import HistoryWriter
from wire.codecs import decode, make_chain, uplink_spec
from wire.codecs.errors import CodecError

CHUNK, OFFER, HELLO = "rig/r/up/d/update/t/0", "rig/r/up/d/offer", "rig/r/up/d/hello"


class FakeClient:
    def __init__(self, post: Any) -> None:
        self.post = post
        self.sent: list[tuple[str, bytes]] = []
        self.came = threading.Condition()

    def start(self) -> None: ...
    def stop(self, farewell: tuple[str, bytes], wait_s: float) -> None: ...
    def subscribe(self, topics: Any) -> None: ...
    def unsubscribe(self, topics: Any) -> None: ...

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> int | None:
        with self.came:
            self.sent.append((topic, payload))
            self.came.notify()
            return len(self.sent)


class Bench:
    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "faults.json"
        self.path.write_text("{}")
        self.path.chmod(0o600)
        self.hook = Hook(self.path)
        self.happened: list[mqtt.Happening] = []
        self.client = HookedClient(self.hook, self._make, self.happened.append)
        self.client.start()

    def _make(self, post: Any) -> FakeClient:
        self.real = FakeClient(post)
        return self.real

    def order(self, **orders: dict[str, Any]) -> None:
        self.path.write_text(json.dumps(orders))


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    made = Bench(tmp_path)
    yield made
    made.client.stop(("", b""), 0.0)


def test_an_empty_hook_changes_nothing(bench: Bench) -> None:
    assert bench.client.publish(CHUNK, b"abc") == 1
    assert bench.client.publish(OFFER, b"def") == 2
    assert bench.real.sent == [(CHUNK, b"abc"), (OFFER, b"def")]


def test_duplicates_go_out_twice_under_one_number(bench: Bench) -> None:
    bench.order(f={"kind": "duplicate_delivery"})
    assert bench.client.publish(CHUNK, b"abc") == 1
    assert bench.real.sent == [(CHUNK, b"abc")] * 2
    bench.client.publish(HELLO, b"x", qos=0)
    assert len(bench.real.sent) == 3


def test_corruption_flips_one_bit_of_chunks_alone_in_the_share_asked_for(bench: Bench) -> None:
    bench.order(f={"kind": "corrupt_payload", "share": 0.5})
    for number in range(200):
        bench.client.publish(CHUNK, b"%d" % number)
    bench.client.publish(OFFER, b"offer")
    spoilt = [1 for number, (_, sent) in enumerate(bench.real.sent[:-1]) if sent != b"%d" % number]
    assert 60 < len(spoilt) < 140
    assert bench.real.sent[-1] == (OFFER, b"offer")


def test_late_messages_are_sent_later_and_confirmed_under_the_number_that_was_given(bench: Bench) -> None:
    bench.order(f={"kind": "late_delivery", "delay_s": 0.05})
    with bench.real.came:
        numbers = [bench.client.publish(CHUNK, b"1"), bench.client.publish(OFFER, b"2")]
        assert bench.client.publish(HELLO, b"now") == 1
        assert bench.real.came.wait_for(lambda: len(bench.real.sent) == 3, 10)
    assert [payload for _, payload in bench.real.sent] == [b"now", b"1", b"2"]
    assert numbers == [-1, -2]
    bench.real.post(mqtt.Confirmed(2))
    bench.real.post(mqtt.Confirmed(1))
    assert bench.happened == [mqtt.Confirmed(-1), mqtt.Confirmed(1)]


def test_a_full_disk_refuses_writes_and_gives_what_it_has(bench: Bench, tmp_path: Path) -> None:
    disk = HookedDisk(tmp_path / "spool", bench.hook)
    disk.write("a", [b"before"])
    bench.order(f={"kind": "disk_full"})
    with pytest.raises(OSError, match="No space left") as caught:
        disk.write("b", [b"x"])
    assert caught.value.errno == errno.ENOSPC
    assert disk.read("a", 10) == b"before"
    bench.order()
    disk.write("b", [b"after"])
    assert disk.names() == ["a", "b"]


def test_a_clock_is_off_by_what_is_asked(bench: Bench) -> None:
    honest = bench.hook.wall()
    bench.order(f={"kind": "clock_offset", "offset_s": -7200.0})
    assert -7210 < bench.hook.wall() - honest < -7190


def test_a_file_that_others_may_write_and_half_a_file_change_nothing(bench: Bench) -> None:
    bench.order(f={"kind": "disk_full"})
    assert bench.hook.order("disk_full") is not None
    bench.path.write_text('{"f": {"ki')
    assert bench.hook.order("disk_full") is not None
    bench.order()
    bench.path.chmod(0o666)
    bench.order(g={"kind": "poison", "how": "nan"})
    assert bench.hook.order("poison") is None
    bench.path.unlink()
    assert bench.hook.order("disk_full") is not None


def test_the_diary_says_what_is_in_force_and_when_it_is_over(bench: Bench, tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path / "history.jsonl", "d")
    diary = HookedDiary(writer)
    diary.hook = bench.hook
    diary.sync()
    bench.order(b={"kind": "disk_full"}, a={"kind": "poison"})
    diary.sync()
    diary.sync()
    bench.order()
    diary.sync()
    lines = [json.loads(line) for line in writer.path.read_text().splitlines()]
    assert [(line["event"], line["fields"]["active"]) for line in lines] == [(EVENT, ["a", "b"]), (EVENT, [])]


def test_poison_turns_the_update_round_scales_it_or_makes_it_no_number(bench: Bench) -> None:
    chain, spoil = make_chain(uplink_spec(0.05, "int8", "zstd")), spoiler(bench.hook)
    delta = np.random.default_rng(3).standard_normal(5000).astype(np.float32)
    honest = chain.encode(delta, seed=1)
    sent = decode(honest, n=5000).dense()
    assert spoil(honest, 5000, chain, 1) is honest
    for how, factor, wanted in (("sign_flip", 1.0, -1.0), ("scaled", 50.0, 50.0)):
        bench.order(**{how: {"kind": "poison", "how": how, "factor": factor}})
        found = decode(spoil(honest, 5000, chain, 1), n=5000).dense()
        assert np.linalg.norm(found - wanted * sent) < 0.02 * abs(wanted) * np.linalg.norm(sent)
    bench.order(n={"kind": "poison", "how": "nan"})
    with pytest.raises(CodecError, match="not_finite"):
        decode(spoil(honest, 5000, chain, 1), n=5000)
    assert hashlib.sha256(not_a_number(5000)).digest() == hashlib.sha256(not_a_number(5000)).digest()
