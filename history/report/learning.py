"""What the model came to, in figures beside accuracy, and what every device learnt from."""

from __future__ import annotations

from history import units
from history.report.markup import Markup, tag
from history.report.tables import table
from history.summary import Summary
from topology.allotment import Allotment, Share

NAMES = {"f1": "F1, mean over classes", "mse": "mean squared error", "perplexity": "perplexity"}
CONFUSION_MAX = 20  # classes of a matrix that can still be read on a page; the whole is in summary.json
ROW, WIDTH, LEFT = 16, 720, 120  # of the plot of who got what
PLOTTED_MAX = 100  # devices


def headline(summary: Summary) -> tuple[str, str, str]:
    """Name, value and what stands below: the first figure of the report."""
    if summary.local is not None and summary.local.personal is not None:
        own = summary.local.personal
        return (
            "Accuracy on own tests",
            units.percent(own.mean),
            f"worst tenth {units.percent(own.worst_decile)}",
        )
    if summary.final_accuracy is None and summary.final_loss is not None:
        return "Test loss", units.plain(summary.final_loss), "a regression has no accuracy"
    return "Test accuracy", units.percent(summary.final_accuracy), f"loss {units.plain(summary.final_loss)}"


def metrics(summary: Summary) -> Markup:
    """Loss, F1, mean squared error, perplexity, and the accuracy of every class."""
    rows = [("loss", units.plain(summary.final_loss))] if summary.final_loss is not None else []
    rows += [
        (NAMES[name], units.plain(value)) for name, value in summary.final_metrics.items() if name in NAMES
    ]
    rows += [
        (f"accuracy of class {number}", units.DASH if value is None else units.percent(value))
        for number, value in enumerate(summary.per_class_accuracy)
    ]
    return table("Metrics of the last version", ["metric", "#value"], rows, "No evaluation was recorded.")


def confusion(summary: Summary) -> Markup | None:
    """Rows are true classes, columns predicted ones."""
    size = len(summary.confusion)
    if not 1 < size <= CONFUSION_MAX:
        return None
    rows = []
    for true, row in enumerate(summary.confusion):
        total = sum(row) or 1
        cells = [
            tag("span", f"{count}", style=f"opacity:{0.35 + 0.65 * count / total:.2f}")
            if count
            else units.DASH
            for count in row
        ]
        rows.append((f"{true}", *cells))
    head = ["true \\ predicted", *(f"#{number}" for number in range(size))]
    return table("Confusion of the last version: test samples", head, rows, "")


def describe(summary: Summary) -> str:
    data = summary.data
    if data is None:
        return "There is no table of what the devices got."
    return (
        f"{data.dataset} ({data.origin}); partition {data.partition}. The {data.test_samples} samples of the global "
        "test are the coordinator's alone."
    )


def data(summary: Summary) -> list[Markup | None]:
    """Table and plot of what every device got."""
    if summary.data is None:
        return []
    notes = [tag("p", note, class_="note") for note in summary.data.notes]
    return [plot(summary.data), _table(summary.data), *notes]


def _table(data: Allotment) -> Markup:
    with_mean = any(share.label_mean is not None for share in data.shares)
    classes = range(max(len(share.classes) for share in data.shares))
    head = [
        "device",
        "#train",
        "#own test",
        *(["#label mean"] if with_mean else []),
        *(f"#{c}" for c in classes),
    ]
    rows = [
        (
            share.device,
            f"{share.samples}",
            f"{share.test_samples}" if share.test_samples else units.DASH,
            *([units.plain(share.label_mean)] if with_mean else []),
            *(f"{count}" if count else units.DASH for count in share.classes),
        )
        for share in data.shares
    ]
    return table("Samples per device and class", head, rows, "No device got any data.")


def plot(data: Allotment) -> Markup | None:
    """One bar per device, as long as its samples are many, cut into classes."""
    shares = data.shares[:PLOTTED_MAX]
    high = max((share.samples for share in shares), default=0)
    if not high:
        return None
    rows = [bar for number, share in enumerate(shares) for bar in _bars(share, number * ROW, high)]
    title = "Samples per device, by class"
    svg = tag(
        "svg",
        tag("title", title),
        rows,
        viewBox=f"0 0 {WIDTH} {ROW * len(shares) + 4}",
        role="img",
        aria_label=title,
        class_="chart",
    )
    return tag("figure", tag("figcaption", title), svg)


def _bars(share: Share, top: int, high: int) -> list[Markup]:
    scale = (WIDTH - LEFT - 60) / high
    parts = share.classes or (share.samples,)
    found = [tag("text", share.device, x=LEFT - 8, y=top + 12, class_="tick end")]
    at = float(LEFT)
    for number, count in enumerate(parts):
        if not count:
            continue
        words = f"class {number}: {count}" if share.classes else f"{count} samples"
        # Hues a golden angle apart: neighbours differ, however many classes there are.
        colour = f"fill:hsl({number * 137.5 % 360:.0f} 55% 55%)"
        wide = count * scale
        found.append(
            tag(
                "rect",
                tag("title", f"{share.device}, {words}"),
                x=round(at, 1),
                y=top + 2,
                width=round(wide, 1),
                height=ROW - 4,
                style=colour,
            )
        )
        at += wide
    found.append(tag("text", f"{share.samples}", x=round(at + 6, 1), y=top + 12, class_="tick"))
    return found
