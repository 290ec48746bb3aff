"""Configuration errors: each with the path of the key, the value found and what is allowed; all of them at
once.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]
_VALUE_CHARACTERS_MAX = 80  # enough to recognise a value by; a pasted blob stays out of the terminal

LINES_MAX = 100  # a hundred slips are read and mended; thousands have one cause. `--format json` has them all

MISSING = object()  # the value of a key that is not there


@dataclass(frozen=True)
class TopologyError:
    """One thing wrong with a topology file.

    `path` is how the key is reached (`devices.pi4.link.up`, `faults[0].at`; empty for the file as a whole),
    `value` what was found there (MISSING where nothing was), `line` counts from 1, 0 when unknown.
    """

    path: str
    value: object
    message: str
    hint: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = self.path or "the file"
        found = "" if self.value is MISSING else f" = {show_value(self.value)}"
        line = f"line {self.line}: " if self.line else ""
        return f"{line}{where}{found}: {self.message}" + (f" ({self.hint})" if self.hint else "")

    def as_dict(self) -> dict[str, object]:
        """For `--format json`."""
        value = None if self.value is MISSING else show_value(self.value)
        return {
            "path": self.path,
            "value": value,
            "message": self.message,
            "hint": self.hint,
            "line": self.line,
        }


class TopologyErrors(ValueError):
    """Everything that is wrong with one topology file. Exit code 2."""

    def __init__(self, errors: Iterable[TopologyError], source: str = "") -> None:
        self.errors: list[TopologyError] = sorted(errors, key=lambda error: (error.line, error.path))
        self.source = source
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """One line for the file and the count, then one for each error."""
        count = len(self.errors)
        head = f"{self.source or 'topology'}: {count} error{'' if count == 1 else 's'}"
        shown = [f"  {error}" for error in self.errors[:LINES_MAX]]
        more = count - len(shown)
        return [head, *shown, *([f"  and {more} more"] if more else [])]


def join_path(parts: Sequence[str | int]) -> str:
    """("faults", 0, "at") → `faults[0].at`."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def show_value(value: object) -> str:
    """A value as it could stand in the file, cut to a readable length."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= _VALUE_CHARACTERS_MAX else text[: _VALUE_CHARACTERS_MAX - 3] + "..."


def did_you_mean(found: object, allowed: Iterable[str]) -> str:
    """A hint with the nearest allowed word, or with all of them."""
    words = list(allowed)
    near = difflib.get_close_matches(str(found).lower(), words, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(words)}"


def line_of(lines: Mapping[Path, int], path: Path) -> int:
    """The line of a key, or of the nearest key above it that is in the file."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 0)
