"""Quantities with units, parsed to canonical numbers: bit/s, seconds, bytes, fractions.

A quantity is `<number> <unit>` with an optional space, and the unit is never guessed: `1 Mbit/s`, `80 ms`,
`64 KiB`, `1 %`. Emulators disagree on what `Mbps` means (tc reads it as megabytes), so it is refused with
what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

_QUANTITY = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(\S.*?)?\s*$", re.ASCII)
_TEXT_LENGTH_MAX = 64  # the longest sensible quantity has under 20 characters

RATE_UNITS: Mapping[str, int] = {"bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9}
DURATION_UNITS: Mapping[str, Decimal] = {
    "us": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "min": Decimal(60),
    "h": Decimal(3600),
}
SIZE_UNITS: Mapping[str, int] = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}

RATE_BIT_S_MAX = 100 * 10**9  # of the fastest network interfaces; buffers and records are made for no more
SIZE_BYTES_MAX = 1 << 50  # a petabyte; what is more is a slip of the keyboard, and too large for the records

ENERGY_UNITS: Mapping[str, Decimal] = {
    "J": Decimal(1),
    "kJ": Decimal(1000),
    "mWh": Decimal("3.6"),
    "Wh": Decimal(3600),
}
POWER_UNITS: Mapping[str, Decimal] = {"mW": Decimal("0.001"), "W": Decimal(1)}

# What people write for a rate, and what they most likely mean. Bytes per second are eight times as much.
_RATE_LOOKALIKES: Mapping[str, tuple[str, int]] = {
    "bps": ("bit/s", 1),
    "kbps": ("kbit/s", 1),
    "mbps": ("Mbit/s", 1),
    "gbps": ("Gbit/s", 1),
    "kbit": ("kbit/s", 1),
    "mbit": ("Mbit/s", 1),
    "gbit": ("Gbit/s", 1),
    "kbit/s": ("kbit/s", 1),
    "mbit/s": ("Mbit/s", 1),
    "gbit/s": ("Gbit/s", 1),
    "kb/s": ("kbit/s", 8),
    "mb/s": ("Mbit/s", 8),
    "gb/s": ("Gbit/s", 8),
}
_DURATION_LOOKALIKES: Mapping[str, str] = {
    "sec": "s",
    "secs": "s",
    "second": "s",
    "seconds": "s",
    "msec": "ms",
    "millis": "ms",
    "m": "min",
    "mins": "min",
    "minute": "min",
    "minutes": "min",
    "µs": "us",
    "hour": "h",
    "hours": "h",
}
_SIZE_LOOKALIKES: Mapping[str, str] = {
    "b": "B",
    "k": "KiB",
    "kb": "kB",
    "kib": "KiB",
    "m": "MiB",
    "mb": "MB",
    "mib": "MiB",
    "g": "GiB",
    "gb": "GB",
    "gib": "GiB",
}


class UnitError(ValueError):
    """Not a quantity of the wanted kind. `hint` says what to write."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def parse_rate(value: object) -> int:
    """`1 Mbit/s` → 1_000_000 bit/s. Zero, fractions of a bit and anything without a unit are refused."""
    number, unit = _split(value, "a rate", example="1 Mbit/s", bare="Mbit/s")
    if unit not in RATE_UNITS:
        raise UnitError(f"{unit!r} is not a unit of rate", _rate_hint(number, unit))
    rate = number * RATE_UNITS[unit]
    if rate != rate.to_integral_value() or rate <= 0:
        raise UnitError(
            "a rate is a whole number of bit/s above zero", "leave the key out for an unlimited link"
        )
    if rate > RATE_BIT_S_MAX:
        raise UnitError("no host can shape more than 100 Gbit/s", "leave the key out for an unlimited link")
    return int(rate)


