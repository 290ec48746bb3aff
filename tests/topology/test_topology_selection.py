"""`policy.selection`: in short, with options, and what is refused."""

from __future__ import annotations

import pytest

from topology.compile import compile_topology
from topology.errors import TopologyErrors
from topology.plan import SelectionPlan
from topology.schema.policy import SELECTION_KEYS
from topology.validate import parse_topology

BASE = """
name: selection
devices: {{a: {{profile: phone, count: 4, link: home-wifi{battery}}}}}
data: {{dataset: mnist-mini, samples_per_device: 100}}
model: mlp
training: {{rounds: 2}}
policy: {{selection: {selection}}}
"""
BATTERY = ", battery: {capacity: 200 J}"


def plan_of(selection: str, battery: str = "") -> SelectionPlan:
    text = BASE.format(selection=selection, battery=battery)
    return compile_topology(parse_topology(text).topology, "r").policy.selection


@pytest.mark.parametrize("kind", SELECTION_KEYS)
def test_a_name_alone_is_its_kind(kind: str) -> None:
    assert plan_of(kind) == SelectionPlan(kind=kind) == plan_of(f"{{kind: {kind}}}")


def test_options_reach_the_plan() -> None:
    assert plan_of("{kind: oort, min_share: 0, exploration: 0.5, penalty: 1, window: 5}") == SelectionPlan(
        kind="oort", min_share=0, exploration=0.5, penalty=1, window=5
    )
    found = plan_of("{kind: availability, charge_min: 35 %}", BATTERY)
    assert found == SelectionPlan(kind="availability", charge_min=0.35)
    found = plan_of("{kind: power_of_choice, candidates: 4, probe_samples: 9, probe_deadline: 3 s}")
    assert found == SelectionPlan(kind="power_of_choice", candidates=4, probe_samples=9, probe_deadline_s=3.0)


@pytest.mark.parametrize(
    ("selection", "path", "why"),
    [
        ("fastest", "policy.selection", "bandwidth, oort"),
        ("{kind: random, window: 5}", "policy.selection.window", "it belongs to kind: oort"),
        ("{kind: availability, charge_min: 0.5}", "policy.selection.charge_min", "no device has a battery"),
        ("{kind: power_of_choice, candidates: 3}", "policy.selection.candidates", "4 to 4"),
        ("power_of_choice, kind: buffered", "policy.selection", "kind: synchronous"),
        ("{min_share: 2}", "policy.selection.min_share", "1"),
    ],
)
def test_what_is_refused(selection: str, path: str, why: str) -> None:
    with pytest.raises(TopologyErrors) as found:
        plan_of(selection)
    assert path in str(found.value)
    assert why in str(found.value)
