"""Metrics, expectations, verdicts, and each check with the mutant it must catch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import synthetic_run as run

from history import reader
from history.checks import CHECKS, run_checks
from history.derive import derive
from history.emulation import LAPSED, problems
from history.reader import read_history
from history.record import LAPSES_MAX, Record
from history.summarize import summarize
from history.verdict import EXIT_CODES, METRICS, decide, judge
from topology.expectations import METRICS as TOPOLOGY_METRICS
from topology.plan import Expectation

Mutation = Callable[[run.Script], None]


def made(*mutations: Mutation, **changes: object) -> Record:
    script = run.whole_run(**changes)
    for mutate in mutations:
        mutate(script)
    return derive(script.history(), script.plan)


def without(event: str, **where: object) -> Mutation:
    def mutate(script: run.Script) -> None:
        before = len(script.lines)
        script.lines = [
            line
            for line in script.lines
            if line.event != event or any(line.fields.get(key) != value for key, value in where.items())
        ]
        assert len(script.lines) < before, "a mutation that changes nothing proves nothing"

    return mutate


def change(event: str, where: dict[str, object], **fields: object) -> Mutation:
    def mutate(script: run.Script) -> None:
        hit = [
            line
            for line in script.lines
            if line.event == event and all(line.fields.get(k) == v for k, v in where.items())
        ]
        assert hit, "a mutation that changes nothing proves nothing"
        for line in hit:
            line.fields |= fields

    return mutate


def answer(record: Record, name: str) -> tuple[str, str]:
    (result,) = run_checks(record, [name])
    return result.outcome, result.detail


TASK = run.task_name(2, run.make_plan().devices[4])


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_every_metric_a_topology_may_name_can_be_judged_and_no_other() -> None:
    assert METRICS.keys() == TOPOLOGY_METRICS.keys()


def test_metrics_of_the_run() -> None:
    record = made()
    found = {name: measure(record) for name, measure in METRICS.items()}
    assert found["accuracy"] == found["best_accuracy"] == run.ACCURACY[-1]
    assert (found["rounds"], found["updates_lost"], found["updates_duplicated"]) == (run.ROUNDS, 0, 0)
    assert (found["lapses"], found["faults_applied"]) == (0, 1)
    assert found["uplink_ratio"] == pytest.approx(250, abs=1)


def test_accuracy_is_the_last_versions_and_best_is_the_best() -> None:
    record = made(change("evaluated", {"version": 5}, accuracy=0.4))
    assert METRICS["accuracy"](record) == 0.4
    assert METRICS["best_accuracy"](record) == run.ACCURACY[4]


def test_metrics_of_an_empty_record_are_unknown(tmp_path: Path) -> None:
    record = derive(read_history(tmp_path), run.make_plan())
    assert {name for name, measure in METRICS.items() if measure(record) is not None} == set()


@pytest.mark.parametrize(
    ("op", "value", "held"),
    [
        (">=", 5, True),
        (">", 5, False),
        ("<=", 5, True),
        ("<", 5, False),
        ("==", 5, True),
        ("==", 4, False),
        (">", 4.9, True),
    ],
)
def test_operators(op: str, value: float, held: bool) -> None:
    record = made()
    assert judge(record, Expectation(metric="rounds", op=op, value=value)).held is held  # type: ignore[arg-type]


def test_what_cannot_be_judged_is_not_held() -> None:
    record = made()
    judged = judge(record, Expectation(metric="no_such_metric", op=">=", value=0))
    assert (judged.observed, judged.held) == (None, None)
    decision = decide(record, [judged], [], interrupted=False)
    assert decision.verdict == "fail"
    assert decision.reasons == ("no_such_metric >= 0 could not be judged: the history does not tell",)


# --- verdict ----------------------------------------------------------------------------------------------------------


def test_an_expectation_that_is_not_held_fails_the_run() -> None:
    expect = (Expectation(metric="accuracy", op=">=", value=0.97),)
    summary = summarize(made(expect=expect))
    assert (summary.verdict, summary.exit_code) == ("fail", 1)
    assert summary.reasons == ("accuracy >= 0.97 was not held: 0.964",)


@pytest.mark.parametrize(
    ("mutation", "words"),
    [
        (change("link_verified", {"device": "zero-1"}, ok=False), "zero-1: link out of tolerance"),
        (without("link_verified", device="zero-1"), "zero-1: link was applied but never measured"),
        (
            change("cpu_verified", {"device": "pi4-2"}, ok=False, effective=0.12),
            "pi4-2: CPU 0.2 requested, 0.12 effective",
        ),
        (without("cpu_verified", device="pi4-2"), "pi4-2: CPU quota was not verified"),
        (without("probed"), "hostd left no history"),
    ],
)
def test_emulation_out_of_tolerance_makes_the_run_invalid(mutation: Mutation, words: str) -> None:
    summary = summarize(made(mutation))
    assert (summary.verdict, summary.exit_code) == ("invalid", 1)
    assert any(words in reason for reason in summary.reasons)
    assert summary.emulation.held is False


@pytest.mark.parametrize("what", sorted(LAPSED))
def test_an_emulation_that_did_not_last_makes_the_run_invalid(what: str) -> None:
    def lapse(at: float) -> Mutation:
        return lambda script: script.hostd(at, "lapse", what=what, node="zero-1", detail="seen by hostd")

    during, afterwards = summarize(made(lapse(60.0))), summarize(made(lapse(10_000.0)))
    assert (during.verdict, afterwards.verdict) == ("invalid", "pass")
    assert any("seen by hostd" in reason for reason in during.reasons)


def test_a_flood_of_other_lapses_hides_no_lost_link() -> None:
    def flood(script: run.Script) -> None:
        for _ in range(2_500):
            script.hostd(50.0, "lapse", what="queue_slow", node="zero-1")
            script.coordinator(50.0, "lapse", what="link_lost", node="zero-1")
        script.hostd(51.0, "lapse", what="link_lost", node="pi4-1", detail="no qdisc")

    record = made(flood)
    assert problems(record) == ["pi4-1: a link's rules were gone (no qdisc)"]
    assert METRICS["lapses"](record) == 5_001
    assert len(record.lapses) == 2 * LAPSES_MAX + 1 + 2
    assert sum(lapse.what == "lapses_not_listed" for lapse in record.lapses) == 2


def test_the_direction_that_is_off_is_named_with_its_figures() -> None:
    shape = run.make_plan().device("zero-1").link.up
    directions = {"up": run.direction(shape, off=0.2, ok=False), "down": run.direction(shape)}
    record = made(change("link_verified", {"device": "zero-1"}, ok=False, directions=directions))
    (reason,) = summarize(record).emulation.problems
    assert reason.startswith(
        "zero-1: link up out of tolerance (rate 330 kbit/s requested, 264 kbit/s effective; delay 50 ms"
    )


def test_a_link_that_is_right_at_the_second_measurement_holds() -> None:
    def again(script: run.Script) -> None:
        script.hostd(10.0, "link_verified", device="zero-1", boot="b1", ok=False, directions={})

    assert summarize(made(again)).verdict == "pass"


def test_a_restarted_device_whose_link_is_off_makes_the_run_invalid() -> None:
    def worse(script: run.Script) -> None:
        script.hostd(55.0, "link_verified", device=run.KILLED, boot="b2", ok=False, directions={})

    assert summarize(made(worse)).verdict == "invalid"


def test_an_unshaped_link_needs_no_measurement() -> None:
    plan = run.make_plan()
    unshaped = run.Link(name="none", up=run.Shape(), down=run.Shape())
    devices = tuple(msgspec.structs.replace(device, link=unshaped) for device in plan.devices)
    assert summarize(made(without("link_verified"), devices=devices)).verdict == "pass"


def test_a_run_the_coordinator_gave_up_tells_why() -> None:
    def failed(script: run.Script) -> None:
        script.coordinator(
            91.0, "lapse", what="run_failed", node="coordinator", detail="only 3 of 7 agents were there"
        )

    summary = summarize(made(failed, change("run_finished", {}, reason="failed")))
    assert summary.verdict == "fail"
    assert "the coordinator gave up: only 3 of 7 agents were there" in summary.reasons


def test_exit_codes_are_the_documented_ones() -> None:
    assert EXIT_CODES == {"pass": 0, "fail": 1, "invalid": 1, "interrupted": 4}


# --- updates_lost -----------------------------------------------------------------------------------------------------


def test_an_update_that_only_the_agent_saw_acked_is_lost() -> None:
    def drop(script: run.Script) -> None:
        kept = ("task_received", "model_fetched", "trained", "encoded", "spooled", "sent", "acked", "settled")
        script.lines = [
            line for line in script.lines if line.fields.get("task") != TASK or line.event in kept
        ]
        for line in script.lines:
            if line.event == "version_committed":
                line.fields["updates"] = [u for u in line.fields["updates"] if u["task"] != TASK]

    record = made(drop)
    assert METRICS["updates_lost"](record) == 1
    assert summarize(record).verdict == "fail"


def test_an_ack_for_other_content_than_was_merged_is_lost() -> None:
    record = made(change("acked", {"task": TASK}, sha256="f" * 64))
    assert METRICS["updates_lost"](record) == 1


def test_a_missing_witness_makes_it_unknown_and_the_expectation_not_held() -> None:
    def silence(script: run.Script) -> None:
        script.lines = [line for line in script.lines if line.node != "zero-2"]

    record = made(silence)
    assert METRICS["updates_lost"](record) is None
    summary = summarize(record)
    assert summary.verdict == "fail"
    assert [e.held for e in summary.expectations] == [True, None, True]


def test_a_gap_in_a_witness_makes_it_unknown(tmp_path: Path) -> None:
    script = run.whole_run()
    script.write(tmp_path)
    path = tmp_path / "nodes" / "zero-2" / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:10] + lines[11:]))
    record = derive(read_history(tmp_path), script.plan)
    assert METRICS["updates_lost"](record) is None
    assert METRICS["lapses"](record) == 1
    assert answer(record, "history_whole") == ("fail", "zero-2: 1 events before seq 11 are missing")


def test_of_a_history_that_was_not_read_to_its_end_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = run.whole_run()
    script.write(tmp_path)
    size = (tmp_path / "nodes" / "zero-2" / "history.jsonl").stat().st_size
    monkeypatch.setattr(reader, "AGENT_FILE_BYTES_MAX", size - 100)
    for path in (tmp_path / "nodes").glob("*/history.jsonl"):
        if path.parent.name not in ("zero-2", "coordinator", "hostd", "runner"):
            path.write_bytes(path.read_bytes()[: size - 200].rpartition(b"\n")[0] + b"\n")
    record = derive(read_history(tmp_path), script.plan)
    assert record.unread == {"zero-2"}
    assert answer(record, "history_whole")[0] == "unknown"
    assert answer(record, "updates_conserved")[0] == "unknown"
    assert METRICS["updates_lost"](record) is None
    assert METRICS["uplink_wire_bytes"](record) is None
    assert "history_too_large" in {lapse.what for lapse in record.lapses}


def test_events_that_a_device_says_were_truncated_are_counted_not_kept() -> None:
    def flood(script: run.Script) -> None:
        for _ in range(1_000):
            script.say(60.0, "zero-2", "trained", truncated=1)

    found = [defect for defect in made(flood).defects if defect.kind == "truncated"]
    assert len(found) == reader.DEFECTS_MAX + 1
    assert sum(defect.count for defect in found) == 1_000


def test_a_version_too_large_for_a_line_is_no_lost_update_but_an_unknown() -> None:
    """The writer keeps the envelope only; a version of a thousand updates is such an event."""

    def truncate(script: run.Script) -> None:
        line = next(x for x in script.lines if x.event == "version_committed" and x.fields["version"] == 2)
        line.fields = {"truncated": 150_000}

    record = made(truncate)
    assert METRICS["updates_lost"](record) is None
    assert [lapse.what for lapse in record.lapses] == ["history_truncated"]
    assert answer(record, "updates_conserved")[0] == "unknown"
    assert answer(record, "versions_gapless") == ("unknown", "missing: 2")
    assert answer(record, "history_whole")[0] == "fail"


def test_a_cut_last_line_of_a_killed_witness_does_not(tmp_path: Path) -> None:
    script = run.whole_run()
    script.write(tmp_path)
    path = tmp_path / "nodes" / "zero-2" / "history.jsonl"
    path.write_bytes(path.read_bytes() + b'{"node": "zero-2", "bo')
    record = derive(read_history(tmp_path), script.plan)
    assert METRICS["updates_lost"](record) == 0
    assert answer(record, "history_whole")[0] == "pass"


# --- checks: each passes on the run and catches its mutants -----------------------------------------------------------


def double_merge(script: run.Script) -> None:
    """Merged again in the next version: the mutant `merge twice on redelivery`."""
    for line in script.lines:
        if line.event == "version_committed" and line.fields["version"] == 3:
            again = {"task": TASK, "agent": "pi4-5", "sha256": run.sha(TASK, "pi4-5"), "weight": 1000.0}
            line.fields["updates"] = [*line.fields["updates"], again]


def committed_again(script: run.Script) -> None:
    """The same content, by the same coordinator: one line too many, or one commit."""
    (line,) = (x for x in script.lines if x.event == "version_committed" and x.fields["version"] == 3)
    script.coordinator(line.at + 0.01, "version_committed", **line.fields)


def discard_without_reason(script: run.Script) -> None:
    for line in script.lines:
        if line.event == "version_committed":
            line.fields["updates"] = [u for u in line.fields["updates"] if u["task"] != TASK]
    named = {"task": TASK, "agent": "pi4-5", "sha256": run.sha(TASK, "pi4-5")}
    script.coordinator(60.0, "update_discarded", **named, outcome="late", reason="")


def ack_before_fsync(script: run.Script) -> None:
    for line in script.lines:
        if line.event == "update_journalled" and line.fields["task"] == TASK:
            line.at += 1.0


def fault_on_idle_device(script: run.Script) -> None:
    """The target's task is closed before the fault strikes, and no other is opened until it is healed."""
    closed = run.task_name(2, run.make_plan().device(run.KILLED))
    for line in script.lines:
        if line.event == "task_closed" and line.fields["task"] == closed:
            line.at = 45.0


