"""Personalisation and local tests: what can be written, what it becomes, and what is refused, with its reason."""

from __future__ import annotations

import pytest

from topology.compile import compile_topology
from topology.errors import TopologyErrors
from topology.names import PERSONALIZATIONS
from topology.plan import EvaluationPlan, PersonalPlan, Plan
from topology.schema.personalization import KEYS
from topology.validate import parse_topology

BASE = """
name: m
devices: {d: {profile: raspberry-pi-4, count: 10, link: ethernet}}
model: mlp
"""
DATA = "data: {dataset: mnist, local_test: 20 %}\n"
TRAINING = "training: {rounds: 2}\n"


def planned(text: str, training: str = TRAINING, data: str = DATA) -> Plan:
    return compile_topology(parse_topology(BASE + data + training + text).topology, "r", runtime="process")


def refused(text: str, training: str = TRAINING, data: str = DATA) -> str:
    with pytest.raises(TopologyErrors) as caught:
        planned(text, training, data)
    return str(caught.value)


def personal(kind: str, keys: str = "") -> str:
    return f"personalization: {{kind: {kind}{', ' + keys if keys else ''}}}\n"


def test_nothing_is_personal_and_nothing_is_tested_by_default() -> None:
    plan = planned("")
    assert (plan.personalization, plan.evaluation) == (None, EvaluationPlan())


@pytest.mark.parametrize("kind", PERSONALIZATIONS)
def test_every_kind_can_be_written_and_devices_then_test(kind: str) -> None:
    plan = planned(personal(kind))
    assert plan.personalization == PersonalPlan(kind=kind)
    assert plan.evaluation == EvaluationPlan(local=True, drift=True)
    values = {"head": "head: [fc2*, fc3*]", "steps": "steps: 7", "proximal": "proximal: 0.5"}
    for key in sorted(values):
        if key not in KEYS[kind]:
            assert f"not to {kind}" in refused(personal(kind, values[key]))
    every = planned(personal(kind, ", ".join(values[key] for key in sorted(KEYS[kind])))).personalization
    assert every is not None
    assert (every.head is not None) == ("head" in KEYS[kind])
    assert (every.steps == 7) == ("steps" in KEYS[kind])


def test_tests_can_be_asked_for_alone_and_left_out() -> None:
    assert planned("evaluation: {local: true}\n").evaluation == EvaluationPlan(local=True, drift=True)
    assert planned("evaluation: {local: true, drift: false}\n").evaluation == EvaluationPlan(local=True)
    assert planned("evaluation: {drift: true}\n").evaluation == EvaluationPlan(drift=True)
    silent = planned(personal("ditto") + "evaluation: {local: false}\n")
    assert silent.evaluation == EvaluationPlan()


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    assert "fedper" in refused(personal("fedpr"))


def test_devices_without_tests_of_their_own_are_refused() -> None:
    for text in (personal("ditto"), "evaluation: {local: true}\n"):
        assert "keep none back" in refused(text, data="data: {dataset: mnist}\n")


@pytest.mark.parametrize("kind", ["fedper", "fedrep"])
@pytest.mark.parametrize("metric", ["accuracy", "best_accuracy", "worst_class_accuracy", "f1", "loss"])
def test_a_global_figure_with_local_heads_is_refused(kind: str, metric: str) -> None:
    assert "no trained head of its own" in refused(personal(kind) + f"expect: {{{metric}: '>= 0.5'}}\n")


def test_a_global_accuracy_is_no_contradiction_where_the_model_is_whole() -> None:
    for kind in ("ditto", "fine_tune"):
        assert planned(personal(kind) + "expect: {accuracy: '>= 0.5'}\n").expect


def test_a_target_is_refused_with_local_heads() -> None:
    training = "training: {rounds: 2, stop_at_accuracy: 0.9}\n"
    assert "never reached" in refused(personal("fedper"), training)
    assert planned(personal("ditto"), training)


@pytest.mark.parametrize("kind", ["fedper", "fedrep", "ditto"])
def test_a_kept_optimizer_is_refused(kind: str) -> None:
    training = "training: {rounds: 2, optimizer: {kind: sgd, momentum: 0.9, keep: true}}\n"
    assert "kept optimizer state" in refused(personal(kind), training)
    assert planned(personal("fine_tune"), training)


def test_private_runs_send_no_figures() -> None:
    private = "merge: {kind: dp_fedavg, norm: 1, noise_multiplier: 1}\n"
    plain = "compression: {uplink: {sparsify: none, quantize: none}}\n"
    assert "does not cover it" in refused(private + plain + personal("ditto"))
    assert planned(private + plain + personal("ditto") + "evaluation: {local: false}\n")


@pytest.mark.parametrize("metric", ["local_accuracy", "worst_decile_accuracy", "personal_gain"])
def test_a_local_figure_that_nobody_makes_is_refused(metric: str) -> None:
    expect = f"expect: {{{metric}: '>= 0.5'}}\n"
    assert "no device tests on its own data" in refused(expect)
    assert planned(expect + "evaluation: {local: true}\n")
