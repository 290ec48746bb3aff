"""Judge a run: one small function per metric, expectations held against them, and the verdict.

interrupted   somebody stopped it
invalid       the emulation was not what it claimed, so no figure says anything about the fleet
fail          it did not finish, an expectation was not held or could not be judged, or a check failed
pass          everything else
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from history import accounts, emulation, layers, local
from history.checks import CHECKS, CheckResult, run_checks
from history.checks.nobody_starved import jain, shares
from history.checks.progress_after_heal import recoveries
from history.record import Record
from topology.plan import Expectation

Verdict = Literal["pass", "fail", "invalid", "interrupted"]
EXIT_CODES: dict[Verdict, int] = {"pass": 0, "fail": 1, "invalid": 1, "interrupted": 4}

Metric = Callable[[Record], float | None]
METRICS: dict[str, Metric] = {}

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


def metric(function: Metric) -> Metric:
    """Register a metric under its own name. It answers None when the history does not tell."""
    METRICS[function.__name__] = function
    return function


for _figure in (
    local.local_accuracy,
    local.local_accuracy_min,
    local.local_accuracy_variance,
    local.worst_decile_accuracy,
    local.received_accuracy,
    local.personal_gain,
):
    metric(_figure)


@metric
def accuracy(record: Record) -> float | None:
    return record.final.accuracy if record.final else None


@metric
def best_accuracy(record: Record) -> float | None:
    return max((e.accuracy for e in record.evaluations if e.accuracy is not None), default=None)


@metric
def loss(record: Record) -> float | None:
    return record.final.loss if record.final else None


@metric
def f1(record: Record) -> float | None:
    return record.final.metrics.get("f1") if record.final else None


@metric
def mse(record: Record) -> float | None:
    return record.final.metrics.get("mse") if record.final else None


@metric
def perplexity(record: Record) -> float | None:
    return record.final.metrics.get("perplexity") if record.final else None


@metric
def worst_class_accuracy(record: Record) -> float | None:
    """Of the classes that the test data have."""
    known = [value for value in record.final.per_class if value is not None] if record.final else []
    return min(known, default=None)


@metric
def largest_confusion(record: Record) -> float | None:
    """The largest share of one class that was taken for one other."""
    rows = record.final.confusion if record.final else []
    shares = [
        count / sum(row)
        for true, row in enumerate(rows)
        if sum(row)
        for predicted, count in enumerate(row)
        if predicted != true
    ]
    return max(shares, default=None)


@metric
def rounds(record: Record) -> float | None:
    return float(len(record.closed_rounds)) if "coordinator" in record.producers else None


@metric
def versions(record: Record) -> float | None:
    """Made in the run; the initial model is none of them."""
    return float(len({v.version for v in record.versions})) if "coordinator" in record.producers else None


@metric
def staleness_max(record: Record) -> float | None:
    return max((float(tau) for tau in accounts.staleness(record)), default=None)


@metric
def staleness_mean(record: Record) -> float | None:
    found = accounts.staleness(record)
    return sum(found) / len(found) if found else None


@metric
def updates_stale(record: Record) -> float | None:
    """Discarded for their age."""
    return float(sum(t.discarded == "stale" for t in record.tasks.values())) if record.tasks else None


@metric
def updates_lost(record: Record) -> float | None:
    found = accounts.lost(record)
    return None if found is None else float(len(found))


@metric
def updates_duplicated(record: Record) -> float | None:
    if "coordinator" not in record.producers:
        return None
    return float(len(accounts.duplicated(record)))


@metric
def uplink_ratio(record: Record) -> float | None:
    return accounts.uplink_ratio(record)


@metric
def uplink_bytes(record: Record) -> float | None:
    return float(accounts.uplink_bytes(record)) if record.received else None


def _layer(way: layers.Way, name: str) -> Metric:
    def bytes_at(record: Record) -> float | None:
        found = getattr(getattr(layers.total(record), way), name)
        return None if found is None else float(found)

    return bytes_at


WAYS: dict[str, layers.Way] = {"uplink": "up", "downlink": "down"}
METRICS |= {
    f"{prefix}_{name}_bytes": _layer(way, name) for prefix, way in WAYS.items() for name in layers.LAYERS
}


@metric
def epsilon(record: Record) -> float | None:
    from history.privacy import epsilon as accounted

    return accounted(record)


@metric
def wall_s(record: Record) -> float | None:
    """A run that did not finish has no duration that could be too long or short enough."""
    return accounts.wall_s(record) if record.run_finished_at is not None else None


@metric
def lapses(record: Record) -> float | None:
    return float(record.lapse_counts.total()) if record.event_count else None


@metric
def faults_applied(record: Record) -> float | None:
    if not record.event_count:
        return None
    return float(sum(f.applied_at is not None and f.verified is True for f in record.faults.values()))


@metric
def recovery_s(record: Record) -> float | None:
    """Longest of all faults; None while one of them was followed by no version."""
    waits = list(recoveries(record).values())
    return max((w for w in waits if w is not None), default=None) if None not in waits else None


@metric
def fairness(record: Record) -> float | None:
    return jain(list(shares(record).values())) if record.devices else None


def checked(name: str) -> Metric:
    """A check as a metric: 1 when it passes, 0 when it fails, None when it cannot tell."""
    outcomes: dict[str, float | None] = {"pass": 1.0, "fail": 0.0}
    return lambda record: outcomes.get(run_checks(record, [name])[0].outcome)


METRICS |= {name: checked(name) for name in CHECKS}


class Judged(Struct, frozen=True, kw_only=True):
    """An expectation and what was seen of it; `held` is None when it could not be judged."""

    metric: str
    op: str
    value: float
    observed: float | None
    held: bool | None


def judge(record: Record, expectation: Expectation) -> Judged:
    measure = METRICS.get(expectation.metric)
    observed = measure(record) if measure else None
    held = None if observed is None else _OPERATORS[expectation.op](observed, expectation.value)
    return Judged(
        metric=expectation.metric, op=expectation.op, value=expectation.value, observed=observed, held=held
    )


class Decision(Struct, frozen=True, kw_only=True):
    verdict: Verdict
    reasons: tuple[str, ...]


def decide(record: Record, judged: list[Judged], checks: list[CheckResult], interrupted: bool) -> Decision:
    """The verdict, and everything that speaks against a better one."""
    stopped = interrupted or bool(record.interrupted_by)
    untrue = emulation.problems(record)
    against = _unfinished(record) + _not_held(judged) + _failed(checks)
    reasons = [f"interrupted by {record.interrupted_by or 'the operator'}"] if stopped else []
    verdict: Verdict = "interrupted" if stopped else "invalid" if untrue else "fail" if against else "pass"
    return Decision(verdict=verdict, reasons=tuple(reasons + untrue + against))


def _unfinished(record: Record) -> list[str]:
    if not record.event_count:
        return ["there is no history"]
    if record.finish_reason == "failed":
        return ["the coordinator gave up: " + (_last_failure(record) or "no reason recorded")]
    if record.run_finished_at is not None:
        return []
    after = f" ({record.down_reason})" if record.down_reason not in ("", "finished") else ""
    what = "the run did not finish" if record.run_started_at is not None else "the run never started"
    return [what + after]


def _last_failure(record: Record) -> str:
    return next((lapse.detail for lapse in reversed(record.lapses) if lapse.what == "run_failed"), "")


def _not_held(judged: list[Judged]) -> list[str]:
    found = []
    for item in judged:
        wanted = f"{item.metric} {item.op} {item.value:g}"
        if item.held is None:
            found.append(f"{wanted} could not be judged: the history does not tell")
        elif not item.held:
            found.append(f"{wanted} was not held: {item.observed:.6g}")
    return found


def _failed(checks: list[CheckResult]) -> list[str]:
    # The emulation's own check says what `invalid` says already, with the same words.
    failed = [check for check in checks if check.outcome == "fail" and check.name != "emulation_held"]
    return [f"check {check.name}: {check.detail}" for check in failed]
