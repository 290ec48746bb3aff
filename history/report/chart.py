"""Line charts of the learning over time and over bytes: accuracy, or the loss of a regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from history import units
from history.report.axes import Scale, ticks, time_ticks
from history.report.markup import Markup, tag
from history.summary import CurvePoint, Summary

WIDTH, HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 18, 40


@dataclass(frozen=True, slots=True)
class Companion:
    """A line beside the run's own. `points`: x, y; `css_class`: its colour and dashes."""

    name: str
    css_class: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn. `points`: x, y, explanation. `bands`: from, to, explanation, in units of x."""

    title: str
    description: str
    x_label: str
    points: Sequence[tuple[float, float, str]]
    x_ticks: Sequence[float]
    x_format: Callable[[float], str]
    x_high: float
    target: float | None = None
    y_high: float = 1.0
    y_format: Callable[[float], str] = lambda value: f"{value * 100:g} %"
    bands: Sequence[tuple[float, float, str]] = field(default_factory=tuple)
    companions: Sequence[Companion] = field(default_factory=tuple)


def over_time(summary: Summary, end_s: float) -> Chart:
    bands = [
        (fault.at_s, fault.at_s + (fault.lasted_s or 0.0), f"{fault.kind} {', '.join(fault.targets)}")
        for fault in summary.faults
        if fault.at_s is not None
    ]
    measure = measure_of(summary)
    return Chart(
        title=f"{measure.name} over time",
        description=f"Test {measure.name.lower()} of each model version against the seconds since the run began.",
        x_label="time since the run began",
        points=[(p.at_s, y, _explain(p)) for p in summary.accuracy if (y := measure.of(p)) is not None],
        x_ticks=time_ticks(end_s, 6),
        x_format=lambda value: units.seconds(value).replace(" 00 s", ""),
        x_high=end_s,
        target=target_of(summary),
        bands=bands,
        y_high=measure.high,
        y_format=measure.format,
    )


def over_bytes(summary: Summary) -> Chart:
    high = max((p.uplink_bytes for p in summary.accuracy), default=0)
    measure = measure_of(summary)
    return Chart(
        title=f"{measure.name} over uplink bytes",
        description=f"Test {measure.name.lower()} of each model version against the bytes all devices had sent for it.",
        x_label="update payload bytes received by the coordinator",
        points=[
            (p.uplink_bytes, y, _explain(p)) for p in summary.accuracy if (y := measure.of(p)) is not None
        ],
        x_ticks=ticks(high, 5),
        x_format=units.size,
        x_high=high,
        target=target_of(summary),
        y_high=measure.high,
        y_format=measure.format,
    )


class Evaluated(Protocol):
    """A version of the run, or a baseline."""

    @property
    def accuracy(self) -> float | None: ...

    @property
    def loss(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Measure:
    """What is on the y axis."""

    name: str
    of: Callable[[Evaluated], float | None]
    high: float
    format: Callable[[float], str]


def measure_of(summary: Summary) -> Measure:
    """Accuracy where there is one; else the loss, on an axis up to its largest value."""
    losses = [p.loss for p in summary.accuracy if p.loss is not None]
    if losses and not any(p.accuracy is not None for p in summary.accuracy):
        return Measure("Loss", lambda p: p.loss, max(losses) or 1.0, lambda value: units.plain(value, 3))
    return Measure("Accuracy", lambda p: p.accuracy, 1.0, lambda value: f"{value * 100:g} %")


def target_of(summary: Summary) -> float | None:
    """The accuracy that was asked for (or the loss, of a regression), if any was."""
    wanted = {("accuracy", ">"), ("best_accuracy", ">")}
    if measure_of(summary).name == "Loss":
        wanted = {("loss", "<"), ("mse", "<")}
    values = [e.value for e in summary.expectations if (e.metric, e.op[:1]) in wanted]
    return max(values, default=None)


def _explain(point: CurvePoint) -> str:
    sent = units.size(point.uplink_bytes)
    reached = (
        units.percent(point.accuracy) if point.accuracy is not None else f"loss {units.plain(point.loss)}"
    )
    return f"version {point.version}: {reached} after {units.seconds(point.at_s)}, {sent} sent"


def draw(chart: Chart) -> Markup:
    if not chart.points:
        return tag("p", f"{chart.title}: no evaluation was recorded.", class_="empty")
    x = Scale(0.0, chart.x_high or 1.0, _LEFT, WIDTH - _RIGHT)
    y = Scale(0.0, max(chart.y_high, chart.target or 0.0), HEIGHT - _BOTTOM, _TOP)
    figure = tag(
        "svg",
        tag("title", chart.title),
        tag("desc", chart.description),
        _bands(chart, x),
        _grid(chart, x, y),
        _target(chart, y),
        _companions(chart, x, y),
        _line(chart, x, y),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{chart.title}. {chart.description}",
        class_="chart",
    )
    return tag("figure", tag("figcaption", chart.title), figure)


def _bands(chart: Chart, x: Scale) -> list[Markup]:
    """At least two units wide: a fault that was over at once has to be seen too."""
    height = HEIGHT - _TOP - _BOTTOM
    return [
        tag(
            "rect",
            tag("title", why),
            x=x(a),
            y=_TOP,
            width=max(2.0, x(b) - x(a)),
            height=height,
            class_="band",
        )
        for a, b, why in chart.bands
    ]


def _grid(chart: Chart, x: Scale, y: Scale) -> list[Markup]:
    lines = []
    top = max(chart.y_high, chart.target or 0.0)
    for quarter in range(5):
        at = y(top * quarter / 4)
        lines.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=at, y2=at, class_="grid"))
        lines.append(tag("text", chart.y_format(top * quarter / 4), x=_LEFT - 8, y=at + 4, class_="tick end"))
    for value in chart.x_ticks:
        at = x(value)
        lines.append(tag("line", x1=at, x2=at, y1=HEIGHT - _BOTTOM, y2=HEIGHT - _BOTTOM + 4, class_="axis"))
        lines.append(tag("text", chart.x_format(value), x=at, y=HEIGHT - _BOTTOM + 17, class_="tick middle"))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    lines.append(tag("text", chart.x_label, x=middle, y=HEIGHT - 5, class_="label middle"))
    return lines


def _target(chart: Chart, y: Scale) -> list[Markup]:
    if chart.target is None:
        return []
    at = y(chart.target)
    return [
        tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=at, y2=at, class_="target"),
        tag(
            "text",
            f"expected {chart.y_format(chart.target)}",
            x=_LEFT + 6,
            y=at - 5,
            class_="tick target-text",
        ),
    ]


def _companions(chart: Chart, x: Scale, y: Scale) -> list[Markup]:
    return [
        tag(
            "polyline",
            tag("title", line.name),
            points=" ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line.points),
            class_=f"companion {line.css_class}",
        )
        for line in chart.companions
    ]


def _line(chart: Chart, x: Scale, y: Scale) -> list[Markup]:
    places = [(x(at), y(value)) for at, value, _ in chart.points]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    base = HEIGHT - _BOTTOM
    area = f"{places[0][0]:.1f},{base} {path} {places[-1][0]:.1f},{base}"
    dots = [
        tag("circle", tag("title", why), cx=px, cy=py, r=3.5, class_="dot")
        for (px, py), (_, _, why) in zip(places, chart.points, strict=True)
    ]
    return [tag("polygon", points=area, class_="area"), tag("polyline", points=path, class_="curve"), *dots]
