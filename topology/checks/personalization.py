"""Personalisation against its own keys, the data, and what is expected."""

from __future__ import annotations

from collections.abc import Iterator

from topology.checks.registry import Problem, check
from topology.expectations import LOCAL_METRICS
from topology.schema import Topology
from topology.schema.personalization import KEYS


@check("personalization")
def personalization_keys_fit_kind(topology: Topology) -> Iterator[Problem]:
    given = topology.personalization
    if given is None:
        return
    every = frozenset[str]().union(*KEYS.values())
    for key in sorted(every - KEYS[given.kind]):
        if getattr(given, key) is not None:
            kinds = ", ".join(kind for kind, keys in KEYS.items() if key in keys)
            problem = f"belongs to kind: {kinds}, not to {given.kind}"
            yield Problem(("personalization", key), problem, "remove it")


@check("data", "evaluation", "personalization")
def local_tests_need_data(topology: Topology) -> Iterator[Problem]:
    if topology.tests_locally and not topology.data.local_test:
        path = ("evaluation", "local") if topology.evaluation.local else ("personalization",)
        yield Problem(
            path, "devices test on data of their own, and keep none back", "data: {local_test: 20 %}"
        )


@check("evaluation", "expect", "personalization")
def local_figures_are_made(topology: Topology) -> Iterator[Problem]:
    for metric in topology.expect:
        if metric in LOCAL_METRICS and not topology.tests_locally:
            yield Problem(("expect", metric), "no device tests on its own data", "evaluation: {local: true}")
