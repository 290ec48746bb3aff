"""What does not go together, as data: merge, schedule, compression, optimizer, personalisation, model, expectations.

`facts` says which words hold for a topology, one set per dimension; a `Refusal` is a pair of dimensions with the words
that meet in it. `topology.checks.merge` reports every refusal that applies. To forbid another pair, add a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from topology.errors import Path
from topology.schema import Topology

Facts = Mapping[str, frozenset[str]]

SPARSE = frozenset({"top_k", "random_k", "ternary", "threshold", "stc", "dgc"})
BY_ORDER = frozenset({"median", "trimmed_mean", "krum"})
SERVER_MOMENTUM = frozenset({"fedavgm", "fedadam", "fedyogi"})
WITHOUT_ROUNDS = frozenset({"buffered", "asynchronous", "tiered", "fedat"})
LOCAL_HEADS = frozenset({"fedper", "fedrep"})
# Of the coordinator's test data, on the model that all devices share.
GLOBAL_METRICS = frozenset(
    {
        "accuracy",
        "best_accuracy",
        "loss",
        "f1",
        "mse",
        "perplexity",
        "worst_class_accuracy",
        "largest_confusion",
    }
)


class Refusal(NamedTuple):
    """Refused where a word of `one` and a word of `other` hold. `path`: the key to blame."""

    one: tuple[str, frozenset[str]]
    other: tuple[str, frozenset[str]]
    path: Path
    reason: str
    hint: str


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        ("merge", BY_ORDER),
        ("compression", SPARSE),
        ("merge", "kind"),
        "compares updates coordinate by coordinate, and sparse updates hardly meet: of ten top-1 % updates only 0.1 % "
        "of the coordinates are non-zero in six, so nearly every median is zero",
        "sparsify: none, or merge: {kind: norm_bound}",
    ),
    Refusal(
        ("merge", BY_ORDER),
        ("schedule", frozenset({"asynchronous"})),
        ("merge", "kind"),
        "needs several updates to compare, an asynchronous schedule merges one at a time",
        "policy: {kind: buffered}, or merge: {kind: norm_bound}",
    ),
    Refusal(
        ("merge", frozenset({"dp_fedavg"})),
        ("compression", frozenset({"feedback"})),
        ("compression", "uplink"),
        "error feedback carries what was left out of one update into the next: one device then moves a version by more "
        "than the clipping bound, and the privacy that is accounted for does not hold",
        "error_feedback: off, or sparsify: none and quantize: none",
    ),
    Refusal(
        ("merge", frozenset({"dp_fedavg"})),
        ("model", frozenset({"batch_norm_train"})),
        ("merge", "kind"),
        "BatchNorm's statistics are averaged as they are, without clipping or noise: they would leave the devices "
        "unprotected",
        "model: {batch_norm: frozen} or a model without BatchNorm",
    ),
    Refusal(
        ("merge", frozenset({"scaffold"})),
        ("optimizer", frozenset({"momentum", "nesterov", "adam", "adamw"})),
        ("training", "optimizer"),
        "SCAFFOLD takes the mean gradient of a task from how far the model moved: with momentum or Adam that is no "
        "mean of gradients",
        "optimizer: {kind: sgd} without momentum",
    ),
    Refusal(
        ("merge", frozenset({"scaffold"})),
        ("training", frozenset({"proximal", "clip_norm"})),
        ("training",),
        "SCAFFOLD takes the mean gradient of a task from how far the model moved: a proximal term or clipped gradients "
        "would become part of the control variates",
        "leave proximal and clip_norm out",
    ),
    Refusal(
        ("merge", frozenset({"scaffold"})),
        ("schedule", WITHOUT_ROUNDS | {"carry_over"}),
        ("policy", "kind"),
        "SCAFFOLD's control variates belong to the version they were made with: without rounds that wait for their "
        "updates c and the cᵢ drift apart",
        "policy: {kind: synchronous} without carry_over",
    ),
    Refusal(
        ("merge", frozenset({"fednova"})),
        ("optimizer", frozenset({"nesterov", "adam", "adamw"})),
        ("training", "optimizer"),
        "FedNova's length of an update is known for SGD, with or without momentum",
        "optimizer: {kind: sgd}",
    ),
    Refusal(
        ("merge", frozenset({"fednova"})),
        ("training", frozenset({"proximal"})),
        ("training", "proximal"),
        "a proximal term changes how long an update of so many steps is; FedNova's normalisation here is that of SGD",
        "leave proximal out",
    ),
    Refusal(
        ("merge", frozenset({"scaffold"})),
        ("compression", frozenset({"dgc"})),
        ("compression", "uplink"),
        "DGC is momentum on the devices: an update then carries gradients of earlier tasks, which no control variate "
        "corrects",
        "a compression without momentum, such as sparsify with plain error feedback",
    ),
    Refusal(
        ("compression", frozenset({"dgc"})),
        ("merge", SERVER_MOMENTUM),
        ("merge", "kind"),
        "DGC's momentum on the devices and momentum on the server would both speed up the same direction",
        "merge: {kind: fedavg}, or a compression without momentum",
    ),
    Refusal(
        ("personalization", LOCAL_HEADS),
        ("expect", GLOBAL_METRICS),
        ("expect",),
        "with local heads the global model has no trained head of its own: its accuracy says nothing",
        "expect a figure of the devices instead: local_accuracy, worst_decile_accuracy",
    ),
    Refusal(
        ("personalization", LOCAL_HEADS),
        ("training", frozenset({"stop_at_accuracy"})),
        ("training", "stop_at_accuracy"),
        "with local heads the global model has no trained head of its own: its accuracy is never reached",
        "leave it out, and write the rounds that you want",
    ),
    Refusal(
        ("personalization", LOCAL_HEADS | {"ditto"}),
        ("optimizer", frozenset({"keep"})),
        ("training", "optimizer", "keep"),
        "a kept optimizer state would go from the steps of one part of the model into those of another",
        "leave keep out",
    ),
    Refusal(
        ("personalization", frozenset({"fedrep"})),
        ("merge", frozenset({"scaffold"})),
        ("merge", "kind"),
        "SCAFFOLD's control variates are means of a device's gradients, and those of FedRep are taken under another "
        "head in every task",
        "personalization: {kind: ditto}, or merge: {kind: fedavg}",
    ),
    Refusal(
        ("merge", frozenset({"dp_fedavg"})),
        ("evaluation", frozenset({"local"})),
        ("evaluation", "local"),
        "how many of its test samples a device gets right travels as it is, and the privacy that is accounted for does "
        "not cover it",
        "evaluation: {local: false}",
    ),
)


def refusals(topology: Topology) -> Iterator[Refusal]:
    """Every row that applies."""
    known = facts(topology)
    for row in REFUSALS:
        if known[row.one[0]] & row.one[1] and known[row.other[0]] & row.other[1]:
            yield row


def facts(topology: Topology) -> Facts:
    optimizer, training = topology.training.optimizer, topology.training
    words = {
        "merge": {topology.merge.kind},
        "schedule": {topology.policy.kind, *({"carry_over"} if topology.policy.carry_over else ())},
        "compression": _compression(topology.compression.uplink.model_dump()),
        "optimizer": {
            optimizer.kind,
            *({"momentum"} if optimizer.momentum else ()),
            *({"nesterov"} if optimizer.nesterov else ()),
            *({"keep"} if optimizer.keep else ()),
        },
        "training": {key for key in ("proximal", "clip_norm", "stop_at_accuracy") if getattr(training, key)},
        "model": {f"batch_norm_{topology.model.batch_norm}"},
        "personalization": {topology.personalization.kind} if topology.personalization else set(),
        "evaluation": {"local"} if topology.tests_locally else set(),
        "expect": {str(metric) for metric in topology.expect},
    }
    return {name: frozenset(found) for name, found in words.items()}


def _compression(uplink: Mapping[str, Any]) -> set[str]:
    """The stages by name, and `feedback` where something lossy is left to a residual.

    A chain that is chosen for every task (`adaptive`) may be any of those it can be.
    """
    words = _words(uplink["sparsify"]) | {uplink["quantize"]}
    lossy = uplink["sparsify"] is not None or uplink["quantize"] != "none"
    if uplink["adaptive"] is not None:
        words, lossy = words | {"top_k", "int8"}, True
    kind = uplink["error_feedback"]["kind"]
    return words | ({kind} if kind == "dgc" else set()) | ({"feedback"} if lossy and kind != "off" else set())


def _words(section: Any) -> set[str]:
    """Keys that are set, and text they are set to."""
    if section is None:
        return set()
    values = section if isinstance(section, Mapping) else section.model_dump()
    found = {key for key, value in values.items() if value not in (None, False)}
    return found | {value for value in values.values() if isinstance(value, str)}
