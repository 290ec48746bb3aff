"""The policy section: every schedule with its keys, and what does not go together."""

from __future__ import annotations

import pytest

from topology.compile import compile_topology
from topology.errors import TopologyErrors
from topology.plan import PolicyPlan
from topology.schema.policy import KEYS, STALENESS_KEYS
from topology.validate import parse_topology

HEAD = """
name: t
devices: {d: {profile: raspberry-pi-4, count: 12, link: home-wifi}}
data: {dataset: mnist-mini, samples_per_device: 100}
model: mlp
training: {rounds: 2}
policy: """


def plan_of(policy: str) -> PolicyPlan:
    return compile_topology(parse_topology(HEAD + policy).topology, "r").policy


def errors_of(policy: str) -> dict[str, str]:
    with pytest.raises(TopologyErrors) as caught:
        parse_topology(HEAD + policy)
    return {error.path: f"{error.message}; {error.hint}" for error in caught.value.errors}


def test_the_designs_vocabulary() -> None:
    synchronous = plan_of("{kind: synchronous, cohort: 9, over_select: 1.3, deadline: 30 s, quorum: 0.8}")
    assert (synchronous.cohort, synchronous.over_select, synchronous.quorum) == (9, 1.3, 0.8)
    buffered = plan_of(
        "{kind: buffered, concurrency: 12, buffer: 10, staleness: {kind: polynomial, exponent: 0.5}, max_staleness: 20}"
    )
    assert (buffered.concurrency, buffered.buffer, buffered.max_staleness) == (12, 10, 20)
    assert buffered.staleness.kind == "polynomial"
    fedasync = plan_of(
        "{kind: asynchronous, concurrency: 12, mixing: 0.6, staleness: {kind: hinge, a: 10, b: 4}}"
    )
    assert (fedasync.mixing, fedasync.buffer, fedasync.staleness.a) == (0.6, 1, 10.0)
    tiered = plan_of("{kind: tiered, tiers: 3, cohort: 4, deadline: auto}")
    assert (tiered.tiers, tiered.deadline_auto, tiered.deadline_s, tiered.deadline_floor_s) == (
        3,
        True,
        120.0,
        5.0,
    )


def test_defaults_follow_the_fleet() -> None:
    assert plan_of("{kind: buffered}").buffer == 10
    assert plan_of("{kind: tiered}").cohort == 4
    assert plan_of("{}") == PolicyPlan(cohort=12, concurrency=12)


@pytest.mark.parametrize(
    ("policy", "path", "said"),
    [
        ("{kind: buffered, cohort: 4}", "policy.cohort", "synchronous or tiered"),
        ("{kind: synchronous, buffer: 4}", "policy.buffer", "kind: buffered"),
        ("{kind: buffered, mixing: 0.5}", "policy.mixing", "kind: asynchronous"),
        ("{deadline: 30 s, deadline_floor: 2 s}", "policy.deadline_floor", "deadline: auto"),
        ("{deadline: auto, deadline_floor: 200 s}", "policy.deadline_floor", "above the ceiling"),
        ("{deadline: 30}", "policy.deadline", "write 30 s"),
        ("{deadline: 30.5}", "policy.deadline", "write 30.5 s"),
        ("{deadline: sometimes}", "policy.deadline", "write it like"),
        ("{deadline: 10 ms}", "policy.deadline", "at least 1 s"),
        ("{max_staleness: 0}", "policy.max_staleness", "carry_over: true"),
        ("{staleness: {kind: polynomial}}", "policy.staleness", "carry_over: true"),
        (
            "{kind: buffered, staleness: {kind: hinge, exponent: 1}}",
            "policy.staleness.exponent",
            "polynomial",
        ),
        ("{kind: buffered, staleness: {kind: linear}}", "policy.staleness.kind", "polynomial"),
        ("{kind: buffered, concurrency: 13}", "policy.concurrency", "at most 12"),
        ("{kind: tiered, tiers: 13}", "policy.tiers", "at most 12"),
        ("{kind: bufered}", "policy.kind", "buffered"),
        ("{kind: asynchronous, mixing: 0}", "policy.mixing", "greater than 0"),
    ],
)
def test_what_does_not_go_together_is_named(policy: str, path: str, said: str) -> None:
    found = errors_of(policy)
    assert path in found, found
    assert said in found[path]


def test_every_key_of_a_schedule_is_in_the_schema() -> None:
    fields = set(PolicyPlan.__struct_fields__)
    assert {key for keys in KEYS.values() for key in keys} <= fields
    assert {key for keys in STALENESS_KEYS.values() for key in keys} <= {"exponent", "a", "b"}


def test_fedat_has_tiers_and_a_cohort_of_each() -> None:
    plan = plan_of("{kind: fedat, tiers: 4, deadline: 30 s, server_lr: 4}")
    assert (plan.kind, plan.tiers, plan.cohort, plan.server_lr) == ("fedat", 4, 3, 4)
    assert plan_of("{kind: fedat}").tiers == 3
    assert "at most 6" in errors_of("{kind: fedat, tiers: 7}")["policy.tiers"]
    assert "fedat schedule has none" in errors_of("{kind: fedat, quorum: 0.5}")["policy.quorum"]
