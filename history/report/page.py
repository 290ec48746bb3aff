"""The page: verdict first, then what it rests on. One file, no script, nothing fetched from anywhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec

from history import units
from history.baselines import Baselines
from history.probes import ProbeSummary
from history.record import Record
from history.report import baselines, chart, compression, learning, local, tables, timeline
from history.report.markup import Child, Markup, join, tag
from history.summary import Summary

_VERDICTS = {
    "pass": ("Pass", "Every expectation was held."),
    "fail": ("Fail", "Something that was expected did not hold."),
    "invalid": (
        "Invalid",
        "The emulation was not what it claims to be: the figures below say nothing about the fleet.",
    ),
    "interrupted": ("Interrupted", "The run was stopped before its end."),
}
REASONS_MAX = 12  # the verdict's reasons on the first screen; the tables have them all
# No script, no request: a device that smuggles markup into its history gets nothing out of the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@cache
def _style() -> Markup:
    return Markup((Path(__file__).parent / "style.css").read_text())


def render(record: Record, summary: Summary) -> str:
    """A whole HTML document, below 2 MB whatever the run was."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{summary.verdict}: {summary.run}"),
        tag("style", _style()),
    )
    body = tag("body", _header(summary), tag("main", _sections(record, summary)), _footer(summary))
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _header(summary: Summary) -> Markup:
    word, sentence = _VERDICTS[summary.verdict]
    if summary.verdict == "pass" and not summary.expectations:
        sentence = "The run reached its end; the topology expects nothing more."
    reasons = [tag("li", reason) for reason in summary.reasons[:REASONS_MAX]]
    left = len(summary.reasons) - REASONS_MAX
    if left > 0:
        reasons.append(tag("li", f"and {left} more"))
    return tag(
        "header",
        tag("p", "EdgeRig · run report", class_="eyebrow"),
        tag("h1", summary.name),
        tag("p", tag("code", summary.run), f" · {_began(summary)}", class_="meta"),
        tag(
            "div",
            tag("p", tag("strong", word), tag("span", sentence), class_="verdict"),
            tag("ul", reasons, class_="reasons") if reasons else None,
            class_=f"banner v-{summary.verdict}",
        ),
        tag("p", _story(summary), class_="lead"),
    )


def _began(summary: Summary) -> str:
    if summary.started_at is None:
        return "start not recorded"
    return summary.started_at.replace("T", " ").replace("Z", " UTC")


def _story(summary: Summary) -> str:
    """The run in a sentence or two."""
    reached = "without an evaluation"
    own = summary.local.personal if summary.local is not None else None
    if own is not None:
        reached = f"to {units.percent(own.mean)} on the devices' own tests"
    elif summary.final_accuracy is not None:
        reached = f"to {units.percent(summary.final_accuracy)}"
    elif summary.final_loss is not None:
        reached = f"to a test loss of {units.plain(summary.final_loss)}"
    took = f" in {units.seconds(summary.wall_s)}" if summary.wall_s is not None else ""
    who = f"{_counted(len(summary.devices), 'device')} trained {summary.model} on {summary.dataset}"
    story = f"{who} for {_counted(summary.rounds, 'round')} {reached}{took}"
    if summary.uplink_ratio is not None:
        saved = f"{units.plain(summary.uplink_ratio, 3)} times fewer than the same updates in float32"
        story += f", sending {units.size(summary.uplink_bytes)} up: {saved}"
    applied = sum(f.applied for f in summary.faults)
    if applied:
        story += f". {_counted(applied, 'fault')} struck, {sum(f.healed for f in summary.faults)} healed"
    return story + "."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _section(title: str, *children: Child, intro: str = "") -> Markup:
    anchor = title.lower().replace(" ", "-")
    return tag(
        "section", tag("h2", title), tag("p", intro, class_="intro") if intro else None, *children, id=anchor
    )


def _sections(record: Record, summary: Summary) -> list[Markup]:
    return [
        tag(
            "section",
            tag("div", tables.expectations(summary), class_="card"),
            _figures(summary),
            class_="first",
        ),
        _section(
            "Learning",
            *_charts(record, summary),
            learning.metrics(summary),
            learning.confusion(summary),
        ),
        *([_baselines(summary, summary.baselines)] if summary.baselines is not None else []),
        *([_section("Own tests", *own, intro=local.INTRO)] if (own := local.sections(summary)) else []),
        _section("Data", *learning.data(summary), intro=learning.describe(summary)),
        _section("Timeline", timeline.draw(record), intro=_TIMELINE_INTRO),
        _section("Rounds", tables.rounds(record, summary)),
        _section("Devices", tables.traffic(summary), intro=_TRAFFIC_INTRO),
        _section("Bytes", tables.layers(summary), intro=_LAYERS_INTRO),
        _section(
            "Compression",
            compression.devices(summary),
            compression.choices(summary),
            intro=_COMPRESSION_INTRO,
        ),
        _section("Links", tables.links(summary), intro=_emulation_intro(summary)),
        _section("Processors", tables.cpus(summary)),
        *([_section("Power", tables.power(summary))] if any(d.power for d in summary.devices) else []),
        _section("Faults", tables.faults(summary)),
        _section(
            "Checks", tables.checks(summary), intro="What the history alone can prove. Unknown is no pass."
        ),
        _section("Lapses", tables.lapses(summary)),
        _section("Environment", _environment(summary)),
        _section("Reproduce", _reproduce(summary)),
    ]


