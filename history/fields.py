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


def gaps(source: Event | Fields, key: str) -> list[float | None]:
    """A list of finite numbers in which None keeps its place; empty if anything else is in it."""
    value = _fields(source).get(key)
    if not isinstance(value, list):
        return []
    found = [None if item is None else number({"x": item}, "x") for item in value]
    return found if all(a is None or b is not None for a, b in zip(value, found, strict=True)) else []


def matrix(source: Event | Fields, key: str) -> list[list[int]]:
    """A square matrix of counts; empty if it is anything else."""
    value = _fields(source).get(key)
    if not isinstance(value, list) or not all(
        isinstance(row, list) and len(row) == len(value) for row in value
    ):
        return []
    rows = [[integer({"x": item}, "x") for item in row] for row in value]
    whole = [[item for item in row if item is not None and item >= 0] for row in rows]
    return whole if all(len(row) == len(whole) for row in whole) else []
