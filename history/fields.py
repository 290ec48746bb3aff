"""Typed looks into an event's fields. What is missing or of another type is None or empty, never guessed.

Histories are written by devices too, and a device may write anything: readers ask for a type and get it or
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from history.events import Event

Fields = Mapping[str, object]
INTEGER_MAX = 1 << 53  # what every reader of JSON and SQLite can hold; no size or counter of a run comes near


def _fields(source: Event | Fields) -> Fields:
    return source.fields if isinstance(source, Event) else source


def number(source: Event | Fields, key: str) -> float | None:
    """A finite number, or None. Booleans are no numbers."""
    value = _fields(source).get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def integer(source: Event | Fields, key: str) -> int | None:
    value = _fields(source).get(key)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > INTEGER_MAX:
        return None
    return value


def count(source: Event | Fields, key: str) -> int:
    """A size or counter: 0 when it is missing, negative or not an integer."""
    value = integer(source, key)
    return value if value is not None and value > 0 else 0


def text(source: Event | Fields, key: str) -> str:
    value = _fields(source).get(key)
    return value if isinstance(value, str) else ""


def flag(source: Event | Fields, key: str) -> bool | None:
    value = _fields(source).get(key)
    return value if isinstance(value, bool) else None


def mapping(source: Event | Fields, key: str) -> dict[str, object]:
    value = _fields(source).get(key)
    return {k: v for k, v in value.items() if isinstance(k, str)} if isinstance(value, dict) else {}


def mappings(source: Event | Fields, key: str) -> list[dict[str, object]]:
    """A list of objects; items that are none are left out."""
    value = _fields(source).get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def strings(source: Event | Fields, key: str) -> list[str]:
    value = _fields(source).get(key)
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def numbers(source: Event | Fields, key: str) -> list[float]:
    value = _fields(source).get(key)
    if not isinstance(value, list):
        return []
    return [
        float(v) for v in value if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    ]
