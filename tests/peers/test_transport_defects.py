"""What went wrong in other systems' transports, as tests of ours: their code as read, and the issues that are named."""

from __future__ import annotations

import hashlib
from random import Random

import pytest

from compose.broker_config import MESSAGE_BYTES_MAX, QUEUED_BYTES_MAX, QUEUED_MESSAGES_MAX
from coordinator.config import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, OPEN_GRANT_BYTES_MAX, link_budget
from edge_agent.fetch import Fetch
from edge_agent.upload import Upload, window_bytes
from topology.plan import DevicePlan, Link
from topology.profiles import LINKS
from wire.chunks import HEADER_BYTES, Assembler, ChunkError, split
from wire.messages import ObjectRef

UPDATE = Random(7).randbytes(60_000)


def assembler() -> Assembler:
    return Assembler(1 << 20, 1 << 20, 8, 60.0)


def test_flame_an_out_of_order_chunk_reset_the_assembler() -> None:
    """Flame's MQTT assembler threw everything away at a chunk that was not the next one. Ours takes them backwards."""
    pieces, holder = split(UPDATE, 1_000), assembler()
    done = [holder.add("a", "t", piece, now=0.0) for piece in reversed(pieces)]
    assert done[:-1] == [None] * (len(pieces) - 1)
    assert done[-1] is not None
    assert done[-1].payload == UPDATE


def test_flame_a_stray_chunk_of_another_object_resets_nothing() -> None:
    pieces, stray, holder = split(UPDATE, 1_000), split(UPDATE[::-1], 1_000), assembler()
    done = None
    for piece, other in zip(pieces[:-1], stray[:-1], strict=True):
        holder.add("a", "t", piece, now=0.0)
        holder.add("a", "other", other, now=0.0)
    done = holder.add("a", "t", pieces[-1], now=0.0)
    assert done is not None
    assert done.payload == UPDATE


def test_thingsboard_15637_chunks_sent_one_at_a_time() -> None:
    """Stop-and-wait made chunking eight times slower than one large message: ours keep a window in flight."""
    upload = Upload("t", UPDATE, 1_000, window_bytes(1 << 20, 160_000), None)
    sent = 0
    while upload.next_chunk() is not None:
        sent += 1
    assert sent >= 10, "none of them was confirmed yet"


@pytest.mark.parametrize("name", [name for name in LINKS if name != "unshaped"])
def test_every_link_profile_pipelines_within_a_second_of_its_rate(name: str) -> None:
    """Pipelined, and never more in flight than a heartbeat can wait for."""
    profile = LINKS[name]
    link = Link(name=name, up=profile.up, down=profile.down)
    budget = link_budget(
        DevicePlan(name="d", group="d", index=0, profile="p", cpus=1, memory_bytes=1, link=link)
    )
    assert profile.up.rate_bit_s is not None
    upload = Upload(
        "t",
        bytes(2 << 20),
        budget.chunk_bytes,
        window_bytes(budget.window_bytes, profile.up.rate_bit_s),
        None,
    )
    chunks = 0
    while upload.next_chunk() is not None:
        chunks += 1
    assert chunks >= 2 or profile.up.rate_bit_s < 20_000, "one chunk of 1,000 bytes is most of a second there"
    assert upload.in_flight_bytes * 8 <= profile.up.rate_bit_s * 1.0


def test_openfl_455_a_link_lost_in_mid_transfer_goes_on_where_it_was() -> None:
    pieces, holder = split(UPDATE, 1_000), assembler()
    sha256 = hashlib.sha256(UPDATE).hexdigest()
    for index in (0, 1, 2, 5):
        holder.add("a", "t", pieces[index], now=0.0)
    missing = holder.missing("a", "t", sha256)
    resumed = Upload("t", UPDATE, 1_000, 1 << 20, missing)
    whole = None
    while not resumed.complete:
        while (piece := resumed.next_chunk()) is not None:
            whole = holder.add("a", "t", piece[1], now=1.0) or whole
            resumed.confirmed(piece[0])
    assert resumed.sent_bytes == (len(pieces) - 4) * (1_000 + HEADER_BYTES)
    assert whole is not None
    assert whole.payload == UPDATE


def test_fedml_630_corrupted_bytes_are_not_merged() -> None:
    """Chunks with a flipped bit are noticed one by one, and by their object if a liar mends the checksum."""
    pieces, holder = split(UPDATE, 1_000), assembler()
    damaged = bytearray(pieces[3])
    damaged[500] ^= 4
    with pytest.raises(ChunkError) as caught:
        holder.add("a", "t", bytes(damaged), now=0.0)
    assert caught.value.reason == "crc"
    sha256 = hashlib.sha256(UPDATE).hexdigest()
    assert holder.missing("a", "t", sha256) is None, "nothing was opened for it"


def test_aws_535_a_chunk_above_the_brokers_limit_makes_a_reconnect_loop() -> None:
    """A broker drops the connection of a client whose message is too large; the client sends it again, for ever."""
    topic = len("rig//up//update//") + 48 + 63 + 64 + 6
    assert CHUNK_BYTES_MAX + HEADER_BYTES + topic <= MESSAGE_BYTES_MAX


def test_mosquitto_3687_a_full_queue_drops_in_silence_what_was_confirmed() -> None:
    """So the sum of open grants stays below half of what the broker may queue for the coordinator."""
    assert OPEN_GRANT_BYTES_MAX * 2 < QUEUED_BYTES_MAX
    assert 2 * OPEN_GRANT_BYTES_MAX // CHUNK_BYTES_MIN < QUEUED_MESSAGES_MAX


def test_a_download_also_takes_chunks_in_any_order_and_twice() -> None:
    pieces = split(UPDATE, 1_000)
    reference = ObjectRef(
        name="v1", bytes=len(UPDATE), chunks=len(pieces), sha256=hashlib.sha256(UPDATE).hexdigest()
    )
    fetch = Fetch("t", reference, None, None, 8_000_000, 0.0)
    order = list(range(len(pieces))) * 2
    Random(3).shuffle(order)
    for index in order:
        if fetch.payload is None:
            assert fetch.chunk(index, pieces[index], 0.0) == ""
    assert fetch.payload == UPDATE
