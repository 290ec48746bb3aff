"""The figures of `benchmarks.accuracy` as a table and a plot: accuracy over the bytes of an update, a line a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

Point = dict[str, Any]
Figures = dict[str, Any]
Box = tuple[float, float, float, float]  # left, top, right, bottom

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 46, 56
COLOURS = {"cnn": "#2563a8", "mlp": "#b45309"}
LABEL_HEIGHT, LETTER_WIDTH = 12, 6.3  # of 11 px text, on the safe side
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.title{font-weight:600;font-size:15px}"
    ".axis{stroke:#888}.grid{stroke:#ddd}.label{font-size:11px}"
)


def models(figures: Figures) -> Iterator[tuple[str, Figures]]:
    yield "cnn", figures
    if "mlp" in figures:
        yield "mlp", figures["mlp"]


def markdown(figures: Figures) -> str:
    """A table for each model."""
    settings = figures["settings"]
    lines = [
        f"MNIST, {settings['devices']} devices, Dirichlet {settings['alpha']}, {settings['rounds']} rounds, "
        "mean of the last 3 rounds; made by `python -m benchmarks.accuracy`.",
    ]
    for model, own in models(figures):
        samples, batch = settings["samples_per_device"][model], settings["batch_size"][model]
        lines += [
            "",
            f"**{model}**, {samples} samples a device, batches of {batch}, learning rate {own['lr']:g}",
            "",
            "| chain | bytes of an update | fewer than float32 | accuracy | ± over seeds | seeds | points lost |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for point in own["curve"]:
            lost = 100 * (own["baseline_accuracy"] - point["accuracy"])
            lines.append(
                f"| {point['chain']} | {point['update_bytes']:,.0f} | {point['uplink_ratio']:.3g} × "
                f"| {100 * point['accuracy']:.2f} % | {100 * point['accuracy_std']:.2f} | {point['seeds']} "
                f"| {lost:.2f} |"
            )
    return "\n".join(lines) + "\n"


def svg(figures: Figures) -> str:
    """Bytes of an update on a logarithmic axis, accuracy up; bars are one standard deviation over seeds."""
    points = [point for _, own in models(figures) for point in own["curve"]]
    low_x = math.floor(math.log10(min(point["update_bytes"] for point in points)))
    high_x = math.ceil(math.log10(max(point["update_bytes"] for point in points)))
    low_y = math.floor(100 * min(point["accuracy"] - point["accuracy_std"] for point in points)) / 100
    high_y = math.ceil(100 * max(point["accuracy"] + point["accuracy_std"] for point in points)) / 100

    def x(size_bytes: float) -> float:
        share = (math.log10(size_bytes) - low_x) / (high_x - low_x)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(accuracy: float) -> float:
        return HEIGHT - BOTTOM - (accuracy - low_y) / (high_y - low_y) * (HEIGHT - BOTTOM - TOP)

    parts = [*_axes(x, y, range(low_x, high_x + 1), low_y, high_y)]
    taken = [_around(x(p["update_bytes"]), y(p["accuracy"])) for p in points]
    for row, (model, own) in enumerate(models(figures)):
        parts += _line(x, y, COLOURS[model], own["curve"], taken)
        parts.append(
            f'<rect x="{LEFT + 90 * row}" y="{TOP - 18}" width="12" height="4" fill="{COLOURS[model]}"/>'
        )
        parts.append(f'<text x="{LEFT + 90 * row + 18}" y="{TOP - 12}">{escape(model)}</text>')
    title = "Accuracy over the bytes of an update"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}"><style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text class="title" x="{LEFT}" y="20">{title}</text>{"".join(parts)}</svg>\n'
    )


def _axes(x: Any, y: Any, powers: Sequence[int], low: float, high: float) -> Iterator[str]:
    names = ("B", "kB", "MB", "GB")
    for power in powers:
        at = x(10.0**power)
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        text = f"{10 ** (power % 3)} {names[power // 3]}"
        yield f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>'
    step = 0.01 if high - low <= 0.1 else 0.02
    for index in range(round((high - low) / step) + 1):
        value = low + index * step
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{100 * value:.0f} %</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">bytes of an update, up</text>'


def _around(at: float, value: float) -> Box:
    return at - 5, value - 5, at + 5, value + 5


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def place(at: float, value: float, text: str, taken: list[Box]) -> Box:
    """Where a point's label goes: the nearest place that is free and in the plot; `taken` has it from then on."""
    width = LETTER_WIDTH * len(text)
    options = []
    for step in range(10):
        for top in (value + 6 + step * LABEL_HEIGHT, value - 6 - (step + 1) * LABEL_HEIGHT):
            for left in (at + 6, at - 6 - width):
                options.append((left, top, left + width, top + LABEL_HEIGHT))
    inside = [
        b for b in options if b[0] >= LEFT and b[2] <= WIDTH and b[1] >= TOP and b[3] <= HEIGHT - BOTTOM
    ]
    free = [box for box in inside if not any(_meet(box, other) for other in taken)]
    chosen = next(iter(free or inside or options))
    taken.append(chosen)
    return chosen


def _line(x: Any, y: Any, colour: str, curve: Sequence[Point], taken: list[Box]) -> Iterator[str]:
    ordered = sorted(curve, key=lambda point: point["update_bytes"])
    path = " ".join(f"{x(p['update_bytes']):.1f},{y(p['accuracy']):.1f}" for p in ordered)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for point in ordered:
        at, value, spread = x(point["update_bytes"]), point["accuracy"], point["accuracy_std"]
        yield (
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(value - spread):.1f}" y2="{y(value + spread):.1f}" '
            f'stroke="{colour}"/>'
        )
        yield f'<circle cx="{at:.1f}" cy="{y(value):.1f}" r="4" fill="{colour}"/>'
        left, _, _, bottom = place(at, y(value), point["chain"], taken)
        yield f'<text class="label" x="{left:.1f}" y="{bottom - 2:.1f}">{escape(point["chain"])}</text>'