def end_after_fault(script: run.Script) -> None:
    healed = next(line.at for line in script.lines if line.event == "fault_healed")
    script.lines = [line for line in script.lines if line.at <= healed]


def end_in_good_order(script: run.Script) -> None:
    end_after_fault(script)
    run.finish(script, max(line.at for line in script.lines) + 0.1)


def stands_still_after_the_heal(script: run.Script) -> None:
    """A scheduler that never wakes up again: everything after the heal comes far too late."""
    healed = next(line.at for line in script.lines if line.event == "fault_healed")
    for line in script.lines:
        if line.at > healed:
            line.at += 500.0


def damped_twice(script: run.Script) -> None:
    """Staleness that compounds: an update counts less than its age leaves of it."""
    (line,) = (x for x in script.lines if x.event == "version_committed" and x.fields["version"] == 2)
    line.fields["updates"] = [item | {"factor": 0.25} for item in line.fields["updates"]]


def never_merged(script: run.Script) -> None:
    """A schedule that asks a device again and again and drops whatever it gives."""
    for line in script.lines:
        if line.event == "version_committed":
            line.fields["updates"] = [u for u in line.fields["updates"] if u["agent"] != "pi4-5"]


def never_asked(script: run.Script) -> None:
    never_merged(script)
    script.lines = [
        x for x in script.lines if not (x.event == "task_opened" and x.fields["agent"] == "pi4-5")
    ]


