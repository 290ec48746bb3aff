"""The figures of a run, against what the synthetic run's own constants say they must be."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import synthetic_run as run

from history.collect import collect
from history.derive import derive
from history.reader import read_history
from history.record import Record
from history.store import open_store
from history.summarize import summarize
from history.summary import Summary, load_summary

DEVICES = run.make_plan().devices
UPLINK_BYTES = sum(run.payload_bytes(device, r) for device in DEVICES for r in range(1, run.ROUNDS + 1))
UPDATES = len(DEVICES) * run.ROUNDS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run.whole_run().write(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def summary(root: Path) -> Summary:
    return collect(root, run.make_plan())


def record_of(script: run.Script) -> Record:
    return derive(script.history(), script.plan)


def test_the_run_passes_with_its_figures(summary: Summary) -> None:
    assert (summary.verdict, summary.exit_code, summary.reasons) == ("pass", 0, ())
    assert summary.final_accuracy == run.ACCURACY[-1]
    assert (summary.rounds, summary.versions) == (run.ROUNDS, run.ROUNDS)
    assert summary.uplink_bytes == UPLINK_BYTES
    assert summary.uplink_bytes_sent == UPLINK_BYTES
    assert summary.uplink_bytes_float32 == UPDATES * run.RAW_BYTES
    assert summary.uplink_ratio == pytest.approx(UPDATES * run.RAW_BYTES / UPLINK_BYTES, rel=1e-3)
    assert (summary.updates_merged, summary.updates_discarded, summary.updates_lost) == (UPDATES, {}, 0)
    assert summary.started_at == "2026-01-01T00:00:00Z"
    assert summary.finish_reason == "target"
    assert summary.lapses == ()


def test_wall_time_and_phases_come_from_the_marks(summary: Summary) -> None:
    finished = next(line.at for line in run.whole_run().lines if line.event == "run_finished")
    assert summary.wall_s == pytest.approx(finished - 3.0, abs=0.002)
    assert summary.phases["bring_up"] == pytest.approx(5.0)
    assert summary.phases["measure"] == pytest.approx(23.0)
    assert summary.phases["training"] == pytest.approx(finished - 29.0, abs=0.002)
    assert summary.phases["start"] == 3.9


def test_each_device_has_its_own_figures(summary: Summary) -> None:
    assert [device.name for device in summary.devices] == [device.name for device in DEVICES]
    for planned, device in zip(DEVICES, summary.devices, strict=True):
        sent = sum(run.payload_bytes(planned, r) for r in range(1, run.ROUNDS + 1))
        assert (device.uplink_bytes, device.uplink_bytes_sent) == (sent, sent)
        assert (device.updates_merged, device.updates_discarded) == (run.ROUNDS, 0)
        assert device.cpu_requested == planned.cpus
        assert device.cpu_effective == pytest.approx(planned.cpus * 0.99)
        assert device.peak_rss_mb == 90 + planned.index
        assert device.throttled_share == 0.4
        assert device.link.verified is True
        assert device.link.up.requested.rate_bit_s == planned.link.up.rate_bit_s
        assert device.link.up.effective is not None
        assert device.link.up.effective.rate_bit_s == pytest.approx(0.988 * (planned.link.up.rate_bit_s or 0))
        assert device.link.down.error is not None
        assert device.link.down.error.delay_s == pytest.approx(0.0004)
        assert device.boots == (2 if planned.name == run.KILLED else 1)


def test_the_killed_device_was_away_from_its_death_until_the_coordinator_had_it_back(
    summary: Summary,
) -> None:
    offline = {device.name: device.offline_s for device in summary.devices}
    assert offline.pop(run.KILLED) == pytest.approx(6.9)
    assert set(offline.values()) == {0.0}


def test_the_fault_is_told_with_lateness_and_what_it_met(summary: Summary) -> None:
    (fault,) = summary.faults
    assert (fault.id, fault.kind, fault.targets, fault.trigger) == (
        "kill-1",
        "kill",
        (run.KILLED,),
        "round 2 collecting",
    )
    assert (fault.planned, fault.applied, fault.verified, fault.healed, fault.overlapped) == (True,) * 5
    assert fault.lateness_s == 0.21
    assert fault.lasted_s == pytest.approx(6.7)


def test_the_curve_counts_the_bytes_that_were_in_when_a_version_was_made(summary: Summary) -> None:
    assert [point.accuracy for point in summary.accuracy] == list(run.ACCURACY)
    per_round = [sum(run.payload_bytes(device, r) for device in DEVICES) for r in range(1, run.ROUNDS + 1)]
    assert [p.uplink_bytes for p in summary.accuracy] == [sum(per_round[:n]) for n in range(run.ROUNDS + 1)]


def test_summary_json_has_the_keys_that_are_asked_for_and_reads_back(root: Path, summary: Summary) -> None:
    written = json.loads((root / "summary.json").read_text())
    wanted = (
        "verdict runtime final_accuracy rounds wall_s uplink_bytes uplink_bytes_float32 devices faults lapses"
    )
    assert set(wanted.split()) <= written.keys()
    device = written["devices"][0]
    assert {"name", "cpu_requested", "cpu_effective", "link", "peak_rss_mb"} <= device.keys()
    assert {"requested", "effective", "error"} <= device["link"]["up"].keys()
    assert load_summary(root / "summary.json") == summary


def test_run_sqlite_answers_what_the_summary_says(root: Path, summary: Summary) -> None:
    with closing(open_store(root / "run.sqlite")) as db:
        ask = lambda query: db.execute(query).fetchone()[0]  # noqa: E731
        assert ask("SELECT count(*) FROM events") == summary.event_count
        assert ask("SELECT sum(payload_bytes) FROM updates") == UPLINK_BYTES
        assert ask("SELECT count(*) FROM versions WHERE agent = 'pi4-3'") == run.ROUNDS
        assert ask("SELECT max(accuracy) FROM evaluations") == run.ACCURACY[-1]
        assert ask("SELECT verdict FROM runs") == "pass"
        assert ask("SELECT count(*) FROM links WHERE device = 'zero-1' AND direction = 'up' AND ok") == 4
        assert (
            ask(
                "SELECT requested FROM links WHERE device = 'zero-1' AND direction = 'up' AND quantity = 'delay_s'"
            )
            == 0.05
        )
        assert ask("SELECT healed FROM faults") == 1
        orders = db.execute("SELECT agent FROM versions WHERE version = 2 ORDER BY position").fetchall()
        assert [name for (name,) in orders] == [device.name for device in DEVICES]
        assert ask("SELECT count(*) FROM tasks WHERE state = 'merged' AND acked_s > journalled_s") == UPDATES


def test_collecting_again_replaces_the_files_and_changes_nothing(root: Path, summary: Summary) -> None:
    before = (root / "report.html").read_bytes()
    assert collect(root, run.make_plan()) == summary
    assert (root / "report.html").read_bytes() == before
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def test_a_store_of_another_schema_is_refused(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="schema 99"):
        open_store(path)


def test_a_failed_write_leaves_the_old_database(root: Path, summary: Summary) -> None:
    from history import store

    before = (root / "run.sqlite").read_bytes()
    record = derive(read_history(root), run.make_plan())
    with pytest.raises(AttributeError):
        store.write_store(root / "run.sqlite", ["no event"], record, summary)  # type: ignore[list-item]
    assert (root / "run.sqlite").read_bytes() == before
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def test_a_number_that_no_database_holds_is_kept_as_near_as_can_be(root: Path, tmp_path: Path) -> None:
    from history import store

    record = derive(read_history(root), run.make_plan())
    huge = msgspec.structs.replace(summarize(record), seed=10**30)
    store.write_store(tmp_path / "run.sqlite", [], record, huge)
    with closing(open_store(tmp_path / "run.sqlite")) as db:
        assert db.execute("SELECT seed FROM runs").fetchone() == (1e30,)


# --- runs of which less is left ---------------------------------------------------------------------------------------


def test_files_and_events_tell_the_same(root: Path, summary: Summary) -> None:
    assert summarize(record_of(run.whole_run())) == summary
    assert summarize(derive(read_history(root), run.make_plan())) == summary


def test_nothing_at_all(tmp_path: Path) -> None:
    summary = collect(tmp_path, run.make_plan())
    assert (summary.verdict, summary.exit_code) == ("invalid", 1)
    assert "there is no history" in summary.reasons
    assert [e.held for e in summary.expectations] == [None, None, None]
    assert (summary.final_accuracy, summary.wall_s, summary.uplink_ratio, summary.updates_lost) == (None,) * 4
    assert summary.devices[0].peak_rss_mb is None
    assert "not recorded" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("keep_s", [0.5, 4.5, 20.0, 30.0, 47.0, 60.0, 80.0])
def test_a_run_that_ended_at_any_moment_is_told_as_far_as_it_went(tmp_path: Path, keep_s: float) -> None:
    script = run.whole_run()
    script.lines = [line for line in script.lines if line.at <= keep_s]
    script.write(tmp_path)
    summary = collect(tmp_path, script.plan)
    assert summary.verdict == ("invalid" if keep_s < 29 else "fail")
    assert any("did not finish" in reason or "never started" in reason for reason in summary.reasons)
    closed = sum(line.event == "round_closed" for line in script.lines)
    assert summary.rounds == closed
    assert (tmp_path / "report.html").stat().st_size > 5_000


def test_an_interrupted_run_says_so_whatever_else_is_wrong(tmp_path: Path) -> None:
    script = run.whole_run()
    script.lines = [line for line in script.lines if line.at <= 47.0]
    script.say(47.1, "runner", "interrupted", signal="SIGINT")
    script.write(tmp_path)
    summary = collect(tmp_path, script.plan)
    assert (summary.verdict, summary.exit_code) == ("interrupted", 4)
    assert summary.reasons[0] == "interrupted by SIGINT"
    assert collect(tmp_path, script.plan, interrupted=True).verdict == "interrupted"


def test_the_process_runtime_claims_nothing_and_is_not_invalid(tmp_path: Path) -> None:
    script = run.whole_run(runtime="process")
    host_only = {
        "link_applied",
        "link_verified",
        "cpu_verified",
        "gate_opened",
        "ready",
        "cpu_sample",
        "link_sample",
    }
    script.lines = [line for line in script.lines if line.event not in host_only]
    for line in script.lines:
        line.node = "processes" if line.node == "hostd" else line.node
        if line.event == "probed":
            line.fields |= {"backend": "relay", "reason": "no root"}
    script.write(tmp_path)
    summary = collect(tmp_path, script.plan)
    assert summary.verdict == "pass"
    assert (summary.emulation.backend, summary.emulation.held) == ("relay", None)
    assert summary.devices[0].link.up.effective is None
    assert "by a relay in user space" in (tmp_path / "report.html").read_text()


def test_without_a_report_the_float32_size_follows_from_the_parameters() -> None:
    script = run.whole_run()
    for line in script.lines:
        line.fields.pop("report", None)
        line.fields.pop("raw_bytes", None)
    summary = summarize(record_of(script))
    assert summary.uplink_bytes_float32 == UPDATES * run.PARAMETERS * 4


def test_a_discarded_update_costs_its_bytes_and_keeps_its_reason() -> None:
    script = run.whole_run()
    late = run.task_name(3, DEVICES[9])
    for line in script.lines:
        if line.event == "version_committed" and line.fields["version"] == 3:
            line.fields["updates"] = [u for u in line.fields["updates"] if u["task"] != late]
        if line.event == "task_closed" and line.fields["task"] == late:
            line.fields |= {"state": "late", "reason": "round 3 was closed"}
            at = line.at
    named = {"task": late, "agent": "field-1", "sha256": run.sha(late, "field-1")}
    script.coordinator(at, "update_discarded", **named, outcome="late", reason="round 3 was closed")
    record = record_of(script)
    summary = summarize(record)
    assert summary.updates_discarded == {"late": 1}
    assert (summary.updates_merged, summary.updates_lost) == (UPDATES - 1, 0)
    assert summary.uplink_bytes == UPLINK_BYTES
    assert record.tasks[late].discard_reason == "round 3 was closed"
    assert summary.verdict == "pass"


def test_counters_that_begin_again_with_a_new_boot_are_added_up() -> None:
    script = run.whole_run()
    for line in script.lines:
        if line.event == "link_sample" and line.fields["device"] == run.KILLED and line.at > 50:
            line.fields["up_bytes"] -= 5_000  # the counter of the new namespace began at 0
    record = record_of(script)
    # 5000, then a reset: 5000, 10000, 15000, 20000
    assert record.devices[run.KILLED].link_counters.totals["up_bytes"] == 5_000 + 15_000
    assert record.devices["pi4-1"].link_counters.totals["up_bytes"] == 25_000


def test_a_moved_drop_counter_of_the_broker_is_a_lapse() -> None:
    script = run.whole_run()
    for line in script.lines:
        if line.event == "broker_sample" and line.at > 80:
            line.fields["dropped"] = 7
    summary = summarize(record_of(script))
    assert [(lapse.what, lapse.effective) for lapse in summary.lapses] == [("broker_drops", "7")]


def test_a_recorded_lapse_keeps_the_node_it_is_about() -> None:
    script = run.whole_run()
    script.hostd(
        50.0, "lapse", what="throttling", node="zero-2", requested=0.15, effective=0.11, detail="5 %"
    )
    (lapse,) = summarize(record_of(script)).lapses
    assert (lapse.what, lapse.node, lapse.requested, lapse.effective, lapse.source) == (
        "throttling",
        "zero-2",
        "0.15",
        "0.11",
        "hostd",
    )
    assert lapse.at_s == pytest.approx(50.0)


def test_a_lapse_with_figures_of_a_link_is_readable() -> None:
    script = run.whole_run()
    figures = {"rate_bit_s": 330_000, "delay_s": 0.05, "loss": None}
    script.hostd(
        20.0, "lapse", what="link_out_of_tolerance", node="zero-2", requested=figures, effective=None
    )
    (lapse,) = summarize(record_of(script)).lapses
    assert (lapse.requested, lapse.effective) == ("rate_bit_s 330000, delay_s 0.05", "")


def test_after_a_broker_restart_the_measured_rates_are_still_shown() -> None:
    """Then only delays are measured again, in the same boot of the device."""
    script = run.whole_run()
    device = script.plan.device("zero-1")
    ways = {}
    for way, shape in (("up", device.link.up), ("down", device.link.down)):
        ways[way] = run.direction(shape)
        ways[way]["effective"] |= {"rate_bit_s": None}
    script.hostd(60.0, "link_applied", device="zero-1", device_boot="b1", backend="nfqueue")
    script.hostd(62.0, "link_verified", device="zero-1", boot="b1", ok=True, directions=ways)
    link = next(d for d in summarize(record_of(script)).devices if d.name == "zero-1").link
    assert link.up.effective is not None
    assert link.up.effective.rate_bit_s == pytest.approx(0.988 * 330_000)


def test_a_link_that_was_off_after_a_restart_is_the_one_that_is_shown() -> None:
    script = run.whole_run()
    device = script.plan.device(run.KILLED)
    off = {"up": run.direction(device.link.up, off=0.3, ok=False), "down": run.direction(device.link.down)}
    script.hostd(54.0, "link_verified", device=run.KILLED, boot="b2", ok=False, directions=off)
    link = next(d for d in summarize(record_of(script)).devices if d.name == run.KILLED).link
    assert (link.verified, link.up.ok, link.down.ok) == (False, False, True)
    assert link.up.error is not None
    assert link.up.error.rate_bit_s == -0.3


def test_a_target_left_stopped_at_the_end_was_not_healed() -> None:
    script = run.whole_run()
    for line in script.lines:
        if line.event == "fault_healed":
            line.fields["left_stopped"] = True
    (fault,) = summarize(record_of(script)).faults
    assert (fault.healed, fault.lasted_s) == (False, None)
    assert fault.detail.endswith("(left stopped: the run was over)")


def test_a_device_cannot_speak_for_others() -> None:
    """It commits a version, verifies its link, finishes the run and claims another's task: all for nothing."""
    script = run.whole_run()
    before = summarize(record_of(script))
    liar = "zero-1"
    script.say(40.0, liar, "version_committed", version=99, sha256="0" * 64, round=1, updates=[])
    script.say(40.1, liar, "evaluated", version=99, accuracy=1.0, loss=0.0)
    script.say(40.2, liar, "run_finished", reason="target", accuracy=1.0)
    script.say(0.1, liar, "task_received", task=run.task_name(1, DEVICES[0]), round=1)
    script.say(0.2, liar, "sent", task=run.task_name(1, DEVICES[0]), payload_bytes=10**15)
    after = summarize(record_of(script))
    assert (after.final_accuracy, after.versions, after.wall_s) == (
        before.final_accuracy,
        before.versions,
        before.wall_s,
    )
    assert after.uplink_bytes_sent == before.uplink_bytes_sent
    assert [(lapse.what, lapse.effective) for lapse in after.lapses] == [("history_foreign", "3")]


def test_summary_survives_wrong_types_everywhere(tmp_path: Path) -> None:
    """Every field of every event replaced by something else: figures go, nothing breaks."""
    for index, wrong in enumerate((None, -1, 10**30, "x", [], {}, [[None]], {"updates": 3}, True, 1.5e300)):
        script = run.whole_run()
        for line in script.lines:
            line.fields = {key: wrong for key in line.fields if key not in ("node", "boot")}
        try:
            script.write(tmp_path / str(index))
        except (OverflowError, msgspec.MsgspecError):
            continue
        summary = collect(tmp_path / str(index), script.plan)
        assert summary.verdict in ("invalid", "fail", "interrupted")
