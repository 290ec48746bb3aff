"""The registry of checks: each reads only the record and answers pass, fail or unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from history.record import Record

Outcome = Literal["pass", "fail", "unknown"]
PROBLEMS_MAX = 20  # shown of one check; the first ones tell the cause


class Answer(Struct, frozen=True):
    outcome: Outcome
    detail: str
    problems: tuple[str, ...] = ()


class CheckResult(Struct, frozen=True, kw_only=True):
    name: str
    title: str
    outcome: Outcome
    detail: str
    problems: tuple[str, ...] = ()


Check = Callable[[Record], Answer]
CHECKS: dict[str, tuple[str, Check]] = {}


def check(title: str) -> Callable[[Check], Check]:
    """Register a check under its function's name; `title` is the question it answers."""

    def register(function: Check) -> Check:
        CHECKS[function.__name__] = (title, function)
        return function

    return register


def run_checks(record: Record, names: list[str] | None = None) -> list[CheckResult]:
    """Run all checks, or those named. Raises KeyError for a name that there is not."""
    results = []
    for name in CHECKS if names is None else names:
        title, function = CHECKS[name]
        answer = function(record)
        results.append(
            CheckResult(
                name=name,
                title=title,
                outcome=answer.outcome,
                detail=answer.detail,
                problems=answer.problems[:PROBLEMS_MAX],
            )
        )
    return results