def heal_that_does_nothing(script: run.Script) -> None:
    healed = next(line.at for line in script.lines if line.event == "fault_healed")
    detail = "zero-2: the heal did not take: exited"
    script.hostd(healed + 0.01, "lapse", what="heal_failed", node="zero-2", detail=detail)


MUTANTS: list[tuple[str, str, Mutation]] = [
    ("updates_conserved", "fail", double_merge),
    ("updates_conserved", "fail", discard_without_reason),
    ("updates_conserved", "fail", ack_before_fsync),
    ("updates_conserved", "fail", without("update_journalled", task=TASK)),
    ("updates_conserved", "unknown", without("update_acked")),
    ("versions_gapless", "fail", without("version_committed", version=3)),
    ("versions_gapless", "fail", change("version_committed", {"version": 4}, version=3)),
    (
        "versions_gapless",
        "fail",
        change("version_committed", {"version": 5}, version=2, sha256=run.sha("version", 2)),
    ),
    ("versions_gapless", "fail", committed_again),
    ("versions_gapless", "unknown", without("version_committed")),
    ("emulation_held", "fail", change("link_verified", {"device": "field-1"}, ok=False)),
    ("emulation_held", "fail", change("cpu_verified", {"device": "field-1"}, ok=False)),
    ("emulation_held", "unknown", without("probed")),
    ("faults_met_tasks", "fail", without("fault_applied")),
    ("faults_met_tasks", "fail", change("fault_verified", {}, ok=False, detail="still runs")),
    ("faults_met_tasks", "unknown", without("fault_verified")),
    ("faults_met_tasks", "unknown", fault_on_idle_device),
    ("progress_after_heal", "fail", end_after_fault),
    ("progress_after_heal", "fail", stands_still_after_the_heal),
    ("staleness_bounded", "fail", change("task_opened", {"task": TASK}, version=0)),
    ("staleness_bounded", "fail", change("task_opened", {"task": TASK}, version=9)),
    ("staleness_bounded", "fail", damped_twice),
    ("staleness_bounded", "unknown", without("task_opened", task=TASK)),
    ("staleness_bounded", "unknown", without("version_committed")),
    ("nobody_starved", "fail", never_merged),
    ("nobody_starved", "unknown", never_asked),
    ("faults_healed", "fail", without("fault_healed")),
    ("faults_healed", "fail", heal_that_does_nothing),
    ("nothing_leaked", "fail", change("cleaned", {}, left=["network edgerig-x-data"])),
    ("nothing_leaked", "fail", change("healed_all", {}, left=["pi4-1: a tbf where none was asked"])),
    ("nothing_leaked", "unknown", without("cleaned")),
    ("nothing_leaked", "unknown", without("healed_all")),
    ("progress_after_heal", "unknown", end_in_good_order),
    ("progress_after_heal", "unknown", without("fault_healed")),
    ("progress_after_heal", "unknown", without("fault_applied")),
]


