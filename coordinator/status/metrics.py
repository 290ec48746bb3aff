"""`/metrics`: a snapshot in Prometheus' text format, version 0.0.4.

Names follow its conventions: base units (seconds, bytes), `_total` on counters, few labels with few values. A device is
a label value, an update is not.
https://prometheus.io/docs/instrumenting/exposition_formats/, https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from coordinator.picture import Picture
from coordinator.state import FINAL, RunPhase, TaskState
from coordinator.status.board import Snapshot
from coordinator.status.tally import Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN = [state.value for state in TaskState if state not in FINAL]
ENDED = [state.value for state in TaskState if state in FINAL]
STATES = ["starting", *(phase.value for phase in RunPhase)]


class Sample(NamedTuple):
    labels: Mapping[str, str]
    value: float


class Family(NamedTuple):
    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: list[Sample]


def render(families: Iterable[Family]) -> str:
    """One family after the other, its samples together, a line feed at the end."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    if not family.samples:
        return
    yield f"# HELP {family.name} {_escaped(family.help)}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.samples:
        listed = ",".join(f'{name}="{_escaped(text, quotes=True)}"' for name, text in labels.items())
        yield f"{family.name}{{{listed}}} {_number(value)}" if listed else f"{family.name} {_number(value)}"


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))


# --- of a run ---------------------------------------------------------------------------------------------------------


def families(snapshot: Snapshot, age_s: float) -> list[Family]:
    return [
        _gauge("edgerig_snapshot_age_seconds", "How old these figures are.", age_s),
        *_of_run(snapshot.picture),
        *_of_round(snapshot.picture),
        *_of_devices(snapshot.picture),
        *_counted(snapshot.tally),
    ]


def _gauge(name: str, help_: str, value: float | None) -> Family:
    """Without a value there is no sample: an unknown accuracy is not zero."""
    return Family(name, "gauge", help_, [] if value is None else [Sample({}, value)])


def _counter(name: str, help_: str, value: float) -> Family:
    return Family(name, "counter", help_, [Sample({}, value)])


def _by(label: str, counts: Mapping[str, float], names: Iterable[str] = ()) -> list[Sample]:
    """Every name that is known beforehand, 0 as well: a series that appears late hides its first increase."""
    return [Sample({label: name}, counts.get(name, 0)) for name in dict.fromkeys([*names, *sorted(counts)])]


def _of_run(picture: Picture) -> Iterator[Family]:
    yield Family(
        "edgerig_run_info", "gauge", "The run, as a label; always 1.", [Sample({"run": picture.run}, 1)]
    )
    yield Family(
        "edgerig_run_state",
        "gauge",
        "1 for the state that the run is in.",
        _by("state", {picture.state: 1}, STATES),
    )
    yield _gauge("edgerig_epoch", "Starts of the coordinator in this run.", picture.epoch)
    yield _gauge("edgerig_version", "The newest model version.", picture.version)
    yield _gauge(
        "edgerig_accuracy_ratio", "Of the version evaluated last, on the test data.", picture.accuracy
    )


def _of_round(picture: Picture) -> Iterator[Family]:
    yield _gauge("edgerig_round", "The round that is open, or the last one.", picture.round)
    yield _gauge("edgerig_rounds", "Rounds that were asked for.", picture.rounds)
    yield _gauge(
        "edgerig_round_deadline_seconds", "Left until the open round's deadline.", picture.deadline_s
    )
    yield _gauge("edgerig_round_extensions", "Deadlines that the open round missed.", picture.extensions)
    counts = {"have": picture.have, "want": picture.want, "need": picture.need}
    yield Family(
        "edgerig_round_updates",
        "gauge",
        "Updates of the open round: there, complete with, enough with at the deadline.",
        _by("which", counts),
    )
    yield _gauge("edgerig_waiting_devices", "Devices that the run waits for now.", len(picture.waiting))
    since = [float(str(item["since_s"])) for item in picture.waiting]
    yield _gauge(
        "edgerig_waiting_seconds",
        "How long the longest of them has been in its phase.",
        max(since, default=0.0),
    )
    yield Family("edgerig_tasks", "gauge", "Tasks without an outcome.", _by("state", picture.tasks, OPEN))
    yield _gauge(
        "edgerig_granted_bytes", "Room that is promised for updates on their way.", picture.granted_bytes
    )
    yield _gauge(
        "edgerig_reserved_bytes",
        "Room that is kept for updates which may come in their offers, out of the same budget.",
        picture.reserved_bytes,
    )


def _of_devices(picture: Picture) -> Iterator[Family]:
    online = [Sample({"device": d.name}, d.online) for d in picture.devices]
    yield Family("edgerig_device_online", "gauge", "1 for a device that is connected.", online)
    charge = [Sample({"device": d.name}, d.charge) for d in picture.devices if d.charge is not None]
    yield Family(
        "edgerig_device_charge_ratio", "gauge", "Of the battery, as the device said it last.", charge
    )
    for name, help_, values in (
        ("merged", "Updates of the device that a version has.", [d.merged for d in picture.devices]),
        ("delivered", "Updates of the device that the journal has.", [d.delivered for d in picture.devices]),
    ):
        samples = [Sample({"device": d.name}, n) for d, n in zip(picture.devices, values, strict=True)]
        yield Family(f"edgerig_device_updates_{name}_total", "counter", help_, samples)


def _counted(tally: Tally) -> Iterator[Family]:
    yield _gauge("edgerig_loss", "Of the version evaluated last, on the test data.", tally.loss)
    for name, event, help_ in (
        ("edgerig_tasks_opened_total", "task_opened", "Tasks given to devices since this start."),
        (
            "edgerig_updates_acked_total",
            "update_acked",
            "Updates journalled and acknowledged since this start.",
        ),
        ("edgerig_versions_total", "version_committed", "Versions made since this start."),
        ("edgerig_hellos_total", "hello", "Devices that said hello since this start."),
    ):
        yield _counter(name, help_, tally.events[event])
    closed = _by("state", tally.outcomes, ENDED)
    yield Family(
        "edgerig_tasks_closed_total", "counter", "Tasks that ended since this start, by how.", closed
    )
    yield _counter("edgerig_update_bytes_total", "Of complete updates since this start.", tally.update_bytes)
    yield _counter(
        "edgerig_update_payload_bytes_total",
        "Of all their chunks, resends and headers included.",
        tally.payload_bytes,
    )
    yield _counter("edgerig_messages_refused_total", "Messages that made no sense.", tally.refused)
    yield Family(
        "edgerig_lapses_total", "counter", "What was asked for and did not hold.", _by("what", tally.lapses)
    )
    for name, what in (
        ("received_bytes", "Taken in by"),
        ("sent_bytes", "Sent by"),
        ("dropped", "Messages dropped by"),
    ):
        if name in tally.broker:
            suffix = "dropped_messages" if name == "dropped" else name
            yield _counter(
                f"edgerig_broker_{suffix}_total", f"{what} the broker, as it says.", tally.broker[name]
            )
