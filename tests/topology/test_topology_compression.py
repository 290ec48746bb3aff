"""The chain is freely composed in the file; what does not go together is refused where it stands, with the reason."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from topology.compile import compile_topology
from topology.errors import TopologyErrors
from topology.plan import CompressionPlan
from topology.schema.compression import PRESETS
from topology.validate import parse_topology
from wire.codecs import CodecSpec, Feedback, Sparsify, decode, layers_of, make_chain
from wire.codecs.model import Rounding

HEAD = """
name: x
devices: {a: {profile: laptop, link: ethernet}}
data: {dataset: mnist-mini}
model: mlp
training: {rounds: 1}
"""


def plan_of(compression: str, more: str = "") -> CompressionPlan:
    parsed = parse_topology(f"{HEAD}{more}compression: {compression}\n")
    return compile_topology(parsed.topology, "r").compression


def refusals(compression: str, more: str = "") -> dict[str, str]:
    text = HEAD.replace("training: {rounds: 1}\n", more) if more else HEAD
    with pytest.raises(TopologyErrors) as caught:
        parse_topology(f"{text}compression: {compression}\n")
    return {error.path: f"{error.message} ({error.hint})" for error in caught.value.errors}


def top(fraction: float, **more: bool) -> Sparsify:
    return Sparsify(kind="top_k", fraction=fraction, **more)


WRITTEN = {
    "{sparsify: {top_k: 0.01}, quantize: int4}": CodecSpec(sparsify=top(0.01), quantize="int4"),
    "{sparsify: {top_k: 20 kB}, quantize: int8}": CodecSpec(
        sparsify=Sparsify(kind="top_k", bytes=20_000), quantize="int8"
    ),
    "{sparsify: {top_k: 1 %, per_layer: true}, quantize: ternary, entropy: golomb}": CodecSpec(
        sparsify=top(0.01, per_layer=True), quantize="ternary", entropy="golomb"
    ),
    "{sparsify: {random_k: 5 %}, quantize: bf16}": CodecSpec(
        sparsify=Sparsify(kind="random_k", fraction=0.05), quantize="bf16"
    ),
    "{sparsify: {threshold: 0.002}, quantize: fp16}": CodecSpec(
        sparsify=Sparsify(kind="threshold", threshold=0.002), quantize="fp16"
    ),
    "{rotate: hadamard, quantize: eden, bits: 2, entropy: none}": CodecSpec(
        rotate="hadamard", quantize="eden", bits=2, entropy="none"
    ),
    "{rotate: hadamard, quantize: int4, block: 0}": CodecSpec(rotate="hadamard", quantize="int4", block=0),
    "{quantize: qsgd, levels: 7, entropy: smallest}": CodecSpec(
        quantize="qsgd", levels=7, entropy="smallest"
    ),
}


@pytest.mark.parametrize(("uplink", "chain"), WRITTEN.items())
def test_any_chain_can_be_written(uplink: str, chain: CodecSpec) -> None:
    plan = plan_of(f"{{uplink: {uplink}}}")
    assert plan.uplink.chain == chain
    vector = np.random.default_rng(0).standard_normal(5_000).astype(np.float32) * np.float32(1e-2)
    payload = make_chain(plan.uplink.chain).encode(vector, seed=1, layers=layers_of([(50, 100)]))
    assert decode(payload, n=5_000).norm() > 0


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_compiles_to_a_chain_that_encodes(name: str) -> None:
    plan = plan_of(name)
    assert plan == plan_of(f"{{uplink: {name}}}")
    chain = make_chain(plan.uplink.chain, feedback=plan.uplink.feedback.kind != "off")
    vector = np.random.default_rng(0).standard_normal(3_000).astype(np.float32)
    assert decode(chain.encode(vector, seed=1), n=3_000).norm() > 0
    assert (plan.uplink.adaptive is not None) == (name == "auto")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=CompressionPlan) == plan


def test_error_feedback_in_short_and_in_full() -> None:
    assert plan_of("{uplink: {quantize: int8}}").uplink.feedback == Feedback()
    off = plan_of("{uplink: {quantize: int8, error_feedback: off}}").uplink
    assert off.feedback == Feedback(kind="off")
    full = plan_of(
        "{uplink: {sparsify: {top_k: 0.1 %}, error_feedback: {kind: dgc, momentum: 0.8, warm_up: 4, "
        "decay: {after: 3, factor: 0.25}, restart: fresh}}}"
    ).uplink
    assert full.feedback == Feedback(
        kind="dgc", momentum=0.8, decay_after=3, decay_factor=0.25, restart="fresh"
    )
    assert full.warm_up.rounds == 4
    assert plan_of("{uplink: {sparsify: {top_k: 1 %}, error_feedback: dgc}}").uplink.feedback.momentum == 0.9


@pytest.mark.parametrize(
    ("uplink", "path", "says"),
    [
        ("{quantize: ternary}", "quantize", "its third value is what that leaves out"),
        ("{quantize: eden}", "quantize", "add rotate: hadamard"),
        ("{rotate: hadamard}", "rotate", "only costs"),
        ("{rotate: hadamard, quantize: bf16}", "rotate", "evens out magnitudes"),
        ("{quantize: int8, bits: 2}", "bits", "belongs to quantize: eden"),
        ("{quantize: int8, levels: 2}", "levels", "belongs to quantize: qsgd"),
        ("{quantize: fp16, block: 64}", "block", "no scales of blocks"),
        ("{sparsify: {}}", "sparsify", "exactly one of top_k, random_k and threshold"),
        ("{sparsify: {top_k: 1 %, threshold: 0.1}}", "sparsify", "top_k and threshold"),
        ("{sparsify: {top_k: 0}}", "sparsify.top_k", "like 0.01, 1 % or 20 kB"),
        ("{sparsify: {top_k: 20 kb}}", "sparsify.top_k", "like 0.01, 1 % or 20 kB"),
        ("{sparsify: {top_k: 20 B}}", "sparsify", "at least 128"),
        ("{sparsify: {random_k: 1 %, per_layer: true}}", "sparsify.per_layer", "only top_k"),
        ("{sparsify: {top_k: 20 kB, per_layer: true}}", "sparsify.per_layer", "shared by all layers"),
        ("{quantize: int8, error_feedback: dgc}", "error_feedback", "without a sparsifier, everywhere"),
        ("{quantize: int8, error_feedback: {momentum: 0.9}}", "error_feedback.momentum", "belongs to kind: dgc"),
        ("{quantize: int8, error_feedback: {warm_up: 3}}", "error_feedback.warm_up", "begin above"),
        ("{quantize: int8, error_feedback: {kind: off, decay: {}}}", "error_feedback.decay", "no residual"),
        ("{quantize: int8, error_feedback: {kind: off, restart: fresh}}", "error_feedback.restart", "no residual"),
        ("{adaptive: {}, quantize: int8}", "quantize", "auto chooses the chain itself"),
        ("{adaptive: {}, error_feedback: off}", "error_feedback", "must not be lost"),
        ("{adaptive: {least: 10 %, most: 1 %}}", "adaptive.least", "more than most"),
        ("stcc", "", "did you mean 'stc'?"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_the_reason(uplink: str, path: str, says: str) -> None:
    found = refusals(f"{{uplink: {uplink}}}")
    full = f"compression.uplink.{path}".rstrip(".")
    assert list(found) == [full]
    assert says in found[full]


def test_dgc_carries_the_momentum_itself() -> None:
    found = refusals("dgc", more="training: {rounds: 1, optimizer: {lr: 0.1, momentum: 0.9}}\n")
    assert "already applies momentum" in found["training.optimizer.momentum"]


def test_the_downlink_is_whole_or_a_share_in_three_widths() -> None:
    assert plan_of("{downlink: {quantize: int8}}").downlink.rounding == Rounding("int8", 1.0)
    assert plan_of("{downlink: {delta: 5 %}}").downlink.rounding == Rounding("fp16", 0.05)
    found = refusals("{downlink: {quantize: int8, delta: 0.1}}")
    assert "renewed together" in found["compression.downlink.delta"]