def _charts(record: Record, summary: Summary) -> list[Markup | None]:
    end_s = record.since(record.ended_at) if record.ended_at is not None else 0.0
    both = [
        baselines.beside(c, summary) for c in (chart.over_time(summary, end_s), chart.over_bytes(summary))
    ]
    return [tag("div", [chart.draw(each) for each in both], class_="pair"), baselines.legend(both[0])]


def _baselines(summary: Summary, found: Baselines) -> Markup:
    rounds = baselines.over_rounds(summary, found)
    drawn = (tag("div", chart.draw(rounds), class_="alone"), baselines.legend(rounds))
    return _section("Baselines", *drawn, baselines.comparison(summary, found), intro=baselines.INTRO)


_TIMELINE_INTRO = (
    "What each device did when, by its own account where there is one. Point at a segment for details."
)
_LAYERS_INTRO = (
    "The same updates (up) and versions (down) as float32 and as they were encoded; then everything that went through "
    "the device's MQTT client, headers, resends and pings included; then what passed its interface with TLS, TCP/IP "
    "and retransmissions. A device that was killed is short of its last seconds."
)
_TRAFFIC_INTRO = (
    "Up counts MQTT payload bytes of updates, as they reached the coordinator: chunks with headers and resends, and "
    "what came in an offer; beside it what the sender counted."
)

_COMPRESSION_INTRO = (
    "The residual is what compression left out and the device still has: under error feedback it levels off. One that "
    "keeps growing is not being sent."
)


def _emulation_intro(summary: Summary) -> str:
    emulation = summary.emulation
    if summary.runtime == "process":
        ways = {"relay": "by a relay in user space", "none": "not at all: unshaped"}
        how = ways.get(emulation.backend or "", units.NOT_RECORDED)
        return f"Runtime process: links are emulated {how}; nothing is measured, nothing is claimed."
    backend = f"Backend {emulation.backend}" if emulation.backend else "The backend was not recorded"
    why = f" ({emulation.reason})" if emulation.reason else ""
    return f"{backend}{why}. Measured per direction, never by half a round trip."


def _figures(summary: Summary) -> Markup:
    discarded = sum(summary.updates_discarded.values())
    lost = "losses unknown" if summary.updates_lost is None else f"{summary.updates_lost} lost"
    ended = f"ended by {summary.finish_reason}" if summary.finish_reason else "end not recorded"
    peak = max((d.peak_rss_mb for d in summary.devices if d.peak_rss_mb is not None), default=None)
    training = summary.phases.get("training")
    cards = [
        learning.headline(summary),
        ("Rounds", f"{summary.rounds}", ended),
        ("Wall time", units.seconds(summary.wall_s), f"training {units.seconds(training)}"),
        (
            "Bytes up",
            units.size(summary.uplink_bytes),
            f"float32: {units.size(summary.uplink_bytes_float32)}",
        ),
        ("Fewer than float32", _times(summary.uplink_ratio), f"{units.size(summary.downlink_bytes)} down"),
        ("Updates merged", f"{summary.updates_merged}", f"{discarded} discarded, {lost}"),
        ("Peak memory", units.NOT_RECORDED if peak is None else f"{peak:.0f} MB", "largest agent"),
        ("Lapses", f"{len(summary.lapses)}", f"of {summary.event_count:,} events"),
    ]
    if summary.probes is not None:
        cards.append(_probes(summary.probes))
    if summary.epsilon is not None:
        cards.append(
            ("Privacy", f"ε = {units.plain(summary.epsilon, 3)}", "of each device, replaced by another")
        )
    return tag(
        "dl",
        [
            tag("div", tag("dt", name), tag("dd", value), tag("dd", more, class_="more"))
            for name, value, more in cards
        ],
        class_="figures",
    )


def _probes(found: ProbeSummary) -> tuple[str, str, str]:
    moved = units.size(found.uplink_bytes + found.downlink_bytes)
    return "Loss probes", moved, f"{found.answers} answers, {units.size(found.downlink_bytes)} of it down"


def _times(value: float | None) -> str:
    return units.NOT_RECORDED if value is None else f"{units.plain(value, 3)} ×"


def _environment(summary: Summary) -> Markup:
    pairs: list[tuple[str, Child]] = [
        ("runtime", summary.runtime),
        ("links by", summary.emulation.backend or units.NOT_RECORDED),
        ("because", summary.emulation.reason or units.NOT_RECORDED),
        ("seed", str(summary.seed)),
        ("topology sha256", tag("code", summary.topology_sha256)),
    ]
    for key, value in sorted(summary.environment.items()):
        pairs.append((key, _plain(value)))
    for name, version in summary.software.items():
        pairs.append((name, version))
    for name, wall_s in summary.phases.items():
        pairs.append((f"phase {name.replace('_', ' ')}", units.seconds(wall_s)))
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs], class_="facts")


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _reproduce(summary: Summary) -> Markup:
    folder = f"runs/{summary.run}"
    command = f"edgerig run {folder}/topology.yaml --runtime {summary.runtime} --seed {summary.seed}"
    lines = [command, f"edgerig audit {folder}", f"edgerig check {folder}"]
    note = (
        "The same seed gives the same shards, initial model, cohorts and fault schedule. "
        "Packets and processor time are real, so times and the last digits of the accuracy may differ."
    )
    return join(tag("pre", tag("code", "\n".join(lines))), tag("p", note, class_="note"))


def _footer(summary: Summary) -> Markup:
    return tag(
        "footer",
        tag(
            "p",
            f"Made from {summary.event_count:,} events; the raw history is in nodes/, the tables in run.sqlite.",
        ),
    )
