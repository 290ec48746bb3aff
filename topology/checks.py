"""What no single key can know: checks between sections of a topology.

Each check names the sections it reads; where one of them is broken it is skipped, so that it never reports
the consequences of an error that is reported already. Beside the file's own sections there are `links` (all
`link` keys) and `resources` (cpus, memory, threads) of the devices.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from topology.errors import MISSING, Path, did_you_mean
from topology.expectations import METRICS
from topology.faults import FAULTS
from topology.links import QUEUE_BYTES_MIN, resolve_link
from topology.schema import DEVICES_MAX, Topology

# Training images per dataset (learning.datasets holds the same, and refuses a folder that has fewer).
TRAIN_SAMPLES = {"mnist": 60_000, "mnist-mini": 10_000}
PARAMETERS = {"cnn": 1_663_370, "mlp": 199_210}


class Problem(NamedTuple):
    """An error before it is located in the file; without `value` the file's own value at `path` is shown."""

    path: Path
    message: str
    hint: str = ""
    value: Any = MISSING


Check = Callable[[Topology], Iterator[Problem]]
_CHECKS: list[tuple[frozenset[str], Check]] = []


def _check(*sections: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        _CHECKS.append((frozenset(sections), check))
        return check

    return register


def problems(topology: Topology, broken: Collection[str] = ()) -> Iterator[Problem]:
    """Every problem between sections that are not `broken`."""
    for sections, check in _CHECKS:
        if sections.isdisjoint(broken):
            yield from check(topology)


@_check("devices", "links")
def links_make_sense(topology: Topology) -> Iterator[Problem]:
    for group, spec in topology.devices.items():
        path: Path = ("devices", group, "link")
        link = resolve_link(spec.link)
        slowest_delay_s = min(link.up.delay_s, link.down.delay_s)
        if max(link.up.jitter_s, link.down.jitter_s) > slowest_delay_s:
            yield Problem(
                (*path, "jitter"),
                f"larger than the delay of {slowest_delay_s * 1000:g} ms",
                "packets cannot arrive early",
            )
        queue = spec.link.queue
        if queue is not None and link.up.rate_bit_s is None and link.down.rate_bit_s is None:
            yield Problem((*path, "queue"), "a queue needs a rate to wait for", "add `up` and `down`")
        for shape in (link.up, link.down) if queue is not None else ():
            if shape.queue_bytes is not None and shape.queue_bytes < QUEUE_BYTES_MIN:
                yield Problem(
                    (*path, "queue"),
                    f"is {shape.queue_bytes} bytes at {shape.rate_bit_s} bit/s, less than two full frames",
                    f"at least {QUEUE_BYTES_MIN} bytes",
                )
                break


@_check("devices")
def fleet_is_bounded(topology: Topology) -> Iterator[Problem]:
    count = sum(spec.count for spec in topology.devices.values())
    if count > DEVICES_MAX:
        yield Problem(("devices",), f"{count} devices in all, at most {DEVICES_MAX} are allowed", value=count)


@_check("devices", "policy")
def cohort_fits_fleet(topology: Topology) -> Iterator[Problem]:
    devices, policy = len(topology.device_names), topology.policy
    cohort = policy.cohort if policy.cohort is not None else devices
    if cohort > devices:
        yield Problem(("policy", "cohort"), f"the fleet has only {devices} devices", f"at most {devices}")
    elif math.ceil(cohort * policy.over_select) > devices:
        yield Problem(
            ("policy", "over_select"),
            f"{policy.over_select:g} × {cohort} devices are more than the {devices} of the fleet",
            "a smaller cohort, or over_select: 1",
        )


@_check("devices", "data")
def data_suffice(topology: Topology) -> Iterator[Problem]:
    devices, data = len(topology.device_names), topology.data
    available = TRAIN_SAMPLES[data.dataset]
    if devices > available:
        yield Problem(
            ("devices",),
            f"{devices} devices, but {data.dataset} has only {available} training samples",
            value=devices,
        )
    elif data.samples_per_device is not None and devices * data.samples_per_device > available:
        yield Problem(
            ("data", "samples_per_device"),
            f"{devices} devices need {devices * data.samples_per_device} samples of {available}",
            f"at most {available // devices}",
        )


@_check("data")
def partition_keys_fit_kind(topology: Topology) -> Iterator[Problem]:
    partition = topology.data.partition
    for key, kind in (("alpha", "dirichlet"), ("shards_per_device", "shards")):
        if getattr(partition, key) is not None and partition.kind != kind:
            yield Problem(
                ("data", "partition", key), f"belongs to kind: {kind}, not to {partition.kind}", "remove it"
            )


@_check("devices", "data", "training")
def batch_fits_shard(topology: Topology) -> Iterator[Problem]:
    samples = samples_per_device(topology)
    if 0 < samples < topology.training.batch_size:
        yield Problem(
            ("training", "batch_size"), f"a device has only {samples} samples", f"at most {samples}"
        )


@_check("training")
def nesterov_needs_momentum(topology: Topology) -> Iterator[Problem]:
    optimizer = topology.training.optimizer
    if optimizer.nesterov and optimizer.momentum == 0:
        yield Problem(
            ("training", "optimizer", "nesterov"), "Nesterov's method needs momentum", "add momentum: 0.9"
        )


@_check("faults")
def faults_are_whole(topology: Topology) -> Iterator[Problem]:
    for index, fault in enumerate(topology.faults):
        path: Path = ("faults", index)
        if not fault.kinds:
            yield Problem(path, "no fault is named", f"one of: {', '.join(FAULTS)}")
        elif len(fault.kinds) > 1:
            yield Problem(path, f"more than one fault: {', '.join(fault.kinds)}", "one entry for each")
        if (fault.at is None) == (fault.when is None):
            yield Problem(
                path, "exactly one of `at` and `when` is wanted", "at: 40 s, or when: round 3 training"
            )


@_check("faults", "devices")
def faults_have_targets(topology: Topology) -> Iterator[Problem]:
    names = topology.device_names
    for index, fault in enumerate(topology.faults):
        for kind in fault.kinds:
            spec = getattr(fault, kind)
            found = spec.matches(names)
            if not found:
                yield Problem(
                    ("faults", index, kind, "device"),
                    "matches no device",
                    did_you_mean(spec.device, _examples(names)),
                )
            elif spec.count is not None and spec.count > len(found):
                yield Problem(
                    ("faults", index, kind, "count"), f"only {len(found)} devices match {spec.device!r}"
                )


@_check("faults", "training")
def faults_come_in_time(topology: Topology) -> Iterator[Problem]:
    rounds = topology.training.rounds
    for index, fault in enumerate(topology.faults):
        if fault.when is not None and fault.when.round > rounds:
            yield Problem(
                ("faults", index, "when"), f"the run ends after round {rounds}", f"a round from 1 to {rounds}"
            )


@_check("expect")
def expectations_are_possible(topology: Topology) -> Iterator[Problem]:
    for metric, condition in topology.expect.items():
        largest = METRICS[metric].largest
        if largest is not None and condition.value > largest:
            yield Problem(("expect", metric), f"{metric} is never above {largest:g}", "write 0.95 for 95 %")


@_check("expect", "training")
def target_reaches_expectation(topology: Topology) -> Iterator[Problem]:
    stop, wanted = topology.training.stop_at_accuracy, topology.expect.get("accuracy")
    if stop is not None and wanted is not None and wanted.op in (">=", ">") and wanted.value > stop:
        yield Problem(
            ("training", "stop_at_accuracy"),
            f"the run would stop before the {wanted.value:g} that `expect` wants",
            f"at least {wanted.value:g}",
        )


@_check("devices", "links", "model", "compression", "policy")
def deadline_is_possible(topology: Topology) -> Iterator[Problem]:
    """The bytes of an update over the slowest uplink, from below: training, download and overheads not
    counted.
    """
    deadline_s = topology.policy.deadline
    size_bytes = update_bytes_least(topology)
    for group, spec in topology.devices.items():
        rate_bit_s = resolve_link(spec.link).up.rate_bit_s
        if rate_bit_s is not None and size_bytes * 8 / rate_bit_s > deadline_s:
            yield Problem(
                ("policy", "deadline"),
                f"{group} sends its {size_bytes / 1e6:.1f} MB in {size_bytes * 8 / rate_bit_s:.0f} s",
                "a longer deadline, a smaller top_k, or another link",
                value=f"{deadline_s:g} s",
            )


def samples_per_device(topology: Topology) -> int:
    """Training samples of each device: as written, or an equal share of the dataset."""
    data = topology.data
    if data.samples_per_device is not None:
        return data.samples_per_device
    return TRAIN_SAMPLES[data.dataset] // len(topology.device_names)


def update_bytes_least(topology: Topology) -> float:
    """A lower bound of an update's size: the values alone, and half of them where zstd may shrink what is not
    sparse.
    """
    uplink = topology.compression.uplink
    value_bytes = {"none": 4, "fp16": 2, "int8": 1}[uplink.quantize]
    share = uplink.sparsify.top_k if uplink.sparsify else 1.0
    return PARAMETERS[topology.model] * share * value_bytes * (0.5 if uplink.entropy == "zstd" else 1.0)


def _examples(names: list[str]) -> list[str]:
    """Enough names for a hint; a fleet of hundreds is not listed."""
    return names if len(names) <= 12 else random.Random(0).sample(names, 12)
