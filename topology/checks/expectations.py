"""Expectations that can hold."""

from __future__ import annotations

from collections.abc import Iterator

from topology.checks.registry import Problem, check
from topology.expectations import CHECKS, METRICS, PASS, Condition
from topology.schema import Topology


@check("expect")
def expectations_are_possible(topology: Topology) -> Iterator[Problem]:
    for metric, condition in topology.expect.items():
        if metric in CHECKS and condition != Condition("==", 1.0):
            yield Problem(("expect", metric), "a check passes or it does not", f"{metric}: {PASS}")
            continue
        largest = METRICS[metric].largest
        if largest is not None and condition.value > largest:
            yield Problem(("expect", metric), f"{metric} is never above {largest:g}", "write 0.95 for 95 %")


@check("expect", "training")
def rounds_are_enough(topology: Topology) -> Iterator[Problem]:
    wanted, most = topology.expect.get("rounds"), topology.training.rounds
    if wanted is None:
        return
    beyond = wanted.op in (">=", "==") and wanted.value > most
    if beyond or (wanted.op == ">" and wanted.value >= most):
        yield Problem(
            ("expect", "rounds"), f"the run has {most} rounds", f"at most {most}, or more training.rounds"
        )


@check("expect", "training")
def target_reaches_expectation(topology: Topology) -> Iterator[Problem]:
    stop, wanted = topology.training.stop_at_accuracy, topology.expect.get("accuracy")
    if stop is not None and wanted is not None and wanted.op in (">=", ">") and wanted.value > stop:
        yield Problem(
            ("training", "stop_at_accuracy"),
            f"the run would stop before the {wanted.value:g} that `expect` wants",
            f"at least {wanted.value:g}",
        )
