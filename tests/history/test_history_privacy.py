"""The accountant: figures of its library under the relation we state, and the smaller of two bounds."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from history import privacy
from topology.plan import MergePlan

pytestmark = pytest.mark.privacy
DELTA = 1e-5


def record(kind: str = "synchronous", rule: str = "dp_fedavg", cohort: int = 2, devices: int = 10) -> Any:
    """Twenty versions; device 0 is in every second one."""
    versions = [
        SimpleNamespace(updates=[SimpleNamespace(agent=f"d-{0 if v % 2 else v % 9 + 1}")]) for v in range(20)
    ]
    plan = SimpleNamespace(
        merge=MergePlan(kind=rule, noise_multiplier=4.0, delta=DELTA),  # type: ignore[arg-type]
        policy=SimpleNamespace(kind=kind),
        devices=range(devices),
    )
    rounds = {1: SimpleNamespace(cohort=[f"d-{i}" for i in range(cohort)])}
    return SimpleNamespace(plan=plan, versions=versions, rounds=rounds)


def test_one_gaussian_is_within_the_classical_bound() -> None:
    """For ε ≤ 1 a noise of sqrt(2 ln(1.25/δ))/ε per unit of sensitivity is enough (Dwork and Roth, theorem A.1)."""
    noise = math.sqrt(2 * math.log(1.25 / DELTA))
    found = privacy.composed(2 * noise, 1, DELTA)
    assert found is not None
    assert 0.5 < found <= 1.05


def test_more_versions_give_away_more_and_more_noise_less() -> None:
    few, many, loud = (privacy.composed(z, times, DELTA) for z, times in ((4.0, 5), (4.0, 50), (8.0, 50)))
    assert few is not None
    assert many is not None
    assert loud is not None
    assert few < loud < many


def test_the_smaller_bound_counts_and_sampling_needs_rounds() -> None:
    composed, sampled = privacy.composed(4.0, 10, DELTA), privacy.sampled(4.0, 10, 2, 20, DELTA)
    assert composed is not None
    assert sampled is not None
    assert privacy.epsilon(record()) == min(composed, sampled)
    assert privacy.epsilon(record(kind="buffered")) == composed
    assert privacy.epsilon(record(cohort=10)) == composed


def test_without_noise_or_versions_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert privacy.epsilon(record(rule="norm_bound")) is None
    empty = record()
    empty.versions = []
    assert privacy.epsilon(empty) is None
    monkeypatch.setattr(privacy, "_library", lambda: None)
    assert privacy.epsilon(record()) is None
