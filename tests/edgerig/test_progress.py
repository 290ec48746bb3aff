"""What the operator sees of a run: lines, JSON, the live picture, the end."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgerig.lines import tell
from edgerig.live import Live, apply, clean, make_live
from edgerig.progress import Mode, Progress, sparkline
from history.derive import derive
from history.events import Event
from history.reader import History
from history.summarize import summarize
from topology.plan import CompressionPlan as Compression
from topology.plan import (
    DataPlan,
    DevicePlan,
    Expectation,
    Link,
    PartitionPlan,
    Plan,
    PolicyPlan,
    Shape,
    TrainingPlan,
)

NAMES = ("pi4-1", "pi4-2", "zero-1")


def make_plan(devices: int = 3) -> Plan:
    names = NAMES if devices == 3 else tuple(f"pi-{n}" for n in range(devices))
    link = Link(name="lan", up=Shape(rate_bit_s=10**6), down=Shape(rate_bit_s=10**6))
    return Plan(
        run="fleet-1",
        name="fleet",
        seed=1,
        runtime="docker",
        topology_sha256="0" * 64,
        devices=tuple(
            DevicePlan(
                name=n,
                group=n.split("-")[0],
                index=i,
                profile="pi",
                cpus=0.2,
                memory_bytes=1 << 28,
                link=link,
            )
            for i, n in enumerate(names)
        ),
        data=DataPlan(dataset="mnist", partition=PartitionPlan(), samples_per_device=100),
        model="mlp",
        training=TrainingPlan(rounds=4),
        policy=PolicyPlan(cohort=devices),
        compression=Compression(),
        expect=(Expectation(metric="rounds", op=">=", value=1),),
    )


class Story:
    """Events one second apart."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.events: list[Event] = []

    def say(self, event: str, node: str = "coordinator", /, **fields: Any) -> Event:
        self.at += 1.0
        told = Event(
            node=node,
            boot="b",
            seq=len(self.events),
            mono_s=self.at,
            wall_s=1.7e9 + self.at,
            event=event,
            fields=fields,
        )
        self.events.append(told)
        return told


def one_round() -> Story:
    story = Story()
    story.say("up", "runner", services=["broker", *NAMES])
    for name in NAMES:
        story.say("link_applied", "hostd", device=name, backend="nfqueue")
        story.say("link_verified", "hostd", device=name, ok=True)
        story.say("cpu_verified", "hostd", device=name, ok=True)
        story.say("gate_opened", "hostd", node=name)
        story.say("agent_online", agent=name, boot="b1")
    story.say("round_opened", round=1, version=0, cohort=list(NAMES), deadline_s=30.0)
    for name in NAMES:
        story.say("task_opened", task=f"t-{name}", agent=name, round=1)
        story.say("task_progress", task=f"t-{name}", agent=name, phase="training")
    story.say("fault_applied", "hostd", fault="k1", kind="kill", targets=["zero-1"])
    story.say("container_died", "hostd", node="zero-1", boot="b1")
    story.say(
        "waiting", round=1, **{"for": [{"agent": "zero-1", "phase": "away", "since_s": 3.0, "until_s": 12.0}]}
    )
    for name in NAMES[:2]:
        story.say("update_offered", task=f"t-{name}", agent=name, report={"raw_bytes": 250_000})
        story.say("update_received", task=f"t-{name}", agent=name, payload_bytes=1_000)
    return story


def finished() -> Story:
    story = one_round()
    story.say("container_started", "hostd", node="zero-1", boot="b2")
    story.say("fault_healed", "hostd", fault="k1", targets=["zero-1"])
    for name in NAMES[:2]:
        story.say("task_closed", task=f"t-{name}", agent=name, round=1, state="merged")
    story.say("task_closed", task="t-zero-1", agent="zero-1", round=1, state="dropped")
    story.say("round_closed", round=1, version=1, merged=2, missing=["zero-1"], reason="quorum", wall_s=14.0)
    story.say("evaluated", version=1, round=1, accuracy=0.8125, loss=0.5)
    story.say("run_finished", reason="rounds", version=1, accuracy=0.8125)
    return story


