"""Models of the devices' own, and tests on their own data."""

from __future__ import annotations

from topology.plan import EvaluationPlan, PersonalPlan
from topology.schema import Topology

PROXIMAL = 0.1  # λ: the middle of the range that Ditto's authors tried (0.05 to 2), on the personal side


def compile_personalization(topology: Topology) -> PersonalPlan | None:
    given = topology.personalization
    if given is None:
        return None
    return PersonalPlan(
        kind=given.kind,
        head=None if given.head is None else tuple(given.head),
        steps=given.steps,
        proximal=PROXIMAL if given.proximal is None else given.proximal,
    )


def compile_evaluation(topology: Topology) -> EvaluationPlan:
    local, drift = topology.tests_locally, topology.evaluation.drift
    return EvaluationPlan(local=local, drift=drift if drift is not None else local)
