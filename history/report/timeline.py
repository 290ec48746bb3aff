"""Draw the lanes: phases of every task, deaths, and the faults as bands across the devices they hit."""

from __future__ import annotations

from history import units
from history.record import Record
from history.report.axes import Scale, time_ticks
from history.report.lanes import PHASES, Lane, Segment, lanes
from history.report.markup import Markup, tag
from history.summarize import phases

WIDTH = 1080
LANES_MAX = 48  # more lanes than a screen shows say less
SEGMENTS_MAX = 5_000  # about 200 bytes each: keeps the whole report well below 2 MB
_LEFT, _RIGHT, _TOP, _BOTTOM = 96, 12, 34, 26
_LANE, _BAR = 24, 14


def draw(record: Record) -> Markup:
    shown = lanes(record, LANES_MAX)
    if not any(lane.segments for lane in shown):
        return tag("p", "No task was recorded.", class_="empty")
    end_s = record.since(record.ended_at or 0.0)
    height = _TOP + _LANE * len(shown) + _BOTTOM
    x = Scale(0.0, end_s, _LEFT, WIDTH - _RIGHT)
    left = sum(len(lane.segments) for lane in shown) - SEGMENTS_MAX
    figure = tag(
        "svg",
        tag("title", "Task timeline"),
        tag("desc", "One lane per device; each segment is a phase of one task. Bands mark faults."),
        _hatch(),
        _phases(record, x, height),
        _axis(x, end_s, height),
        _rounds(record, x, height),
        [_lane(lane, index, x) for index, lane in enumerate(_thinned(shown))],
        _faults(record, shown, x, height),
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label="Task timeline: what each device did when",
        class_="timeline",
    )
    notes = []
    if len(record.devices) > len(shown):
        notes.append(f"{len(shown)} of {len(record.devices)} devices are shown.")
    if left > 0:
        notes.append(f"{left} later segments are left out; all of them are in run.sqlite.")
    note = tag("p", " ".join(notes), class_="note") if notes else None
    return tag("div", tag("div", figure, class_="scroll", tabindex=0), _legend(), note)


def _thinned(shown: list[Lane]) -> list[Lane]:
    """The same number of segments for every device, from the beginning."""
    share = SEGMENTS_MAX // max(1, len(shown))
    return [Lane(lane.device, lane.group, lane.segments[:share], lane.dead, lane.offline) for lane in shown]


def _hatch() -> Markup:
    stroke = tag("path", d="M-1,7 L7,-1 M5,7 L7,5 M-1,1 L1,-1", class_="hatch")
    return tag("defs", tag("pattern", stroke, id="away", width=6, height=6, patternUnits="userSpaceOnUse"))


def _axis(x: Scale, end_s: float, height: int) -> list[Markup]:
    marks = []
    for value in time_ticks(end_s, 10):
        at, base = x(value), height - _BOTTOM
        marks.append(tag("line", x1=at, x2=at, y1=_TOP - 4, y2=base, class_="grid"))
        label = units.seconds(value).replace(" 00 s", "")
        marks.append(tag("text", label, x=at, y=base + 17, class_="tick middle"))
    return marks


_PHASES = {"bring_up": "bring-up", "measure": "measuring links and quotas", "join": "joining"}


def _phases(record: Record, x: Scale, height: int) -> list[Markup]:
    """What happened before the first round; named where the name fits."""
    marks, begin_s = [], 0.0
    lasted = phases(record)
    for index, (phase, name) in enumerate(_PHASES.items()):
        begin, end = x(begin_s), x(begin_s + lasted.get(phase, 0.0))
        begin_s += lasted.get(phase, 0.0)
        if index % 2 == 1:
            tall = height - _TOP - _BOTTOM
            marks.append(
                tag(
                    "rect",
                    tag("title", name),
                    x=begin,
                    y=_TOP,
                    width=end - begin,
                    height=tall,
                    class_="phase",
                )
            )
        if end - begin > 7 * len(name):
            marks.append(tag("text", name, x=(begin + end) / 2, y=_TOP - 4, class_="phase-text middle"))
    return marks


