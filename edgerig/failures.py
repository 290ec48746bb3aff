"""How a command that failed says so: in lines for people, and as JSON on standard output where that was asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import pairwise

from compose.errors import EnvironmentProblem
from topology.errors import TopologyErrors


def json_wanted(arguments: Sequence[str]) -> bool:
    """Whether the command line says `--format json`. Typer's own parse is gone when its command has failed."""
    return ("--format", "json") in pairwise(arguments) or "--format=json" in arguments


def say(lines: Sequence[str], error: BaseException | None = None) -> None:
    """`lines` to standard error. Programs get every error with path, value, message, hint and line; one that is not of
    the topology has a message, and a hint if there is one.
    """
    for line in lines:
        print(line, file=sys.stderr)
    if json_wanted(sys.argv[1:]):
        print(json.dumps({"ok": False, "errors": _errors(lines, error)}), flush=True)


def _errors(lines: Sequence[str], error: BaseException | None) -> list[dict[str, object]]:
    if isinstance(error, TopologyErrors):
        return [one.as_dict() for one in error.errors]
    if isinstance(error, EnvironmentProblem):
        return [_error(error.what, error.hint)]
    return [_error("; ".join(line.strip() for line in lines), "")]


def _error(message: str, hint: str) -> dict[str, object]:
    return {"path": "", "value": None, "message": message, "hint": hint, "line": 0}
