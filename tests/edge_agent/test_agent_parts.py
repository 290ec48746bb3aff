"""The small pure parts: sending windows, fetching windows, paths between versions, the gate, the configuration."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest
from agent_builders import model, ref

from edge_agent import actions as a
from edge_agent.config import load_config, read_password
from edge_agent.diary import Diary
from edge_agent.errors import ConfigurationError
from edge_agent.fetch import STALL_S, WINDOW_BYTES_MAX, Fetch
from edge_agent.gate import GateClosed, boot_token, wait_for_gate
from edge_agent.mqtt import first_reconnect_s, keepalive_s, notsent_lowat_bytes
from edge_agent.paths import cheapest
from edge_agent.transfer import Uploads
from edge_agent.upload import CHUNKS_IN_FLIGHT_MAX, Upload, window_bytes
from topology.plan import AgentConfig
from wire.chunks import HEADER_BYTES, Assembler, split
from wire.messages import ObjectRef

PAYLOAD = bytes(range(256)) * 40


# --- upload --------------------------------------------------------------------------------------------------


def test_an_upload_keeps_its_window_and_loses_nothing() -> None:
    for seed in range(30):
        rng = Random(seed)
        chunk, window = rng.choice([256, 1_000, 4_000]), rng.choice([300, 2_500, 9_000])
        upload = Upload("t1", PAYLOAD, chunk, window, None)
        assembler = Assembler(1 << 20, 1 << 20, 2, 1e9)
        flying: dict[int, bytes] = {}
        whole = None
        while not upload.complete:
            while (piece := upload.next_chunk()) is not None:
                flying[piece[0]] = piece[1]
                size = sum(map(len, flying.values()))
                assert size <= window or len(flying) == 1
                assert len(flying) <= CHUNKS_IN_FLIGHT_MAX
            index = rng.choice(list(flying))
            whole = assembler.add("a", "t1", flying.pop(index), 0.0) or whole
            upload.confirmed(index)
            upload.confirmed(index)
        assert whole is not None
        assert whole.payload == PAYLOAD
        assert upload.done == upload.total == -(-len(PAYLOAD) // chunk)
        assert upload.sent_bytes == len(PAYLOAD) + upload.total * HEADER_BYTES


def test_only_the_missing_chunks_are_sent_again() -> None:
    upload = Upload("t1", PAYLOAD, 1_000, 1 << 20, (2, 7))
    sent = [upload.next_chunk(), upload.next_chunk(), upload.next_chunk()]
    assert [piece and piece[0] for piece in sent] == [2, 7, None]
    assert (upload.total, upload.resent) == (2, 2)


def test_the_window_is_a_second_of_the_link() -> None:
    second = 200_000 // 8 * 1448 / 1514  # what of a second's frames is TCP's payload
    assert window_bytes(1 << 20, 200_000) == int(second)
    assert window_bytes(10_000, 200_000) == 10_000
    assert window_bytes(1 << 20, 0) == int(125_000 * 1448 / 1514)


def test_keepalive_follows_from_the_link() -> None:
    assert keepalive_s(0, 0, 0.0) == 15
    assert keepalive_s(10_000_000, 10_000_000, 0.04) == 15
    assert keepalive_s(18_000, 20_000, 1.3) == 15, "2G: a second each way and the round trip, four times"
    assert keepalive_s(18_000, 20_000, 4.0) == 24
    assert keepalive_s(2_000, 2_000, 0.0) == 32, "one chunk takes four seconds each way"
    assert keepalive_s(100, 100, 0.0) == 60


def test_what_the_kernel_holds_unsent_is_a_tenth_of_a_second() -> None:
    assert notsent_lowat_bytes(1_000_000) == 12_500
    assert notsent_lowat_bytes(18_000) == 2_048
    assert notsent_lowat_bytes(1_000_000_000) == 131_072


def test_a_fleet_does_not_come_back_at_one_moment() -> None:
    waits = {first_reconnect_s(f"pi4-{index}") for index in range(100)}
    assert len(waits) == 100
    assert min(waits) >= 0.25
    assert max(waits) <= 0.5


class Publisher:
    """A client that takes every chunk and confirms what the test says."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> int | None:
        self.sizes[len(self.sizes)] = len(payload)
        return len(self.sizes) - 1

    def subscribe(self, topics: Sequence[str]) -> None: ...
    def unsubscribe(self, topics: Sequence[str]) -> None: ...


UPLINK_BIT_S = 80_000  # a second of it is 9,564 bytes of payload


def uploads_of(client: Publisher, now: list[float]) -> tuple[Uploads, a.StartUpload]:
    config = AgentConfig(
        run="r", agent="d", broker_host="b", broker_port=1, username="d", password_file="", shard="", state="",
        uplink_bit_s=UPLINK_BIT_S,
    )  # fmt: skip
    start = a.StartUpload(task="t1", sha256="", chunk_bytes=1_000, window_bytes=1 << 20, missing=None)
    return Uploads(config, client, lambda _event: None, lambda: now[0]), start