def live_after(story: Story) -> Live:
    live = make_live(make_plan())
    for event in story.events:
        apply(live, event)
    return live


def shown(mode: Mode, story: Story, *, width: int = 110, height: int = 40) -> tuple[Progress, io.StringIO]:
    out = io.StringIO()
    console = Console(
        file=out, width=width, height=height, force_terminal=mode is Mode.rich, color_system=None
    )
    progress = Progress(mode, make_plan(), Path("runs/fleet-1"), console=console)
    for event in story.events:
        progress.feed(event)
    return progress, out


def test_live_state_follows_every_device() -> None:
    story = one_round()
    live = live_after(story)
    asked_at = next(event.mono_s for event in story.events if event.event == "waiting")
    assert {name: device.phase for name, device in live.devices.items()} == {
        "pi4-1": "done",
        "pi4-2": "done",
        "zero-1": "dead",
    }
    assert (live.round, live.cohort, live.received, live.bytes, live.raw_bytes) == (1, 3, 2, 2_000, 500_000)
    assert live.faults == {"k1": "kill zero-1"}
    assert live.verified == (3, 3)
    assert [(w.agent, w.until) for w in live.waiting] == [("zero-1", asked_at + 12.0)]


def test_live_state_settles_at_the_end() -> None:
    live = live_after(finished())
    assert (live.stage, live.faults, live.faults_healed, live.waiting) == ("finished", {}, 1, [])
    assert {name: device.merged for name, device in live.devices.items()} == {
        "pi4-1": 1,
        "pi4-2": 1,
        "zero-1": 0,
    }
    assert live.accuracy == [0.8125]
    assert live.agent_of_task == {}
    assert live.raw_of_task == {}


def test_an_agents_own_word_changes_nothing() -> None:
    story = one_round()
    before = live_after(story)
    story.say("run_finished", "zero-1", reason="target")
    story.say("evaluated", "zero-1", version=9, accuracy=1.0)
    after = live_after(story)
    assert (after.stage, after.accuracy) == (before.stage, before.accuracy)
    assert tell(after, story.events[-1]) is None


def test_plain_lines_tell_the_story_with_its_times() -> None:
    _, out = shown(Mode.plain, finished())
    lines = [line.strip() for line in out.getvalue().splitlines()]
    for said in (
        "0.0 s  started 4 services",
        "13.0 s  links and CPU quotas of 3 devices measured and within tolerance",
        "16.0 s  round 1 of 4: 3 devices, deadline 30 s",
        "fault k1: kill zero-1",
        "waiting for zero-1 (away), for at most 12 s more",
        "fault k1 healed",
        "round 1 closed in 14 s: 2 updates merged, without zero-1",
        "version 1: accuracy 81.25 %, loss 0.5000",
        "all rounds are done",
    ):
        assert any(line.endswith(said) for line in lines), said


def test_the_same_wait_is_told_once() -> None:
    story = one_round()
    for until_s in (7.0, 2.0):
        waiting = [{"agent": "zero-1", "phase": "away", "since_s": 3.0, "until_s": until_s}]
        story.say("waiting", round=1, **{"for": waiting})
    _, out = shown(Mode.plain, story)
    assert out.getvalue().count("waiting for zero-1") == 1


def test_json_is_one_object_per_event_and_the_summary_at_the_end() -> None:
    story = finished()
    progress, out = shown(Mode.json, story)
    plan = make_plan()
    summary = summarize(derive(History(events=story.events, producers={"coordinator"}), plan))
    progress.close(summary)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [event.event for event in story.events] + ["summary"]
    assert lines[-1]["summary"]["rounds"] == 1
    gate = next(line for line in lines if line["event"] == "gate_opened")
    assert (gate["node"], gate["_node"]) == ("hostd", "pi4-1")


def test_the_end_names_verdict_expectations_figures_and_report() -> None:
    story = finished()
    progress, out = shown(Mode.plain, story)
    progress.close(summarize(derive(History(events=story.events, producers={"coordinator"}), make_plan())))
    said = out.getvalue()
    assert "INVALID  fleet-1" in said
    assert "✓ rounds >= 1: 1" in said
    assert "runs/fleet-1/report.html" in said
    assert "81.25 %" in said


