"""The report: complete, self-contained, harmless whatever a device calls itself, and small."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import synthetic_run as run

from history import units as u
from history.derive import derive
from history.record import Record
from history.report import render
from history.report.axes import Scale, ticks, time_ticks
from history.report.lanes import lanes, task_segments
from history.report.markup import Markup, join, tag, text
from history.summarize import summarize

VOID = {"meta", "br", "col", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed in order, and gathers what a test wants to know."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())


def rendered(record: Record) -> str:
    return render(record, summarize(record))


def record_of(script: run.Script) -> Record:
    return derive(script.history(), script.plan)


@pytest.fixture(scope="module")
def record() -> Record:
    return record_of(run.whole_run())


def test_the_verdict_comes_first_then_expectations_then_figures(record: Record) -> None:
    said = Page(rendered(record)).said
    order = [
        "pi-fleet",
        "Pass",
        "Expectations",
        "Test accuracy",
        "Learning",
        "Timeline",
        "Links",
        "Reproduce",
    ]
    places = [said.index(word) for word in order]
    assert places == sorted(places)


def test_the_figures_are_the_runs(record: Record) -> None:
    said = Page(rendered(record)).said
    sent = summarize(record).uplink_bytes
    for figure in ("96.4 %", "1 min 28 s", u.size(sent), "250 ×", "50", "kill pi4-3", "nfqueue", "✓ held"):
        assert figure in said
    assert "~" not in said
    assert "#" not in said
    assert f"edgerig run runs/{record.plan.run}/topology.yaml --runtime docker --seed 7" in said


def test_it_needs_nothing_from_anywhere(record: Record) -> None:
    page = rendered(record)
    elements = Page(page).elements
    assert {name for name, _ in elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
    } == set()
    assert not [attribute for _, attrs in elements for attribute in attrs if attribute.startswith("on")]
    assert re.findall(r"(?:https?:|//)[^\s\"']+", page) == []
    assert "@import" not in page
    assert len(page.encode()) < 200_000


def test_every_drawing_has_a_title_and_a_description(record: Record) -> None:
    page = rendered(record)
    assert page.count("<svg") == 3
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert re.match(r"<svg[^>]*role=\"img\"[^>]*aria-label=\"[^\"]+\"", svg)
        assert "<title>" in svg
        assert "<desc>" in svg


# --- hostile words ----------------------------------------------------------------------------------------------------

HOSTILE = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[31m\x00"


def poison(script: run.Script) -> None:
    """In every text field of every event, devices' and services' alike."""
    kept = {"device", "agent", "task", "node", "boot", "sha256", "state", "outcome", "phase", "name"}
    for line in script.lines:
        for key, value in line.fields.items():
            if isinstance(value, str) and key not in kept:
                line.fields[key] = HOSTILE
            elif isinstance(value, list) and value and isinstance(value[0], str):
                line.fields[key] = [HOSTILE]
    script.hostd(
        50.0, "lapse", what=HOSTILE, node=HOSTILE, requested=HOSTILE, effective=HOSTILE, detail=HOSTILE
    )
    script.hostd(51.0, "fault_applied", fault=HOSTILE, kind=HOSTILE, targets=[HOSTILE], lateness_s=0.1)
    script.hostd(51.0, "probed", kernel={HOSTILE: HOSTILE}, backend=HOSTILE, reason=HOSTILE)
    script.say(52.0, "zero-1", HOSTILE, task=HOSTILE)
    script.say(52.1, "zero-1", "task_received", task=HOSTILE)


def test_hostile_words_stay_words() -> None:
    script = run.whole_run(name=HOSTILE[:200], model=HOSTILE)
    poison(script)
    page = rendered(record_of(script))
    parsed = Page(page)
    names = {name for name, _ in parsed.elements}
    assert not names & {"script", "img"}
    assert not [key for _, attrs in parsed.elements for key in attrs if key.startswith("on")]
    assert "<script>alert(1)</script>" in parsed.said
    assert "\x1b" not in page
    assert "\x00" not in page


def test_text_is_escaped_once_and_cut() -> None:
    assert text('<a href="x">&') == "&lt;a href=&quot;x&quot;&gt;&amp;"
    assert join(tag("b", "<"), Markup("<i></i>")) == "<b>&lt;</b><i></i>"
    assert tag("p", title='"', class_="a", data_x=1.5) == '<p title="&quot;" class="a" data-x="1.5"></p>'
    assert text("\x1b[2J\ud800") == "\ufffd[2J\ufffd"
    assert len(text("x" * 10_000)) == 600


# --- partial and large runs -------------------------------------------------------------------------------------------


def drop_producer(name: str) -> Callable[[run.Script], None]:
    def mutate(script: run.Script) -> None:
        script.lines = [line for line in script.lines if line.node != name]

    return mutate


@pytest.mark.parametrize("gone", ["coordinator", "hostd", "runner", "zero-1", "all"])
def test_without_a_producer_the_report_says_what_is_missing(gone: str) -> None:
    script = run.whole_run()
    if gone == "all":
        script.lines = []
    else:
        drop_producer(gone)(script)
    said = Page(rendered(record_of(script))).said
    assert ("not recorded" in said) == (gone != "runner")
    verdict = {
        "coordinator": "Fail",
        "hostd": "Invalid",
        "all": "Invalid",
        "runner": "Pass",
        "zero-1": "Fail",
    }[gone]
    assert f"pi-fleet-0101-120000-ab12 · {'start not' if gone == 'all' else '2026-01-01'}" in said
    assert re.search(rf"\b{verdict}\b", said)


@pytest.mark.parametrize("event", sorted({line.event for line in run.whole_run().lines}))
def test_without_any_one_kind_of_event_it_still_renders(event: str) -> None:
    script = run.whole_run()
    script.lines = [line for line in script.lines if line.event != event]
    assert "Reproduce" in Page(rendered(record_of(script))).said


def test_a_thousand_devices_stay_below_two_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    name, profile, cpus, link = "pi", *run.CLASSES["pi4"][1:]
    monkeypatch.setattr(run, "CLASSES", {name: (1000, profile, cpus, link)})
    monkeypatch.setattr(run, "KILLED", "pi-999")
    script = run.Script(run.make_plan())
    at = run.bring_up(script)
    for round_ in (1, 2):
        at = run.play_round(script, round_, at)
    run.finish(script, at)
    record = record_of(script)
    page = rendered(record)
    assert len(page.encode()) < 2_000_000
    said = Page(page).said
    assert "48 of 1000 devices are shown." in said
    assert "600 more rows are in run.sqlite." in said
    assert "pi-999" in [lane.device for lane in lanes(record, 48)]


# --- lanes ------------------------------------------------------------------------------------------------------------


def test_a_task_is_cut_into_its_phases(record: Record) -> None:
    device = record.plan.devices[6]  # zero-1
    task = record.tasks[run.task_name(1, device)]
    found = task_segments(record, record.devices[device.name], task)
    assert [s.phase for s in found] == [
        "sent",
        "fetching",
        "training",
        "encoding",
        "waiting",
        "uploading",
        "settling",
    ]
    fetch_s, train_s = run.step_times(device, 1)
    lasted = {s.phase: s.end_s - s.begin_s for s in found}
    assert lasted["fetching"] == pytest.approx(fetch_s, abs=1e-3)
    assert lasted["training"] == pytest.approx(train_s, abs=1e-3)
    assert all(a.end_s == pytest.approx(b.begin_s) for a, b in pairwise(found))


def test_an_update_that_goes_in_its_offer_is_uploading_until_the_coordinator_has_it() -> None:
    script = run.whole_run()
    device = script.plan.devices[6]
    task = run.task_name(1, device)
    mine = {x.event: x for x in script.lines if x.fields.get("task") == task}
    sent, received = mine["sent"], mine["update_received"]
    sent.fields["chunks"], sent.at = 0, mine["spooled"].at
    for event in ("update_offered", "update_granted"):
        mine[event].at = received.at - 1e-6
    record = record_of(script)
    found = task_segments(record, record.devices[device.name], record.tasks[task])
    (upload,) = (s for s in found if s.phase == "uploading")
    assert upload.end_s - upload.begin_s == pytest.approx(received.at - sent.at)
    assert [s.phase for s in found][-3:] == ["waiting", "uploading", "settling"]


def test_a_device_that_has_the_model_already_goes_straight_to_training() -> None:
    """It says so to the coordinator only; its own history has no `model_fetched` then."""
    script = run.whole_run()
    device = script.plan.devices[0]
    task = run.task_name(3, device)
    script.lines = [x for x in script.lines if (x.event, x.fields.get("task")) != ("model_fetched", task)]
    record = record_of(script)
    found = task_segments(record, record.devices[device.name], record.tasks[task])
    lasted = {s.phase: s.end_s - s.begin_s for s in found}
    fetch_s, train_s = run.step_times(device, 3)
    assert lasted["fetching"] == pytest.approx(fetch_s + 0.1, abs=1e-3)
    assert lasted["training"] == pytest.approx(train_s - 0.1, abs=1e-3)


def test_training_begins_after_the_last_object_of_the_model() -> None:
    script = run.whole_run()
    device = script.plan.devices[6]
    task = run.task_name(1, device)
    fetched = next(x for x in script.lines if x.event == "model_fetched" and x.fields["task"] == task)
    graph = dict(fetched.fields) | {"object": "graph-1", "bytes": 9_000}
    script.say(fetched.at - 2.0, device.name, "model_fetched", **graph)
    record = record_of(script)
    found = task_segments(record, record.devices[device.name], record.tasks[task])
    lasted = {s.phase: s.end_s - s.begin_s for s in found}
    assert [s.phase for s in found].count("fetching") == 1
    assert lasted["fetching"] == pytest.approx(run.step_times(device, 1)[0], abs=1e-3)
    assert lasted["training"] == pytest.approx(run.step_times(device, 1)[1], abs=1e-3)


def test_a_killed_task_stops_where_the_device_died_and_begins_again(record: Record) -> None:
    device = record.devices[run.KILLED]
    task = record.tasks[run.task_name(run.KILL_ROUND, device.plan)]
    found = task_segments(record, device, task)
    (begin, end), *_ = [(record.since(a), record.since(b or 0.0)) for a, b in device.dead]
    assert [s.phase for s in found].count("training") == 2
    assert not [s for s in found if s.begin_s < end - 1e-6 and s.end_s > begin + 1e-6]


def test_without_the_agents_word_the_coordinators_is_used() -> None:
    script = run.whole_run()
    drop_producer("zero-1")(script)
    record = record_of(script)
    task = record.tasks[run.task_name(1, record.plan.devices[6])]
    phases = [s.phase for s in task_segments(record, record.devices["zero-1"], task)]
    assert phases == ["sent", "fetching", "training", "waiting", "uploading", "settling"]


# --- figures for people -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (2_837, "2.84 kB"),
        (999_900, "1 MB"),
        (41_384_400, "41.4 MB"),
        (None, "not recorded"),
    ],
)
def test_sizes(value: float | None, shown: str) -> None:
    assert u.size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.004, "0.004 s"),
        (9.0, "9 s"),
        (59.94, "59.9 s"),
        (88.394, "1 min 28 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(value: float, shown: str) -> None:
    assert u.seconds(value) == shown


def test_other_units() -> None:
    assert [u.rate(20_000_000), u.rate(330_000), u.rate(None)] == ["20 Mbit/s", "330 kbit/s", "unlimited"]
    assert [u.percent(0.9644), u.signed_percent(-0.0123), u.signed_milliseconds(0.0004)] == [
        "96.4 %",
        "−1.2 %",
        "+0.4 ms",
    ]
    assert [u.plain(0.00001), u.plain(1234567.0), u.plain(None)] == ["0.00001", "1,234,567", "not recorded"]


def test_scales_and_ticks() -> None:
    scale = Scale(0, 10, 100, 200)
    assert [scale(0), scale(5), scale(10), scale(-3), scale(99)] == [100, 150, 200, 100, 200]
    assert Scale(0, 0, 5, 9)(3) == 5
    assert ticks(165_323, 5) == [0, 50_000, 100_000, 150_000]
    assert ticks(0) == [0.0]
    assert time_ticks(93.4, 6) == [0, 30, 60, 90]
    assert time_ticks(200_000, 8) == [0, 43_200, 86_400, 129_600, 172_800]