def test_what_a_dead_connection_left_in_the_client_counts_against_the_next_window() -> None:
    """paho sends it again after the reconnect: with a whole new window behind it two seconds would be in flight."""
    client, now = Publisher(), [0.0]
    uploads, start = uploads_of(client, now)
    second = window_bytes(1 << 20, UPLINK_BIT_S)
    uploads.start(start, PAYLOAD)
    first = len(client.sizes)
    assert 0 < sum(client.sizes.values()) <= second
    uploads.clear()
    uploads.start(start, PAYLOAD)
    assert sum(client.sizes.values()) <= second, "nothing new before something old is confirmed"
    for mid in range(first):
        uploads.confirmed(mid)
        assert sum(size for other, size in client.sizes.items() if other > mid) <= second
    assert len(client.sizes) == 2 * first


def test_leftovers_that_nobody_confirms_are_forgotten() -> None:
    client, now = Publisher(), [0.0]
    uploads, start = uploads_of(client, now)
    uploads.start(start, PAYLOAD)
    first = len(client.sizes)
    uploads.clear()
    now[0] = 2.0
    uploads.start(start, PAYLOAD)
    assert len(client.sizes) == first
    now[0] = 30.0  # the coordinator asks again for what is missing
    uploads.start(start, PAYLOAD)
    assert len(client.sizes) == 2 * first


# --- fetch ---------------------------------------------------------------------------------------------------


def fetch_of(payload: bytes, chunk: int, link_bit_s: int = 0) -> tuple[Fetch, list[bytes]]:
    pieces = split(payload, chunk)
    digest = hashlib.sha256(payload).hexdigest()
    reference = ObjectRef(name="v1", bytes=len(payload), chunks=len(pieces), sha256=digest)
    return Fetch("t1", reference, None, None, link_bit_s, now=0.0), pieces


def test_a_fetch_asks_in_windows_and_lets_go_of_what_came() -> None:
    fetch, pieces = fetch_of(PAYLOAD, 512, link_bit_s=8 * 2_048)
    asked: set[int] = set()
    let_go: list[int] = []
    while fetch.payload is None:
        steps = fetch.steps(1.0)
        asked |= set(steps.subscribe)
        let_go += steps.unsubscribe
        assert len(asked) <= 4
        index = asked.pop()
        assert fetch.chunk(index, pieces[index], 1.0) == ""
    assert fetch.payload == PAYLOAD
    assert sorted([*let_go, *fetch.letting_go()]) == list(range(len(pieces)))


def test_the_window_never_exceeds_its_bytes() -> None:
    fetch, _ = fetch_of(bytes(4 << 20), 65_536)
    assert len(fetch.steps(0.0).subscribe) == WINDOW_BYTES_MAX // 65_536
    slow, _ = fetch_of(bytes(1 << 20), 65_536, link_bit_s=50_000)
    assert len(slow.steps(0.0).subscribe) == 2


def test_what_does_not_come_is_asked_for_again_ever_more_rarely() -> None:
    fetch, pieces = fetch_of(PAYLOAD, 5_120)
    assert fetch.steps(0.0).subscribe == (0, 1)
    assert fetch.steps(STALL_S - 0.1).subscribe == ()
    assert fetch.steps(STALL_S).subscribe == (0, 1)
    assert fetch.stalled_at == STALL_S + 2 * STALL_S
    fetch.chunk(0, pieces[0], 15.0)
    assert fetch.stalled_at == 15.0 + STALL_S
    fetch.reconnected(16.0)
    assert fetch.steps(16.0).subscribe == (1,)


def test_chunks_that_lie_are_refused_and_the_fetch_goes_on() -> None:
    fetch, pieces = fetch_of(PAYLOAD, 5_120)
    foreign = split(PAYLOAD[::-1], 5_120)
    other_cut = split(PAYLOAD, 2_560)
    damaged = pieces[0][:-1] + bytes([pieces[0][-1] ^ 1])
    assert fetch.chunk(0, foreign[0], 0.0) == "other_object"
    assert fetch.chunk(0, other_cut[0], 0.0) == "geometry"
    assert fetch.chunk(1, pieces[0], 0.0) == "geometry"
    assert fetch.chunk(0, damaged, 0.0) == "crc"
    assert fetch.chunk(0, b"x", 0.0) == "malformed"
    assert fetch.done == 0
    for index, piece in enumerate(pieces):
        assert fetch.chunk(index, piece, 0.0) == ""
        assert fetch.chunk(index, piece, 0.0) == "" or fetch.payload is not None
    assert fetch.payload == PAYLOAD


