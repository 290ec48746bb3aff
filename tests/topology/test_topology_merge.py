"""The merge section: what can be written, what it becomes, and everything that is refused, with its reason."""

from __future__ import annotations

import pytest

from topology.compatibility import REFUSALS, facts
from topology.compile import compile_topology
from topology.errors import TopologyErrors
from topology.plan import MergePlan, Plan
from topology.schema.merge import KEYS
from topology.validate import parse_topology

BASE = """
name: m
devices: {d: {profile: raspberry-pi-4, count: 10, link: ethernet}}
data: {dataset: mnist}
model: mlp
"""
TRAINING = "training: {rounds: 2}\n"


def planned(text: str, training: str = TRAINING) -> Plan:
    return compile_topology(parse_topology(BASE + training + text).topology, "r", runtime="process")


def refused(text: str, training: str = TRAINING) -> str:
    with pytest.raises(TopologyErrors) as caught:
        planned(text, training)
    return str(caught.value)


def test_fedavg_is_the_default() -> None:
    assert planned("").merge == MergePlan()


def test_every_kind_can_be_written_and_arrives_in_the_plan() -> None:
    written = {
        "norm_bound": "norm: 3",
        "dp_fedavg": "norm: 0.5, noise_multiplier: 1.1, delta: 0.001",
        "krum": "byzantine: 3, keep: 2",
        "trimmed_mean": "trim: 20 %",
        "fedyogi": "beta1: 0.8, beta2: 0.9, tau: 0.01",
        "fedavgm": "momentum: 0.5",
        "scaffold": "control: int8",
    }
    for kind in KEYS:
        keys = f", {written[kind]}" if kind in written else ""
        assert planned(f"merge: {{kind: {kind}{keys}, journal_bytes_max: 8 MiB}}\n").merge.kind == kind
    merge = planned(
        "merge: {kind: dp_fedavg, norm: 0.5, noise_multiplier: 1.1, journal_bytes_max: 8 MiB}\n"
    ).merge
    assert (merge.norm, merge.noise_multiplier, merge.delta) == (0.5, 1.1, 1e-5)
    assert merge.journal_bytes_max == 8 << 20
    assert planned("merge: {kind: trimmed_mean, trim: 20 %}\n").merge.trim == 0.2
    assert planned("merge: {kind: scaffold}\n").merge.control == "fp16"
    assert planned("merge: {kind: scaffold, control: none}\n").merge.control == "none"


TOP_K = "compression: {uplink: {sparsify: {top_k: 0.01}}}\n"
PLAIN = "compression: {uplink: {sparsify: none, quantize: none}}\n"


@pytest.mark.parametrize("kind", ["median", "trimmed_mean", "krum"])
def test_a_rule_that_compares_coordinates_is_refused_with_sparse_updates(kind: str) -> None:
    assert "only 0.1 % of the coordinates" in refused(f"merge: {{kind: {kind}}}\n{TOP_K}")
    assert planned(f"merge: {{kind: {kind}}}\n{PLAIN}").merge.kind == kind


@pytest.mark.parametrize("uplink", ["{sparsify: {random_k: 1 %}}", "{quantize: ternary}", "auto", "stc"])
def test_every_chain_that_leaves_elements_out_is_refused_with_a_median(uplink: str) -> None:
    assert "only 0.1 %" in refused(f"merge: {{kind: median}}\ncompression: {{uplink: {uplink}}}\n")


@pytest.mark.parametrize("kind", ["fedavgm", "fedadam", "fedyogi"])
def test_momentum_on_both_sides_is_refused(kind: str) -> None:
    assert "speed up the same direction" in refused(
        f"merge: {{kind: {kind}}}\ncompression: {{uplink: dgc}}\n"
    )
    assert planned("compression: {uplink: dgc}\n").merge.kind == "fedavg"


@pytest.mark.parametrize(
    "lossy", [TOP_K, "compression: {uplink: {quantize: int8}}\n", "compression: {uplink: auto}\n"]
)
def test_privacy_is_refused_with_error_feedback(lossy: str) -> None:
    private = "merge: {kind: dp_fedavg, norm: 1, noise_multiplier: 1}\n"
    assert "more than the clipping bound" in refused(private + lossy)
    assert planned(private + PLAIN).merge.kind == "dp_fedavg"
    without = "compression: {uplink: {quantize: int8, error_feedback: off}}\n"
    assert planned(private + without).merge.kind == "dp_fedavg"


