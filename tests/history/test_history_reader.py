"""Histories of producers that were killed, that lie, or that write what they like."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from history import reader
from history.reader import Follower, read_history
from history.writer import HistoryWriter


def line(
    seq: int,
    event: str = "thing",
    *,
    node: str = "a",
    boot: str = "b1",
    mono_s: float = 10.0,
    **fields: object,
) -> bytes:
    record = {
        "node": node,
        "boot": boot,
        "seq": seq,
        "mono_s": mono_s,
        "wall_s": 1.7e9 + mono_s,
        "event": event,
    }
    return json.dumps(record | {"fields": fields}).encode() + b"\n"


def put(root: Path, node: str, data: bytes) -> Path:
    path = root / "nodes" / node / "history.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def kinds(root: Path) -> list[tuple[str, int]]:
    return [(defect.kind, defect.count) for defect in read_history(root).defects]


def test_merges_by_time_and_keeps_each_producers_order(tmp_path: Path) -> None:
    put(tmp_path, "a", line(0, mono_s=1.0) + line(1, mono_s=3.0) + line(2, mono_s=3.0))
    put(tmp_path, "b", line(0, node="b", mono_s=2.0) + line(1, node="b", mono_s=3.0))
    found = [(event.node, event.seq) for event in read_history(tmp_path).events]
    assert found == [("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1)]


def test_a_run_without_any_history_is_empty(tmp_path: Path) -> None:
    history = read_history(tmp_path)
    assert (history.events, history.defects, history.producers) == ([], [], set())


@pytest.mark.parametrize("cut", range(1, len(line(1)) - 1, 9))
def test_a_cut_last_line_is_skipped_wherever_it_is_cut(tmp_path: Path, cut: int) -> None:
    put(tmp_path, "a", line(0) + line(1)[:cut])
    history = read_history(tmp_path)
    assert [event.seq for event in history.events] == [0]
    assert [(d.kind, d.node) for d in history.defects] == [("cut", "a")]


def test_a_last_line_that_lacks_only_its_end_is_whole(tmp_path: Path) -> None:
    put(tmp_path, "a", line(0) + line(1)[:-1])
    assert [event.seq for event in read_history(tmp_path).events] == [0, 1]
    assert kinds(tmp_path) == []


def test_a_killed_boot_is_no_gap_and_its_cut_line_no_defect_of_the_next(tmp_path: Path) -> None:
    put(tmp_path, "a", line(0) + line(1)[:20] + b"\n" + line(0, boot="b2") + line(1, boot="b2"))
    history = read_history(tmp_path)
    assert [(event.boot, event.seq) for event in history.events] == [("b1", 0), ("b2", 0), ("b2", 1)]
    assert kinds(tmp_path) == [("cut", 1)]


def test_a_missing_seq_within_a_boot_is_a_gap(tmp_path: Path) -> None:
    put(tmp_path, "a", line(0) + line(4, mono_s=12.5))
    (gap,) = read_history(tmp_path).defects
    assert (gap.kind, gap.count, gap.node, gap.boot, gap.mono_s) == ("gap", 3, "a", "b1", 12.5)


def test_missing_first_lines_of_a_boot_are_a_gap(tmp_path: Path) -> None:
    put(tmp_path, "a", line(0) + line(1) + line(2, boot="b2"))
    assert kinds(tmp_path) == [("gap", 2)]


@pytest.mark.parametrize(
    "junk",
    [
        b"not json\n",
        b"[1, 2]\n",
        b'"text"\n',
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        line(-1),
        line(1, mono_s=-5.0),
        b'{"node":"a","boot":"b1","seq":1,"mono_s":1e400,"wall_s":1,"event":"x"}\n',
        b'{"node":"a","boot":"b1","seq":true,"mono_s":1,"wall_s":1,"event":"x"}\n',
        b'{"node":"a","boot":"b1","seq":1.5,"mono_s":1,"wall_s":1,"event":"x"}\n',
        b'{"node":"a","boot":"b1","seq":1,"mono_s":1,"wall_s":1}\n',
        b'{"node":"a","boot":"b1","seq":1,"mono_s":1,"wall_s":1,"event":"\\ud800"}\n',
    ],
)
def test_lines_that_are_none_are_counted_and_the_rest_is_read(tmp_path: Path, junk: bytes) -> None:
    put(tmp_path, "a", line(0) + junk + line(1))
    assert [event.seq for event in read_history(tmp_path).events] == [0, 1]
    assert kinds(tmp_path) == [("malformed", 1)]


def test_an_endless_line_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "READ_BYTES", 4096)
    path = put(tmp_path, "a", line(0) + b"x" * (reader.LINE_BYTES_MAX * 3))
    tail = reader.Tail(path, "a")
    assert [event.seq for event in tail.poll()] == [0]
    assert len(tail._rest) <= reader.LINE_BYTES_MAX + 4096
    with open(path, "ab") as file:
        file.write(b"\n" + line(1))
    assert [event.seq for event in tail.poll()] == [1]


def test_the_folder_says_who_it_is_not_the_line(tmp_path: Path) -> None:
    put(tmp_path, "zero-1", line(0, node="coordinator"))
    (event,) = read_history(tmp_path).events
    assert event.node == "zero-1"


@pytest.mark.parametrize("kind", ["symlink", "pipe", "folder"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside.jsonl"
    outside.write_bytes(line(0))
    place = tmp_path / "nodes" / "zero-1" / "history.jsonl"
    place.parent.mkdir(parents=True)
    {"symlink": lambda: place.symlink_to(outside), "pipe": lambda: os.mkfifo(place), "folder": place.mkdir}[
        kind
    ]()
    history = read_history(tmp_path)
    assert history.events == []
    assert [defect.kind for defect in history.defects] == ["unreadable"]


def test_a_linked_folder_is_no_producer(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "a", line(0))
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "zero-1").symlink_to(tmp_path / "elsewhere" / "nodes" / "a")
    assert read_history(tmp_path).events == []


def test_fields_named_like_the_envelope_survive_the_writer(tmp_path: Path) -> None:
    """`container_started node=…`, `link_verified boot=…` and `round_closed wall_s=…` share names with the envelope."""
    clock = [100.0]
    writer = HistoryWriter(
        tmp_path / "nodes" / "hostd" / "history.jsonl",
        "hostd",
        "host1",
        mono=lambda: clock[0],
        wall=lambda: 1.7e9 + clock[0],
    )
    writer.append("probed", backend="nfqueue")
    for name, fields in (
        ("container_started", {"node": "pi4-1", "boot": "agent1", "pid": 7}),
        ("link_verified", {"device": "pi4-1", "boot": "agent1", "ok": True}),
        ("ready", {"devices": 1, "wall_s": 24.9}),
        ("lapse", {"what": "link", "node": "pi4-1"}),
    ):
        clock[0] += 1.0
        writer.append(name, **fields)
    writer.close()
    history = read_history(tmp_path)
    assert history.defects == []
    assert [(e.node, e.boot, e.seq) for e in history.events] == [("hostd", "host1", n) for n in range(5)]
    started, link, ready, lapse = history.events[1:]
    assert (started["node"], started["boot"], started["pid"]) == ("pi4-1", "agent1", 7)
    assert link["boot"] == "agent1"
    assert ready["wall_s"] == 24.9
    assert ready.wall_s == pytest.approx(1.7e9 + 103.0)
    assert lapse["node"] == "pi4-1"


def test_following_reads_only_what_is_new_and_only_whole_lines(tmp_path: Path) -> None:
    path = put(tmp_path, "a", line(0) + line(1)[:15])
    follower = Follower(tmp_path)
    assert [event.seq for event in follower.poll()] == [0]
    assert follower.poll() == []
    with open(path, "ab") as file:
        file.write(line(1)[15:])
    put(tmp_path, "b", line(0, node="b"))
    assert [(event.node, event.seq) for event in follower.poll()] == [("a", 1), ("b", 0)]
    assert follower.poll() == []
    assert follower.defects == []


def test_following_takes_a_flood_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b"".join(line(100 + seq) for seq in range(500))
    put(tmp_path, "a", lines)
    monkeypatch.setattr(reader, "READ_BYTES", 1000)
    tail = reader.Tail(tmp_path / "nodes" / "a" / "history.jsonl", "a")
    first = tail.poll(10_000)
    assert len(first) == 10_000 // len(line(100))
    rest = tail.poll(len(lines))
    assert [event.seq for event in first + rest] == list(range(100, 600))


def test_what_the_writer_cuts_short_is_still_an_event(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path / "nodes" / "a" / "history.jsonl", "a")
    writer.append("waiting", text="x" * 300_000)
    writer.close()
    (event,) = read_history(tmp_path).events
    assert event.event == "waiting"
    assert event.fields == {"truncated": pytest.approx(300_000, abs=400)}


def test_events_can_be_written_again_as_they_are(tmp_path: Path) -> None:
    put(tmp_path, "a", line(0, task="r1-t1", bytes=12))
    (event,) = read_history(tmp_path).events
    assert msgspec.json.decode(msgspec.json.encode(event))["fields"] == {"task": "r1-t1", "bytes": 12}


def test_of_a_devices_file_so_much_is_read_that_it_cannot_use_up_the_readers_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "AGENT_FILE_BYTES_MAX", 10_000)
    lines = b"".join(line(100 + seq) for seq in range(500))
    put(tmp_path, "zero-1", lines)
    put(tmp_path, "zero-2", line(0, node="zero-2"))
    put(tmp_path, "coordinator", lines)
    history = read_history(tmp_path)
    counts = {node: sum(event.node == node for event in history.events) for node in history.producers}
    assert counts == {"zero-1": 10_000 // len(line(100)), "zero-2": 1, "coordinator": 500}
    (unread,) = (d for d in history.defects if d.kind != "gap")
    assert (unread.kind, unread.node) == ("too_large", "zero-1"), (
        "the line that the reader cut is nobody's fault"
    )
    assert "the first 9 KiB are read of" in unread.detail
    follower = Follower(tmp_path)
    assert len([event for event in follower.poll() if event.node == "zero-1"]) == counts["zero-1"]


def test_what_small_files_leave_is_there_for_the_larger_and_nobody_loses_an_equal_share() -> None:
    assert reader.share_bytes([], 100) == reader.share_bytes([10, 30, 60], 100) == reader.AGENT_FILE_BYTES_MAX
    assert reader.share_bytes([10, 80, 90], 100) == 45
    assert reader.share_bytes([1 << 30] * 50, 100) == 2


def test_all_devices_together_have_a_bound_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "AGENTS_BYTES_MAX", 30_000)
    lines = b"".join(line(100 + seq) for seq in range(500))
    for name in ("zero-1", "zero-2", "zero-3"):
        put(tmp_path, name, lines)
    put(tmp_path, "zero-4", b"".join(line(seq) for seq in range(20)))
    history = read_history(tmp_path)
    assert sum(len(msgspec.json.encode(event)) for event in history.events) < 30_000
    assert sum(event.node == "zero-4" for event in history.events) == 20
    assert {d.node for d in history.defects if d.kind == "too_large"} == {"zero-1", "zero-2", "zero-3"}


@pytest.mark.parametrize("boots", [False, True], ids=["gaps", "cut lines"])
def test_defects_without_end_are_counted_not_kept(tmp_path: Path, boots: bool) -> None:
    torn = b'{"node\n'
    many = (torn + line(0, boot=f"b{n}") if boots else line(2 * n + 1) for n in range(5_000))
    put(tmp_path, "zero-1", line(0) + b"".join(many) if boots else b"".join(many))
    found = read_history(tmp_path).defects
    assert len(found) == reader.DEFECTS_MAX + 1
    assert {d.kind for d in found} == {"cut" if boots else "gap"}
    assert sum(d.count for d in found) == 5_000
    assert found[-1].count == 5_000 - reader.DEFECTS_MAX
    assert "beyond the first" in found[-1].detail
