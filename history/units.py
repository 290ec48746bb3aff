"""Quantities as people read them. Decimal prefixes throughout: kB is 1,000 bytes, as links count."""

from __future__ import annotations

NOT_RECORDED = "not recorded"
DASH = "–"
_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def _scaled(value: float, unit: str, digits: int = 3) -> str:
    for factor, prefix in _STEPS:
        if abs(value) >= factor * 0.9995:
            return f"{_short(value / factor, digits)} {prefix}{unit}"
    return f"{_short(value, digits)} {unit}"


def _short(value: float, digits: int = 3) -> str:
    """`digits` significant digits, no exponent, no trailing zeros after the point."""
    if value == 0:
        return "0"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    shown = f"{value:.{digits}g}"
    return f"{float(shown):f}".rstrip("0").rstrip(".") if "e" in shown else shown


def size(value: float | None) -> str:
    return NOT_RECORDED if value is None else _scaled(value, "B")


def rate(value: float | None) -> str:
    return "unlimited" if value is None else _scaled(value, "bit/s")


def percent(value: float | None, digits: int = 1) -> str:
    return NOT_RECORDED if value is None else f"{value * 100:.{digits}f} %"


def signed_percent(value: float | None) -> str:
    return DASH if value is None else f"{value * 100:+.1f} %".replace("-", "−")


def milliseconds(value: float | None) -> str:
    return DASH if value is None else f"{_short(value * 1000)} ms"


def signed_milliseconds(value: float | None) -> str:
    return DASH if value is None else f"{value * 1000:+.1f} ms".replace("-", "−")


def seconds(value: float | None) -> str:
    """`0.21 s`, `12.3 s`, `1 min 28 s`, `2 h 05 min`."""
    if value is None:
        return NOT_RECORDED
    if value < 60:
        return f"{_short(value)} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plain(value: float | None, digits: int = 4) -> str:
    return NOT_RECORDED if value is None else _short(value, digits)
