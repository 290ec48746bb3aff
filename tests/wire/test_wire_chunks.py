"""Chunks: any order, duplicates, lies, and a budget that no sender can break."""

from __future__ import annotations

import hashlib
import random
import struct
import zlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.chunks import CRC, HEADER, HEADER_BYTES, Assembler, ChunkError, Key, cut, parse, split


def assembler(**changes: float) -> Assembler:
    limits = {"total_bytes_max": 100_000, "per_object_bytes_max": 50_000, "objects_max": 8, "idle_s": 30.0}
    return Assembler(**(limits | changes))  # type: ignore[arg-type]


def sha(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def forged(body: bytes = b"x", **fields: object) -> bytes:
    """A chunk whose crc is right, whatever else it says."""
    values = {"magic": b"EC", "format": 1, "sha": b"\0" * 32, "index": 0, "count": 1, "total": 1, "size": 1}
    header = HEADER.pack(*(values | fields).values())
    return header + CRC.pack(zlib.crc32(body, zlib.crc32(header))) + body


def reason(call: object, *args: object) -> str:
    with pytest.raises(ChunkError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.reason


@given(payload=st.binary(min_size=1, max_size=3_000), size=st.integers(1, 700), data=st.data())
@settings(deadline=None)
def test_any_order_with_duplicates_gives_the_object(payload: bytes, size: int, data: st.DataObject) -> None:
    chunks = split(payload, size)
    order = data.draw(st.permutations(range(len(chunks))))
    holder = assembler()
    for step, index in enumerate(order):
        left = tuple(sorted(order[step:]))
        assert holder.missing("a", "t", sha(payload)) == (left if step else None)
        done = holder.add("a", "t", chunks[index], now=float(step))
        if step < len(order) - 1:
            assert done is None
            assert holder.add("a", "t", chunks[index], now=float(step)) is None
    assert done is not None
    assert done.payload == payload
    assert (done.agent, done.task, done.sha256) == ("a", "t", sha(payload))
    assert holder.bytes_held == 0
    assert holder.missing("a", "t", sha(payload)) is None


def test_a_chunk_has_a_header_of_56_bytes_and_can_be_cut_alone() -> None:
    payload = bytes(range(256)) * 10
    chunks = split(payload, 1_000)
    assert HEADER_BYTES == 56
    assert [len(chunk) - HEADER_BYTES for chunk in chunks] == [1_000, 1_000, 560]
    assert cut(payload, 1_000, 2, hashlib.sha256(payload).digest()) == chunks[2]
    assert parse(chunks[2]).body == payload[2_000:]
    for bad in ((b"", 10, 0), (b"x", 0, 0), (b"x", 1, 1), (b"x" * 70_000, 1, 0)):
        with pytest.raises(ValueError, match="chunk"):
            cut(*bad)


def test_golden_bytes() -> None:
    numbers = "01000000020000000800000005000000"
    header = "45430100" + hashlib.sha256(b"edge-rig").hexdigest() + numbers
    assert split(b"edge-rig", 5)[1].hex() == header + GOLDEN_CRC + b"rig".hex()


GOLDEN_CRC = "a7d79570"


def test_two_agents_with_the_same_task_and_bytes_do_not_mix() -> None:
    payload = b"p" * 3_000
    chunks = split(payload, 1_000)
    holder = assembler()
    for chunk in chunks[:2]:
        holder.add("a", "t", chunk, now=0)
    assert holder.add("b", "t", chunks[2], now=0) is None
    assert holder.missing("a", "t", sha(payload)) == (2,)
    assert holder.missing("b", "t", sha(payload)) == (0, 1)


def test_a_retrained_update_of_the_same_task_is_another_object() -> None:
    first, second = b"1" * 2_000, b"2" * 2_000
    holder = assembler()
    holder.add("a", "t", split(first, 1_000)[0], now=0)
    holder.add("a", "t", split(second, 1_000)[0], now=1)
    assert holder.add("a", "t", split(first, 1_000)[1], now=2).payload == first  # type: ignore[union-attr]
    assert holder.add("a", "t", split(second, 1_000)[1], now=3).payload == second  # type: ignore[union-attr]


def test_disagreeing_chunks_and_a_wrong_sum_are_refused() -> None:
    payload = b"p" * 2_000
    digest = hashlib.sha256(payload).digest()
    fields = {"sha": digest, "count": 2, "total": 2_000, "size": 1_000}
    holder = assembler()
    holder.add("a", "t", split(payload, 1_000)[0], now=0)
    assert reason(holder.add, "a", "t", forged(b"q" * 1_000, **fields), 1.0) == "disagree"
    assert reason(holder.add, "a", "t", split(payload, 500)[3], 1.0) == "geometry"
    assert holder.missing("a", "t", sha(payload)) == (1,)
    assert holder.geometry("a", "t", sha(payload)) == (1_000, 2)
    assert reason(holder.add, "a", "t", forged(b"q" * 1_000, **fields | {"index": 1}), 1.0) == "sha256"
    assert holder.bytes_held == 0
    for chunk in split(payload, 1_000):  # after that the honest bytes still get through
        done = holder.add("a", "t", chunk, now=2)
    assert done is not None


def test_sizes_that_lie() -> None:
    holder = assembler()
    for chunk in (
        b"",
        b"short",
        forged(magic=b"XX"),
        forged(total=0),
        forged(size=0),
        forged(count=0),
        forged(count=2),
        forged(index=1),
        forged(index=2**32 - 1),
        forged(body=b""),
        forged(body=b"xy"),
        forged(total=2**32 - 1, size=2**16, count=2**16),
        forged(total=70_000, count=70_000),
    ):
        assert reason(holder.add, "a", "t", chunk, 0.0) == "malformed"
    assert reason(holder.add, "a", "t", forged(format=2), 0.0) == "version"
    assert reason(holder.add, "a", "t", forged(b"x" * 60_000, total=60_000, size=60_000), 0.0) == "too_large"
    assert holder.bytes_held == 0


def test_every_flipped_bit_is_noticed() -> None:
    message = split(b"some bytes of an update", 100)[0]
    for at in range(len(message)):
        broken = message[:at] + bytes([message[at] ^ 1 << at % 8]) + message[at + 1 :]
        assert reason(parse, broken) in ("crc", "malformed", "version")


def test_random_bytes_raise_chunk_errors_only() -> None:
    rng = random.Random(1)
    holder = assembler()
    good = split(b"p" * 3_000, 1_000)
    for _ in range(2_000):
        data = bytearray(rng.choice(good))
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
        if rng.random() < 0.5 and len(data) > HEADER_BYTES:  # half of them with a crc that is right again
            crc = zlib.crc32(data[HEADER_BYTES:], zlib.crc32(data[: HEADER.size]))
            data[HEADER.size : HEADER_BYTES] = struct.pack("<I", crc)
        with suppress(ChunkError):
            holder.add(rng.choice("abc"), "t", bytes(data), now=0)
        assert holder.bytes_held <= 100_000


def test_the_budget_holds_over_all_agents_and_a_greedy_one_loses_its_own() -> None:
    holder = assembler()
    honest = split(b"h" * 30_000, 10_000)
    holder.add("honest", "t", honest[0], now=0)
    for step in range(20):
        chunk = split(bytes([step]) * 40_000, 20_000)[0]
        with suppress(ChunkError):
            holder.add("greedy", f"t{step}", chunk, now=step)
        assert holder.bytes_held <= 100_000
    holder.add("honest", "t", honest[1], now=21)
    assert holder.add("honest", "t", honest[2], now=21) is not None


def test_the_number_of_objects_is_bounded() -> None:
    holder = assembler(objects_max=3)
    for agent in "abc":
        holder.add(agent, "t", split(b"xy", 1)[0], now=0)
    assert reason(holder.add, "d", "t", split(b"xy", 1)[0], 0.0) == "budget"


def test_what_gets_nothing_new_is_forgotten_and_repeating_a_chunk_is_nothing_new() -> None:
    chunks = split(b"p" * 3_000, 1_000)
    holder = assembler()
    holder.add("a", "t", chunks[0], now=0)
    assert holder.expire(30.0) == []
    holder.add("a", "t", chunks[1], now=30)
    holder.add("a", "t", chunks[1], now=59)
    assert holder.expire(60.0) == []
    assert holder.expire(60.1) == [Key("a", "t", sha(b"p" * 3_000))]
    assert holder.bytes_held == 0


def test_a_cancelled_task_is_dropped_with_all_its_objects() -> None:
    holder = assembler()
    for payload in (b"1" * 2_000, b"2" * 2_000):
        holder.add("a", "t", split(payload, 1_000)[0], now=0)
    holder.add("b", "t", split(b"1" * 2_000, 1_000)[0], now=0)
    assert holder.drop("a", "t") == 2
    assert holder.bytes_held == 2_000
