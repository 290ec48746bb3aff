"""The run beside its baselines: as lines in the charts of the learning, as a chart over rounds, and in figures."""

from __future__ import annotations

from dataclasses import replace

from history import units
from history.baselines import Baseline, Baselines, LocalOnly
from history.report.axes import ticks
from history.report.chart import Chart, Companion, Measure, measure_of, target_of
from history.report.markup import Markup, tag
from history.report.tables import table
from history.summary import Summary

INTRO = (
    "The same model and data, recomputed by edgerig baseline without compression, faults or a network. All have the "
    "same number of gradient steps; a device alone has those that it has among the others."
)


# --- drawn ------------------------------------------------------------------------------------------------------------


def beside(chart: Chart, summary: Summary) -> Chart:
    """A baseline has neither seconds of the run nor bytes of its links: what it came to is a level in such a chart."""
    return replace(chart, companions=_companions(summary, chart.x_high, curves=False))


def over_rounds(summary: Summary, found: Baselines) -> Chart:
    """Where a baseline has a curve, beside the run's own."""
    high = max([found.rounds, *(p.version for p in summary.accuracy)])
    return replace(_run_over_rounds(summary, high), companions=_companions(summary, high, curves=True))


def _companions(summary: Summary, x_high: float, *, curves: bool) -> list[Companion]:
    measure, lines = measure_of(summary), []
    for name, css_class, found in _named(summary.baselines):
        value = _drawn(measure, found)
        if value is not None:
            level = [(0.0, value), (x_high, value)]
            points = (_curve(measure, found) if curves else []) or level
            lines.append(Companion(_label(name, measure, found), css_class, points))
    return lines


def _run_over_rounds(summary: Summary, high: int) -> Chart:
    measure = measure_of(summary)
    return Chart(
        title=f"{measure.name} over rounds",
        description=f"Test {measure.name.lower()} of the run's versions and of its baselines after as many rounds.",
        x_label="versions of the run, rounds of a baseline",
        points=[
            (p.version, y, f"version {p.version}: {measure.format(y)}")
            for p in summary.accuracy
            if (y := measure.of(p)) is not None
        ],
        x_ticks=[value for value in ticks(high, 8) if value == int(value)],
        x_format=lambda value: f"{value:g}",
        x_high=high,
        target=target_of(summary),
        y_high=measure.high,
        y_format=measure.format,
    )


def _named(found: Baselines | None) -> list[tuple[str, str, Baseline | LocalOnly]]:
    if found is None:
        return []
    every = (
        ("FedAvg, uncompressed", "b-fedavg", found.fedavg),
        ("centralised", "b-centralised", found.centralised),
        ("each device alone, mean", "b-local", found.local_only),
    )
    return [(name, css_class, baseline) for name, css_class, baseline in every if baseline is not None]


def _drawn(measure: Measure, found: Baseline | LocalOnly) -> float | None:
    """What it came to. One that never began came to nothing, and a loss beyond the axis has no place on it."""
    began = bool(found.devices) if isinstance(found, LocalOnly) else found.rounds > 0
    value = measure.of(found) if began else None
    return value if value is not None and value <= measure.high else None


def _curve(measure: Measure, found: Baseline | LocalOnly) -> list[tuple[float, float]]:
    """Devices alone have none, and that of a run of one round is a point: both stay a level."""
    points = () if isinstance(found, LocalOnly) else found.curve
    drawn = [(float(p.round), y) for p in points if (y := measure.of(p)) is not None]
    return drawn if len(drawn) > 1 else []


def _label(name: str, measure: Measure, found: Baseline | LocalOnly) -> str:
    shown = units.percent(found.accuracy) if measure.name == "Accuracy" else units.plain(found.loss)
    return f"{name}: {shown}" + (f" ({found.note})" if found.note else "")


def legend(chart: Chart) -> Markup | None:
    if not chart.companions or not chart.points:
        return None
    keys = [("b-run", "this run"), *((line.css_class, line.name) for line in chart.companions)]
    return tag(
        "ul", [tag("li", tag("i", class_=f"line-key {key}"), name) for key, name in keys], class_="legend"
    )


# --- in figures -------------------------------------------------------------------------------------------------------


def comparison(summary: Summary, found: Baselines) -> Markup:
    """The run beside them."""
    rows = []
    run_bytes = units.size(summary.uplink_bytes) if summary.uplink_bytes else units.DASH
    own = (units.DASH,)
    rows.append(
        (
            "this run",
            *_figures(summary.final_accuracy, summary.final_loss),
            *own,
            f"{summary.versions}",
            units.DASH,
            run_bytes,
            "",
        )
    )
    for name, b in (("FedAvg, uncompressed", found.fedavg), ("centralised", found.centralised)):
        if b is not None:
            sent = units.size(b.uplink_bytes) if b.uplink_bytes else units.DASH
            rows.append(
                (
                    name,
                    *_figures(b.accuracy, b.loss),
                    _share(b.own_accuracy),
                    f"{b.rounds}",
                    f"{b.steps}",
                    sent,
                    b.note,
                )
            )
    alone = found.local_only
    if alone is not None:
        spread = f"from {units.percent(alone.accuracy_min)} to {units.percent(alone.accuracy_max)}"
        note = "; ".join(x for x in (spread if alone.accuracy_min is not None else "", alone.note) if x)
        name = f"each of {len(alone.devices)} devices alone, mean"
        figures = _figures(alone.accuracy, alone.loss)
        rows.append(
            (name, *figures, _share(alone.own_accuracy), units.DASH, f"{alone.steps}", units.DASH, note)
        )
    head = ["", "#accuracy", "#loss", "#own test splits", "#rounds", "#gradient steps", "#sent up", "~"]
    return table("The run and its baselines, on the global test data", head, rows, "There are none.")


def _share(value: float | None) -> str:
    return units.DASH if value is None else units.percent(value)


def _figures(accuracy: float | None, loss: float | None) -> tuple[str, str]:
    return _share(accuracy), units.DASH if loss is None else units.plain(loss)