def parse_duration(value: object) -> float:
    """`80 ms` → 0.08 s. Negative durations do not parse."""
    number, unit = _split(value, "a duration", example="80 ms", bare="s")
    if unit not in DURATION_UNITS:
        raise UnitError(
            f"{unit!r} is not a unit of time", _hint(number, _DURATION_LOOKALIKES, unit, DURATION_UNITS)
        )
    return float(number * DURATION_UNITS[unit])


def parse_size(value: object) -> int:
    """`64 KiB` → 65_536 bytes."""
    number, unit = _split(value, "a size", example="64 KiB", bare="MiB")
    if unit not in SIZE_UNITS:
        raise UnitError(f"{unit!r} is not a unit of size", _hint(number, _SIZE_LOOKALIKES, unit, SIZE_UNITS))
    size = number * SIZE_UNITS[unit]
    if size != size.to_integral_value():
        raise UnitError("a size is a whole number of bytes", "use a smaller unit")
    if size > SIZE_BYTES_MAX:
        raise UnitError("more than a petabyte", "at most 1048576 GiB")
    return int(size)


def parse_energy(value: object) -> float:
    """`2 Wh` → 7200 J."""
    number, unit = _split(value, "an energy", example="40 J", bare="J")
    if unit not in ENERGY_UNITS:
        raise UnitError(f"{unit!r} is not a unit of energy", f"allowed: {', '.join(ENERGY_UNITS)}")
    return float(number * ENERGY_UNITS[unit])


def parse_power(value: object) -> float:
    """`500 mW` → 0.5 W."""
    number, unit = _split(value, "a power", example="0.5 W", bare="W")
    if unit not in POWER_UNITS:
        raise UnitError(f"{unit!r} is not a unit of power", f"allowed: {', '.join(POWER_UNITS)}")
    return float(number * POWER_UNITS[unit])


def parse_percent(value: object) -> float:
    """`1 %` → 0.01. A bare number is refused: 1 could be one percent or everything."""
    number, unit = _split(value, "a percentage", example="1 %", bare="%")
    if unit != "%":
        raise UnitError(f"{unit!r} is not a percentage", f"write {_plain(number)} %")
    return float(number / 100)


def parse_ratio(value: object) -> float:
    """A fraction `0.01` or a percentage `1 %`; both are 0.01. For keys where a fraction is the usual form."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return parse_percent(value)


def _split(value: object, kind: str, *, example: str, bare: str) -> tuple[Decimal, str]:
    if isinstance(value, bool) or value is None or isinstance(value, list | dict):
        raise UnitError(f"{kind} is wanted", f"write it like {example}")
    if isinstance(value, int | float):
        raise UnitError(
            f"{kind} needs a unit", f"write {value} {bare}" if value >= 0 else f"write it like {example}"
        )
    text = str(value)
    match = _QUANTITY.match(text) if len(text) <= _TEXT_LENGTH_MAX else None
    if match is None:
        raise UnitError(f"not {kind}", f"write it like {example}")
    if not match[2]:
        raise UnitError(f"{kind} needs a unit", f"write {match[1]} {bare}")
    return Decimal(match[1]), match[2]


def _rate_hint(number: Decimal, unit: str) -> str:
    if unit == "B/s":
        return f"that is bytes; write {_plain(number * 8)} bit/s"
    known = _RATE_LOOKALIKES.get(unit.lower())
    if known is None:
        return f"allowed: {', '.join(RATE_UNITS)}"
    name, factor = known
    if factor == 8 and "B" in unit:
        return f"if bytes are meant, write {_plain(number * 8)} {name}, else {_plain(number)} {name}"
    return f"write {_plain(number)} {name}"


def _hint(number: Decimal, lookalikes: Mapping[str, str], unit: str, allowed: Mapping[str, object]) -> str:
    known = lookalikes.get(unit.lower())
    return f"write {_plain(number)} {known}" if known else f"allowed: {', '.join(allowed)}"


def _plain(number: Decimal) -> str:
    """Without an exponent and trailing zeros: what a person would write."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