def run_without_acks(script: run.Script) -> None:
    script.lines = [line for line in script.lines if line.event != "acked"]


@pytest.mark.parametrize(("name", "expected", "mutant"), MUTANTS)
def test_checks_catch_their_mutants(name: str, expected: str, mutant: Mutation) -> None:
    mutations = (
        [mutant, run_without_acks] if expected == "unknown" and name == "updates_conserved" else [mutant]
    )
    outcome, detail = answer(made(*mutations), name)
    assert outcome == expected, detail
    assert detail


def test_all_checks_pass_on_the_run_and_every_check_has_a_mutant() -> None:
    assert {result.name: result.outcome for result in run_checks(made())} == dict.fromkeys(CHECKS, "pass")
    failing = {name for name, expected, _ in MUTANTS if expected == "fail"} | {"history_whole"}
    assert failing == CHECKS.keys()


def test_a_version_missing_after_a_restart_is_the_journals_to_tell() -> None:
    def restart(script: run.Script) -> None:
        script.coordinator(71.0, "run_started", run="x", epoch=2, devices=[], parameters=run.PARAMETERS)

    record = made(without("version_committed", version=3), restart)
    assert answer(record, "versions_gapless")[0] == "unknown"


def test_a_restarted_coordinator_may_tell_of_its_version_again() -> None:
    def tell_again(script: run.Script) -> None:
        line = next(
            line for line in script.lines if line.event == "version_committed" and line.fields["version"] == 3
        )
        restored = line.fields | {"restored": True}
        script.say(line.at + 0.01, "coordinator", "version_committed", "b2", **restored)

    record = made(tell_again)
    assert METRICS["updates_duplicated"](record) == 0
    assert answer(record, "versions_gapless") == ("pass", "versions 1 to 5")


def test_a_version_that_is_published_again_is_committed_once() -> None:
    def publish_again(script: run.Script) -> None:
        published = [line for line in script.lines if line.event == "version_published"]
        assert published
        for line in published:
            script.coordinator(line.at + 0.01, "version_published", **line.fields)

    assert answer(made(publish_again), "versions_gapless") == ("pass", "versions 1 to 5")


def test_a_device_that_never_wrote_leaves_the_history_unknown() -> None:
    def silence(script: run.Script) -> None:
        script.lines = [line for line in script.lines if line.node != "zero-2"]

    assert answer(made(silence), "history_whole") == ("unknown", "no history of zero-2")


def test_an_unknown_check_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="no_such_check"):
        run_checks(derive(read_history(tmp_path), run.make_plan()), ["no_such_check"])


def test_an_update_of_a_tiered_round_is_of_that_round() -> None:
    record = made(change("task_opened", {"task": TASK}, version=0))
    tiered = msgspec.structs.replace(record.plan.policy, kind="tiered")
    record.plan = msgspec.structs.replace(record.plan, policy=tiered)
    assert answer(record, "staleness_bounded")[0] == "fail"