@pytest.mark.parametrize(
    "optimizer", ["{kind: sgd, momentum: 0.9}", "{kind: adam}", "{kind: sgd, momentum: 0.9, nesterov: true}"]
)
def test_scaffold_is_refused_with_anything_but_plain_sgd(optimizer: str) -> None:
    training = f"training: {{rounds: 2, optimizer: {optimizer}}}\n"
    assert "no mean of gradients" in refused("merge: {kind: scaffold}\n", training)
    assert planned("merge: {kind: scaffold}\n").merge.kind == "scaffold"


@pytest.mark.parametrize("key", ["proximal: 0.1", "clip_norm: 1.0"])
def test_scaffold_is_refused_with_what_would_be_in_its_variates(key: str) -> None:
    training = f"training: {{rounds: 2, {key}}}\n"
    assert "part of the control variates" in refused("merge: {kind: scaffold}\n", training)


def test_scaffold_is_refused_with_momentum_in_the_compression() -> None:
    assert "gradients of earlier tasks" in refused("merge: {kind: scaffold}\ncompression: {uplink: dgc}\n")
    assert planned("merge: {kind: scaffold}\n" + TOP_K).merge.paired


@pytest.mark.parametrize(
    "policy",
    ["{kind: asynchronous}", "{kind: buffered}", "{kind: tiered}", "{kind: synchronous, carry_over: true}"],
)
def test_scaffold_is_refused_without_rounds(policy: str) -> None:
    assert "drift apart" in refused(f"merge: {{kind: scaffold}}\npolicy: {policy}\n")


def test_a_median_of_one_is_refused() -> None:
    assert "one at a time" in refused("merge: {kind: median}\npolicy: {kind: asynchronous}\n")


def test_fednova_is_refused_with_adam() -> None:
    training = "training: {rounds: 2, optimizer: {kind: adam}}\n"
    assert "FedNova's length" in refused("merge: {kind: fednova}\n", training)


def test_statistics_without_noise_are_refused() -> None:
    text = BASE.replace("model: mlp", "model: {source: mlp, batch_norm: train}") + TRAINING
    with pytest.raises(TopologyErrors, match="without clipping or noise"):
        parse_topology(text + "merge: {kind: dp_fedavg, norm: 1, noise_multiplier: 1}\n")


@pytest.mark.parametrize(
    ("merge", "said"),
    [
        ("{kind: fedavg, control: fp16}", "belongs to kind: scaffold, not to fedavg"),
        ("{kind: scaffold, control: int4}", "merge.control"),
        ("{kind: fedavg, momentum: 0.9}", "belongs to kind: fedavgm, not to fedavg"),
        ("{kind: norm_bound}", "norm_bound needs `norm`"),
        ("{kind: dp_fedavg, norm: 1}", "dp_fedavg needs `noise_multiplier`"),
        ("{kind: krum, byzantine: 4}", "at least 2f + 3; a version may have 10"),
        ("{kind: krum, byzantine: 3, keep: 8}", "at most 7"),
        ("{kind: fedsgd}", "merge.kind"),
        ("{kind: trimmed_mean, trim: 0.5}", "merge.trim"),
        ("{kind: fedavg, journal_bytes_max: 10}", "merge.journal_bytes_max"),
    ],
)
def test_what_makes_no_sense_is_named(merge: str, said: str) -> None:
    assert said in refused(f"merge: {merge}\n")


def test_a_cohort_that_does_not_fit_memory_is_refused() -> None:
    text = BASE.replace("count: 10", "count: 400").replace("model: mlp", "model: cnn") + TRAINING
    with pytest.raises(TopologyErrors, match=r"holds all 400 updates at once, 2\.7 GB"):
        parse_topology(text + "merge: {kind: median}\n")


def test_every_row_names_known_words_and_says_why() -> None:
    known = facts(parse_topology(BASE + TRAINING).topology)
    for row in REFUSALS:
        assert {row.one[0], row.other[0]} <= known.keys()
        assert len(row.reason) > 20
        assert row.hint
