"""Heterogeneity in figures: how every device fares on its own data, how evenly, and how far its updates went astray.

The last word of each device counts, the survey at the end where there was one. Devices count alike, however many tests
they have: fairness is about devices (Li et al. 2020, q-FFL, arXiv:1905.10497, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from history.record import Drift, LocalEvaluation, LocalTest, Record


class Fairness(Struct, frozen=True, kw_only=True):
    """Of one accuracy per device. `worst_decile`: mean of the worst tenth, of at least one device."""

    devices: int
    mean: float
    variance: float
    min: float
    max: float
    worst_decile: float


class DeviceDrift(Struct, frozen=True, kw_only=True):
    """Of a device's merged updates; norms are Euclidean, a cosine is against the mean of the version."""

    updates: int
    norm_mean: float
    norm_max: float
    cosine_mean: float | None
    cosine_min: float | None


class DeviceLocal(Struct, frozen=True, kw_only=True):
    """`received`: the shared model; `personal`: the device's own."""

    name: str
    version: int | None = None
    samples: int | None = None
    received_accuracy: float | None = None
    received_loss: float | None = None
    personal_accuracy: float | None = None
    personal_loss: float | None = None
    drift: DeviceDrift | None = None


class VersionLocal(Struct, frozen=True, kw_only=True):
    """All devices that tested one version, and drift of the updates that were merged into it."""

    version: int
    devices: int
    received_accuracy: float | None
    personal_accuracy: float | None
    norm_mean: float | None
    cosine_mean: float | None


class LocalSummary(Struct, frozen=True, kw_only=True):
    """`personalization` is the kind, empty without. None where no device said anything."""

    personalization: str
    received: Fairness | None
    personal: Fairness | None
    devices: tuple[DeviceLocal, ...]
    versions: tuple[VersionLocal, ...]


def last(record: Record) -> dict[str, LocalEvaluation]:
    """Of every device that said something, about the newest version it did."""
    found: dict[str, LocalEvaluation] = {}
    for (agent, version), evaluation in record.local.items():
        if agent not in found or found[agent].version < version:
            found[agent] = evaluation
    return found


def fairness(accuracies: Iterable[float | None]) -> Fairness | None:
    known = sorted(a for a in accuracies if a is not None)
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    worst = known[: max(1, math.ceil(len(known) / 10))]
    return Fairness(
        devices=len(known),
        mean=mean,
        variance=math.fsum((a - mean) ** 2 for a in known) / len(known),
        min=known[0],
        max=known[-1],
        worst_decile=math.fsum(worst) / len(worst),
    )


def received(record: Record) -> Fairness | None:
    """Of the shared model."""
    return fairness(_accuracy(e.received) for e in last(record).values())


def used(record: Record) -> Fairness | None:
    """Of what each device would use: its personal model where it has one."""
    return fairness(_accuracy(e.used) for e in last(record).values())


def summary(record: Record) -> LocalSummary | None:
    if not record.local and not record.drift:
        return None
    plan = record.plan.personalization
    known = last(record)
    return LocalSummary(
        personalization=plan.kind if plan is not None else "",
        received=received(record),
        personal=fairness(_accuracy(e.personal) for e in known.values()),
        devices=tuple(_device(record, name, known.get(name)) for name in record.devices),
        versions=tuple(_versions(record)),
    )


def _accuracy(test: LocalTest | None) -> float | None:
    return test.accuracy if test is not None else None


def _device(record: Record, name: str, found: LocalEvaluation | None) -> DeviceLocal:
    drift = _drift([d for d in record.drift.values() if d.agent == name])
    if found is None:
        return DeviceLocal(name=name, drift=drift)
    shared, own = found.received, found.personal
    return DeviceLocal(
        name=name,
        version=found.version,
        samples=found.used.samples if found.used is not None else None,
        received_accuracy=_accuracy(shared),
        received_loss=shared.loss if shared is not None else None,
        personal_accuracy=_accuracy(own),
        personal_loss=own.loss if own is not None else None,
        drift=drift,
    )


def _drift(found: list[Drift]) -> DeviceDrift | None:
    if not found:
        return None
    cosines = [d.cosine for d in found if d.cosine is not None]
    return DeviceDrift(
        updates=len(found),
        norm_mean=math.fsum(d.norm for d in found) / len(found),
        norm_max=max(d.norm for d in found),
        cosine_mean=_mean(cosines),
        cosine_min=min(cosines, default=None),
    )


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _versions(record: Record) -> Iterable[VersionLocal]:
    tested: dict[int, list[LocalEvaluation]] = {}
    merged: dict[int, list[Drift]] = {}
    for evaluation in record.local.values():
        tested.setdefault(evaluation.version, []).append(evaluation)
    for drift in record.drift.values():
        merged.setdefault(drift.version, []).append(drift)
    for version in sorted(tested.keys() | merged.keys()):
        said, went = tested.get(version, []), merged.get(version, [])
        shared = [a for e in said if (a := _accuracy(e.received)) is not None]
        own = [a for e in said if (a := _accuracy(e.personal)) is not None]
        yield VersionLocal(
            version=version,
            devices=len(said),
            received_accuracy=_mean(shared),
            personal_accuracy=_mean(own),
            norm_mean=_mean([d.norm for d in went]),
            cosine_mean=_mean([d.cosine for d in went if d.cosine is not None]),
        )


# --- what `expect` asks for ---------------------------------------------------------------------------------------


def local_accuracy(record: Record) -> float | None:
    found = used(record)
    return found.mean if found else None


def local_accuracy_min(record: Record) -> float | None:
    found = used(record)
    return found.min if found else None


def local_accuracy_variance(record: Record) -> float | None:
    found = used(record)
    return found.variance if found else None


def worst_decile_accuracy(record: Record) -> float | None:
    found = used(record)
    return found.worst_decile if found else None


def received_accuracy(record: Record) -> float | None:
    found = received(record)
    return found.mean if found else None


def personal_gain(record: Record) -> float | None:
    """Over the devices that have both figures; None where no device has."""
    pairs = [(_accuracy(e.personal), _accuracy(e.received)) for e in last(record).values()]
    return _mean([own - shared for own, shared in pairs if own is not None and shared is not None])
