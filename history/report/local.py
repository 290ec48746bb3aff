"""How every device fares on its own data, how evenly, and how far its updates went astray."""

from __future__ import annotations

from history import units
from history.local import DeviceLocal, Fairness, LocalSummary
from history.report.markup import Markup
from history.report.tables import table
from history.summary import Summary

INTRO = (
    "Every device tests on data of its own that it never trains on: the shared model as it received it, and the model "
    "it made of it for itself. Devices count alike; the worst tenth is at least one device. These are the devices' own "
    "words, of which the coordinator checked only that they can be true. Drift is of the updates as they were merged: "
    "their Euclidean norm, and the cosine to the mean of their version."
)


def sections(summary: Summary) -> list[Markup]:
    """Nothing for a run in which no device was asked."""
    local = summary.local
    if local is None:
        return []
    return [fairness(local), devices(local), versions(local)]


def fairness(local: LocalSummary) -> Markup:
    rows = [_fairness(name, found) for name, found in _models(local) if found is not None]
    head = ["model", "#devices", "#mean", "#worst tenth", "#worst", "#best", "#variance"]
    return table("Accuracy on the devices' own tests", head, rows, "No device sent an accuracy.")


def _models(local: LocalSummary) -> list[tuple[str, Fairness | None]]:
    return [("shared", local.received), (f"personal ({local.personalization})", local.personal)]


def _fairness(name: str, found: Fairness) -> tuple[str, ...]:
    shares = (found.mean, found.worst_decile, found.min, found.max)
    return (name, f"{found.devices}", *(units.percent(a) for a in shares), units.plain(found.variance, 3))


def devices(local: LocalSummary) -> Markup:
    rows = [_device(device) for device in local.devices]
    head = ["device", "#version", "#own tests", "#shared", "#personal", "#loss, shared", "#personal"]
    head += ["#updates", "#norm, mean", "#largest", "#cosine, mean", "#smallest"]
    return table("Per device: its own tests, and its updates' drift", head, rows, "The plan has no device.")


def _device(device: DeviceLocal) -> tuple[str, ...]:
    drift = device.drift
    return (
        device.name,
        _whole(device.version),
        _whole(device.samples),
        _share(device.received_accuracy),
        _share(device.personal_accuracy),
        _number(device.received_loss),
        _number(device.personal_loss),
        _whole(drift.updates if drift else None),
        _number(drift.norm_mean if drift else None),
        _number(drift.norm_max if drift else None),
        _number(drift.cosine_mean if drift else None),
        _number(drift.cosine_min if drift else None),
    )


def versions(local: LocalSummary) -> Markup:
    rows = [
        (
            f"{version.version}",
            f"{version.devices}",
            _share(version.received_accuracy),
            _share(version.personal_accuracy),
            _number(version.norm_mean),
            _number(version.cosine_mean),
        )
        for version in local.versions
    ]
    head = [
        "#version",
        "#devices that tested it",
        "#shared",
        "#personal",
        "#norm of its updates",
        "#cosine to their mean",
    ]
    return table("Per version", head, rows, "No version was tested.")


def _whole(value: int | None) -> str:
    return units.DASH if value is None else f"{value}"


def _share(value: float | None) -> str:
    return units.DASH if value is None else units.percent(value)


def _number(value: float | None) -> str:
    return units.DASH if value is None else units.plain(value, 3)
