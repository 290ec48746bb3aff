"""The tables of docs/links.md, from the code; the text around them is written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from topology.link_features import CANNOT, FEATURES
from topology.plan import Shape
from topology.profiles import LINKS, REFUSED_LINKS


def profiles_table() -> str:
    rows = ["| profile | down / up | one-way delay down / up | jitter | loss | source | its delay |"]
    rows.append("|---|---|---|---|---|---|---|")
    for name, profile in LINKS.items():
        down, up = profile.down, profile.up
        cells = [
            f"`{name}`",
            _pair(_rate(down), _rate(up)),
            _pair(_ms(down.delay_s), _ms(up.delay_s)),
            _pair(_ms(down.jitter_s), _ms(up.jitter_s)),
            _percent(down),
            profile.source,
            profile.converted or "–",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    refused = {
        reason: [n for n, r in REFUSED_LINKS.items() if r == reason] for reason in REFUSED_LINKS.values()
    }
    for reason, names in refused.items():
        rows += ["", f"Refused: {', '.join(f'`{name}`' for name in names)}. {reason}."]
    return "\n".join(rows)


def backends_table() -> str:
    rows = [f"| | {' | '.join(f'`{name}`' for name in CANNOT)} |", "|---|" + "---|" * len(CANNOT)]
    for feature in FEATURES:
        cells = ["–" if feature in cannot else "yes" for cannot in CANNOT.values()]
        rows.append(f"| {feature} | {' | '.join(cells)} |")
    for backend, cannot in CANNOT.items():
        reasons = list(dict.fromkeys(cannot.values()))
        if reasons:
            rows += ["", f"`{backend}` cannot, because: {'; '.join(reasons)}."]
    return "\n".join(rows)


def _pair(down: str, up: str) -> str:
    return down if down == up else f"{down} / {up}"


def _rate(shape: Shape) -> str:
    rate = shape.rate_bit_s
    if rate is None:
        return "–"
    return f"{rate / 1e6:g} Mbit/s" if rate >= 1_000_000 else f"{rate / 1e3:g} kbit/s"


def _ms(duration_s: float) -> str:
    return f"{round(duration_s * 1e3, 3):g} ms" if duration_s else "–"


def _percent(shape: Shape) -> str:
    return f"{round(shape.loss * 100, 3):g} %" if shape.loss else "–"


END = "<!-- end -->"
TABLES: Mapping[str, Callable[[], str]] = {"profiles": profiles_table, "backends": backends_table}


def with_tables(page: str) -> str:
    """The page with what is between `<!-- table: NAME -->` and `<!-- end -->` made anew."""
    for name, make in TABLES.items():
        head, found, rest = page.partition(f"<!-- table: {name} -->\n")
        if found:
            page = f"{head}{found}{make()}\n{END}{rest.partition(END)[2]}"
    return page