def _rounds(record: Record, x: Scale, height: int) -> list[Markup]:
    """A line where a round opens, its number above, as long as there is room for it."""
    marks, free = [], 0.0
    for number in sorted(record.rounds):
        opened = record.rounds[number].opened_at
        if opened is None:
            continue
        at = x(record.since(opened))
        marks.append(tag("line", x1=at, x2=at, y1=_TOP - 10, y2=height - _BOTTOM, class_="round"))
        if at >= free:
            label = f"round {number}" if not free else f"{number}"
            marks.append(tag("text", label, x=at + 3, y=_TOP - 4, class_="tick"))
            free = at + (52 if not marks[2:] else 22)
    return marks


def _lane(lane: Lane, index: int, x: Scale) -> Markup:
    top = _TOP + _LANE * index + (_LANE - _BAR) / 2
    middle = top + _BAR / 2
    base = tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=middle, y2=middle, class_="lane")
    name = tag(
        "text", tag("title", lane.device), lane.device[:14], x=_LEFT - 10, y=middle + 4, class_="name end"
    )
    away = [_span(x, top, a, b, "away", f"{lane.device} offline") for a, b in lane.offline]
    dead = [_span(x, top, a, b, "dead", f"{lane.device} dead") for a, b in lane.dead]
    return tag("g", base, name, away, [_segment(lane.device, s, x, top) for s in lane.segments], dead)


def _segment(device: str, segment: Segment, x: Scale, top: float) -> Markup:
    lasted = units.seconds(segment.end_s - segment.begin_s)
    why = f"{device}, round {segment.round}: {PHASES[segment.phase]}, {lasted}, then {segment.state or 'unfinished'}"
    return _span(x, top, segment.begin_s, segment.end_s, f"p-{segment.phase}", why)


def _span(x: Scale, top: float, begin_s: float, end_s: float, class_: str, why: str) -> Markup:
    """At least a hair wide."""
    width = max(0.8, x(end_s) - x(begin_s))
    return tag("rect", tag("title", why), x=x(begin_s), y=top, width=width, height=_BAR, class_=class_)


def _faults(record: Record, shown: list[Lane], x: Scale, height: int) -> list[Markup]:
    marks = []
    rows = {lane.device: index for index, lane in enumerate(shown)}
    for fault in record.faults.values():
        if fault.applied_at is None:
            continue
        healed = fault.healed_at if fault.healed_at is not None else record.ended_at or fault.applied_at
        begin, end = x(record.since(fault.applied_at)), x(record.since(healed))
        until = "healed" if fault.healed_at is not None else "not healed"
        why = f"fault {fault.id}: {fault.kind} {', '.join(fault.targets)}, {until}"
        width, tall = max(2.0, end - begin), height - _TOP - _BOTTOM
        marks.append(tag("rect", tag("title", why), x=begin, y=_TOP, width=width, height=tall, class_="band"))
        marks.append(tag("line", x1=begin, x2=begin, y1=_TOP - 14, y2=height - _BOTTOM, class_="strike"))
        label = (
            f"{fault.kind} {fault.targets[0] if len(fault.targets) == 1 else f'{len(fault.targets)} nodes'}"
        )
        marks.append(tag("text", label, x=begin + 3, y=_TOP - 18, class_="tick fault-text"))
        for name in fault.targets:
            if name in rows:
                top = _TOP + _LANE * rows[name] + 1
                marks.append(tag("rect", x=begin, y=top, width=width, height=_LANE - 2, rx=3, class_="hit"))
    return marks


def _legend() -> Markup:
    keys = [(f"p-{phase}", name) for phase, name in PHASES.items()]
    keys += [("k-away", "offline"), ("k-dead", "dead"), ("k-band", "fault, until healed")]
    return tag(
        "ul", [tag("li", tag("i", class_=f"key {class_}"), name) for class_, name in keys], class_="legend"
    )
