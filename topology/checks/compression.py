"""Which stages of compression go together, and with what training."""

from __future__ import annotations

from collections.abc import Iterator

from topology.chains import chain_of
from topology.checks.registry import Problem, check
from topology.errors import Path
from topology.schema import Topology
from topology.schema.compression import Uplink
from wire.codecs import CodecError, make_chain

UPLINK: Path = ("compression", "uplink")
FEEDBACK: Path = (*UPLINK, "error_feedback")


@check("compression")
def stages_go_together(topology: Topology) -> Iterator[Problem]:
    """First what a stage's own words would not explain; then what the codecs themselves refuse."""
    uplink = topology.compression.uplink
    found = [*_misplaced(uplink), *_pointless(uplink)]
    yield from found
    if found:
        return
    try:
        make_chain(chain_of(uplink), feedback=uplink.error_feedback.kind != "off")
    except CodecError as error:
        sparsify = chain_of(uplink).sparsify
        chose = sparsify is not None and error.detail.startswith(f"{sparsify.kind}:")
        yield Problem((*UPLINK, "sparsify" if chose else "quantize"), error.detail)


def _misplaced(uplink: Uplink) -> Iterator[Problem]:
    for key, owner in (("bits", "eden"), ("levels", "qsgd")):
        if getattr(uplink, key) is not None and uplink.quantize != owner:
            yield Problem(
                (*UPLINK, key), f"belongs to quantize: {owner}, not to {uplink.quantize}", "remove it"
            )
    if uplink.block is not None and uplink.quantize not in ("int8", "int4", "qsgd"):
        yield Problem(
            (*UPLINK, "block"), f"{uplink.quantize} has no scales of blocks", "int8, int4 and qsgd have them"
        )
    sparsify = uplink.sparsify
    if sparsify is not None and sparsify.per_layer and sparsify.top_k is None:
        yield Problem((*UPLINK, "sparsify", "per_layer"), "only top_k chooses per layer", "remove it")
    elif sparsify is not None and sparsify.per_layer and sparsify.top_k and sparsify.top_k.size_bytes:
        yield Problem(
            (*UPLINK, "sparsify", "per_layer"),
            "a budget of bytes is shared by all layers",
            "per_layer with a share, like top_k: 1 %, or a budget without it",
        )


def _pointless(uplink: Uplink) -> Iterator[Problem]:
    """What can be computed and helps nobody."""
    if uplink.rotate != "none" and uplink.quantize in ("none", "fp16", "bf16", "ternary"):
        yield Problem(
            (*UPLINK, "rotate"),
            f"a rotation evens out magnitudes for eden, int8, int4 or qsgd; before {uplink.quantize} it only costs",
            "remove it, or quantize: eden",
        )
    if uplink.quantize == "ternary" and uplink.sparsify is None:
        yield Problem(
            (*UPLINK, "quantize"),
            "ternary needs a sparsifier: its third value is what that leaves out",
            "add sparsify: {top_k: 1 %}, or take eden with bits: 1",
        )
    if uplink.quantize == "eden" and uplink.rotate != "hadamard":
        yield Problem(
            (*UPLINK, "quantize"),
            "eden's levels are those of a Gaussian, which values become by the rotation",
            "add rotate: hadamard",
        )


@check("compression")
def feedback_fits_chain(topology: Topology) -> Iterator[Problem]:
    uplink, feedback = topology.compression.uplink, topology.compression.uplink.error_feedback
    sparsify = uplink.sparsify
    if feedback.kind == "dgc" and sparsify is None and uplink.adaptive is None:
        yield Problem(
            FEEDBACK,
            "dgc clears its momentum where an update was sent: without a sparsifier, everywhere",
            "add sparsify: {top_k: 0.1 %}, or kind: plain",
        )
    if feedback.momentum is not None and feedback.kind != "dgc":
        yield Problem((*FEEDBACK, "momentum"), f"belongs to kind: dgc, not to {feedback.kind}", "remove it")
    amount = None if sparsify is None else sparsify.top_k or sparsify.random_k
    if feedback.warm_up and (amount is None or amount.fraction is None):
        yield Problem((*FEEDBACK, "warm_up"), "needs a share that it can begin above", "like top_k: 0.1 %")
    if feedback.kind != "off":
        return
    for key, is_set in (("decay", feedback.decay is not None), ("restart", feedback.restart != "keep")):
        if is_set:
            yield Problem((*FEEDBACK, key), "without error feedback there is no residual", "remove it")
    if uplink.adaptive is not None:
        yield Problem(
            FEEDBACK,
            "auto sparsifies: what it leaves out must not be lost",
            "kind: plain, or a chain of your own",
        )


@check("compression", "training")
def momentum_is_counted_once(topology: Topology) -> Iterator[Problem]:
    """Lin et al. 2018: the momentum moves from the optimizer into the correction."""
    feedback, optimizer = topology.compression.uplink.error_feedback, topology.training.optimizer
    if feedback.kind == "dgc" and optimizer.momentum:
        yield Problem(
            ("training", "optimizer", "momentum"),
            "dgc already applies momentum to the device's updates",
            "momentum: 0 here; dgc's own is compression.uplink.error_feedback.momentum",
        )


@check("compression")
def auto_stands_alone(topology: Topology) -> Iterator[Problem]:
    uplink = topology.compression.uplink
    if uplink.adaptive is None:
        return
    chosen = {
        "sparsify",
        "rotate",
        "quantize",
        "bits",
        "levels",
        "block",
        "entropy",
    } & uplink.model_fields_set
    for key in sorted(chosen):
        yield Problem((*UPLINK, key), "auto chooses the chain itself", "remove it, or remove adaptive")
    if uplink.adaptive.least > uplink.adaptive.most:
        yield Problem((*UPLINK, "adaptive", "least"), f"is more than most: {uplink.adaptive.most:g}")
    if uplink.error_feedback.warm_up:
        yield Problem((*FEEDBACK, "warm_up"), "auto chooses the share of every round itself", "remove it")


@check("compression")
def a_share_of_a_version_has_values_of_its_own(topology: Topology) -> Iterator[Problem]:
    downlink = topology.compression.downlink
    if downlink.delta < 1 and downlink.quantize == "int8":
        yield Problem(
            ("compression", "downlink", "delta"),
            "int8 has one scale for 1,024 parameters: they are renewed together or not at all",
            "quantize: fp16, or delta: 1",
        )