def test_the_live_picture_has_rounds_accuracy_waiting_and_devices() -> None:
    progress, _ = shown(Mode.rich, one_round())
    out = io.StringIO()
    Console(file=out, width=110, color_system=None).print(
        progress.picture(progress.live.devices["zero-1"].since + 5.0)
    )  # type: ignore[operator]
    picture = out.getvalue()
    for said in (
        "round 1 of 4",
        "kill zero-1",
        "zero-1 (away for 7 s), at most 8 s more",
        "2 of 3",
        "250× fewer",
    ):
        assert said in picture, said
    row = next(line for line in picture.splitlines() if line.startswith("zero-1"))
    assert row.split()[:5] == ["zero-1", "zero", "dead", "5", "s"]


def test_the_picture_fits_the_terminal_and_shows_trouble_first() -> None:
    plan = make_plan(200)
    out = io.StringIO()
    console = Console(file=out, width=100, height=24, force_terminal=True, color_system=None)
    progress = Progress(Mode.rich, plan, Path("runs/x"), console=console)
    story = Story()
    story.say("container_died", "hostd", node="pi-150", boot="b")
    progress.feed(story.events[0])
    console.print(progress.picture(story.at))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 24
    assert any(line.startswith("pi-150") for line in lines)
    assert any("and 190 more devices" in line for line in lines)


def test_drawing_is_bounded_and_the_terminal_is_given_back() -> None:
    progress, out = shown(Mode.rich, one_round())
    now = progress.live.began or 0.0
    for step in range(100):
        progress.tick(now + 100 + step * 0.01)
    drawn = out.getvalue().count("accuracy")
    assert 1 <= drawn <= 5
    progress.stop()
    progress.stop()
    assert out.getvalue().rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in out.getvalue()


def test_a_terminal_gets_rich_and_a_pipe_plain_lines() -> None:
    for terminal, mode in ((True, Mode.rich), (False, Mode.plain)):
        console = Console(file=io.StringIO(), force_terminal=terminal, _environ={"TERM": "xterm"})
        assert Progress(Mode.auto, make_plan(), Path("r"), console=console).mode is mode
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert Progress(Mode.auto, make_plan(), Path("r"), console=dumb).mode is Mode.plain


@pytest.mark.parametrize("mode", [Mode.plain, Mode.rich])
def test_words_of_devices_move_no_cursor_and_are_no_markup(mode: Mode) -> None:
    story = one_round()
    evil = "\x1b]0;owned\x07\x1b[2J[red]x[/nonsense]\nfake line\u202e"
    story.say("update_discarded", agent="zero-1", outcome="refused", reason=evil)
    story.say("lapse", what=evil, node=evil, requested=[evil], effective={"a": evil}, detail=evil)
    story.say("task_progress", task="t-zero-1", agent="zero-1", phase=evil)
    story.say("waiting", round=1, **{"for": [{"agent": evil, "phase": evil}]})
    progress, out = shown(mode, story)
    progress.tick(story.at + 10)
    progress.stop()
    assert "\x1b]0" not in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()
    assert "\nfake line" not in out.getvalue()
    assert "\u202e" not in out.getvalue()
    assert "[/nonsense]" in out.getvalue()


def test_a_sparkline_shows_the_last_values_between_0_and_1() -> None:
    assert sparkline([0.0, 0.5, 1.0, 7.0, -1.0]) == "▁▅██▁"
    assert sparkline([0.0, 1.0], width=1) == "█"


def test_clean_cuts_and_replaces() -> None:
    assert clean("a\tb\x9b") == "a\ufffdb\ufffd"
    assert len(clean("x" * 1000)) == 300


def test_wrong_types_in_events_break_nothing() -> None:
    story = finished()
    for wrong in (None, -1, "x", [], {}, [None], {"for": 1}):
        live = make_live(make_plan())
        for event in story.events:
            broken = Event(
                node=event.node,
                boot="b",
                seq=0,
                mono_s=event.mono_s,
                wall_s=0.0,
                event=event.event,
                fields=dict.fromkeys(event.fields, wrong),
            )
            apply(live, broken)
            tell(live, broken)
        assert live.bytes == 0