# --- paths ---------------------------------------------------------------------------------------------------


def path(held: int | None, version: int, deltas: list[tuple[int, int, int]]) -> list[str]:
    refs = [ref(f"v{base}-v{to}", size, base) for base, to, size in deltas]
    return [wanted.ref.name for wanted in cheapest(model(version, refs), held)]  # the whole has 4,000 bytes


def test_the_cheapest_way_to_a_version() -> None:
    chain = [(2, 3, 100), (3, 4, 100), (4, 5, 100)]
    assert path(None, 5, chain) == ["v5"]
    assert path(2, 5, chain) == ["v2-v3", "v3-v4", "v4-v5"]
    assert path(4, 5, chain) == ["v4-v5"]
    assert path(1, 5, chain) == ["v5"]
    assert path(9, 5, chain) == ["v5"]
    assert path(5, 5, chain) == ["v5"]  # the same number, other bits: nothing but the whole helps
    assert path(2, 5, [*chain, (2, 5, 250)]) == ["v2-v5"]
    assert path(2, 5, [*chain, (2, 5, 350)]) == ["v2-v3", "v3-v4", "v4-v5"]
    assert path(2, 5, [(2, 3, 3_000), (3, 5, 3_000)]) == ["v5"]
    assert path(2, 5, [(2, 2, 1), (3, 2, 1)]) == ["v5"]
    assert path(2, 5, [(4, 5, 1), (3, 4, 1), (2, 3, 1)]) == ["v2-v3", "v3-v4", "v4-v5"]


# --- gate ----------------------------------------------------------------------------------------------------


def test_the_token_is_the_namespace_and_the_start_of_process_1(tmp_path: Path) -> None:
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "net").touch()
    (tmp_path / "1").mkdir()
    fields = ["S", *map(str, range(4, 22)), "987654", "23"]
    (tmp_path / "1" / "stat").write_text(f"1 (a (strange) name) {' '.join(fields)}")
    inode = (tmp_path / "self" / "ns" / "net").stat().st_ino
    assert boot_token(tmp_path) == f"{inode}-987654"


def test_the_gate_opens_for_exactly_this_boot(tmp_path: Path) -> None:
    gate, now, slept = tmp_path / "pi-0", 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)
        gate.write_text(
            {5: "1-2", 9: "1-22", 12: "1-23\n"}.get(len(slept), gate.read_text() if gate.exists() else "")
        )

    token, waited_s = wait_for_gate(gate, 5.0, token=lambda: "1-23", clock=lambda: now, sleep=sleep)
    assert (token, len(slept)) == ("1-23", 12)
    assert waited_s == pytest.approx(1.2)
    gate.write_text("1-2")
    with pytest.raises(GateClosed, match="within 5 s: it must hold '1-23'"):
        wait_for_gate(gate, 5.0, token=lambda: "1-23", clock=lambda: now, sleep=sleep)


# --- configuration -------------------------------------------------------------------------------------------

GOOD = """
run: run-1
agent: pi-0
broker_host: broker
broker_port: 8883
username: pi-0
password_file: password
ca_file: ca.crt
shard: ../shard
state: /var/lib/agent
"""


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(GOOD)
    (tmp_path / "password").write_text("hush\n")
    config = load_config(tmp_path / "agent.yaml")
    assert config.ca_file == str(tmp_path / "ca.crt")
    assert config.state == "/var/lib/agent"
    assert config.gate == ""
    assert read_password(config) == "hush"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("8883", "high"), "broker_port"),
        (GOOD + "gat: x", "gat"),
        ("a: [", "no YAML"),
        ("", "Expected"),
        (GOOD.replace("agent: pi-0", ""), "agent"),
        (GOOD + "mqtt_version: 3", "mqtt_version"),
        (GOOD + "log_level: loud", "log_level is 'loud'; allowed: debug"),
    ],
)
def test_a_broken_file_is_refused_with_its_field(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "agent.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        load_config(tmp_path / "agent.yaml")


# --- diary ---------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_lines_of_the_history_not_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    class Full:
        taken: ClassVar[list[str]] = []
        full = True

        def append(self, event: str, *, durable: bool = False, **fields: object) -> None:
            self.sync()
            self.taken.append(event)

        def sync(self) -> None:
            if self.full:
                raise OSError(28, "No space left on device")

        close = sync

    writer, moments = Full(), [0.0, 0.0, 1.0, 59.0, 61.0, 61.0, 62.0, 62.0, 62.0, 62.0]
    diary = Diary(writer, clock=lambda: moments.pop(0))
    for _ in range(4):
        diary.append("connected", session_present=False)
        diary.sync()
    writer.full = False
    diary.append("acked", task="t1")
    diary.close()
    assert writer.taken == ["acked"]
    assert diary.refused == 8
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
