"""What the coordinator says: rounds, tasks, updates, versions, evaluations."""

from __future__ import annotations

from history.derive.handlers import Handlers, task_of
from history.events import Event
from history.fields import count, gaps, integer, mapping, mappings, matrix, number, strings, text
from history.record import (
    OUTCOMES_DISCARDED,
    Evaluation,
    MergedUpdate,
    Record,
    RoundRecord,
    TaskRecord,
    VersionRecord,
)

HANDLERS = Handlers()
METRICS = ("f1", "mse", "perplexity")  # of an evaluation, beside accuracy and loss


def _task(record: Record, event: Event) -> TaskRecord | None:
    return task_of(record, event, text(event, "agent"))


@HANDLERS.on("run_started")
def run_started(record: Record, event: Event) -> None:
    record.epochs += 1
    record.parameters = count(event, "parameters") or record.parameters
    if record.run_started_at is None:
        record.run_started_at = event.mono_s


@HANDLERS.on("run_finished")
def run_finished(record: Record, event: Event) -> None:
    record.run_finished_at = event.mono_s
    record.finish_reason = text(event, "reason")


@HANDLERS.on("agent_online")
def agent_online(record: Record, event: Event) -> None:
    device = record.devices.get(text(event, "agent"))
    if device is None:
        return
    if device.offline and device.offline[-1][1] is None:
        device.offline[-1] = (device.offline[-1][0], event.mono_s)


@HANDLERS.on("agent_offline")
def agent_offline(record: Record, event: Event) -> None:
    device = record.devices.get(text(event, "agent"))
    if device is None or (device.offline and device.offline[-1][1] is None):
        return
    if record.run_finished_at is None:  # afterwards they leave because they were told to
        device.offline.append((event.mono_s, None))


@HANDLERS.on("hello")
def hello(record: Record, event: Event) -> None:
    device, boot = record.devices.get(text(event, "agent")), text(event, "boot")
    if device is not None and boot and boot not in device.boots:
        device.boots.append(boot)


@HANDLERS.on("losses_wanted")
def losses_wanted(record: Record, event: Event) -> None:
    record.probes.add(text(event, "task"))


@HANDLERS.on("loss_probed")
def loss_probed(record: Record, event: Event) -> None:
    device = record.devices.get(text(event, "agent"))
    if device is not None:
        device.probe_answers += 1
        device.probe_uplink_bytes += count(event, "bytes")


def _round(record: Record, event: Event) -> RoundRecord | None:
    number_ = integer(event, "round")
    if number_ is None:
        return None
    return record.rounds.setdefault(number_, RoundRecord(number_))


@HANDLERS.on("round_opened")
def round_opened(record: Record, event: Event) -> None:
    round_ = _round(record, event)
    if round_ is None:
        return
    if round_.opened_at is None:  # a restarted coordinator goes on with the round it had
        round_.opened_at = event.mono_s
    round_.base_version = integer(event, "version")
    round_.cohort = strings(event, "cohort")
    round_.deadline_s, round_.quorum = number(event, "deadline_s"), integer(event, "quorum")
    round_.target = integer(event, "target")


@HANDLERS.on("round_closed")
def round_closed(record: Record, event: Event) -> None:
    round_ = _round(record, event)
    if round_ is None:
        return
    round_.closed_at, round_.version = event.mono_s, integer(event, "version")
    round_.merged, round_.missing = integer(event, "merged"), strings(event, "missing")
    round_.reason = text(event, "reason")


@HANDLERS.on("task_opened")
def task_opened(record: Record, event: Event) -> None:
    task = _task(record, event)
    if task is None:
        return
    if task.opened_at is None:
        task.opened_at = event.mono_s
    task.round, task.version = integer(event, "round"), integer(event, "version")
    task.coordinator_marks.append((event.mono_s, "sent"))


@HANDLERS.on("compression_chosen")
def compression_chosen(record: Record, event: Event) -> None:
    task = _task(record, event)
    if task is not None:
        task.compression = {**event.fields}


@HANDLERS.on("task_progress")
def task_progress(record: Record, event: Event) -> None:
    task, phase = _task(record, event), text(event, "phase")
    if task is not None and phase:
        task.coordinator_marks.append((event.mono_s, phase))


@HANDLERS.on("update_offered")
def update_offered(record: Record, event: Event) -> None:
    task = _task(record, event)
    if task is None:
        return
    task.offered_at = event.mono_s
    task.report = mapping(event, "report") or task.report
    task.raw_bytes = count(task.report, "raw_bytes") or task.raw_bytes
    task.coordinator_marks.append((event.mono_s, "waiting"))
    device = record.devices.get(task.agent)
    if device is not None:
        device.peak_rss_bytes = max(device.peak_rss_bytes, count(task.report, "peak_rss_bytes"))


@HANDLERS.on("update_granted")
def update_granted(record: Record, event: Event) -> None:
    task = _task(record, event)
    if task is not None:
        task.granted_at = event.mono_s
        task.coordinator_marks.append((event.mono_s, "uploading"))


@HANDLERS.on("update_received")
def update_received(record: Record, event: Event) -> None:
    task = _task(record, event)
    if task is None:
        return
    task.received_at, task.sha256 = event.mono_s, text(event, "sha256")
    task.bytes, task.chunks = count(event, "bytes"), count(event, "chunks")
    # The same content once more has cost its bytes once more.
    task.payload_bytes += count(event, "payload_bytes")
    task.coordinator_marks.append((event.mono_s, "settling"))


@HANDLERS.on("update_journalled")
def update_journalled(record: Record, event: Event) -> None:
    task = _task(record, event)
    if task is not None and task.journalled_at is None:
        task.journalled_at = event.mono_s


@HANDLERS.on("update_acked")
def update_acked(record: Record, event: Event) -> None:
    task = _task(record, event)
    if task is not None and task.acked_at is None:
        task.acked_at = event.mono_s
        task.sha256 = text(event, "sha256") or task.sha256


@HANDLERS.on("update_discarded")
def update_discarded(record: Record, event: Event) -> None:
    task = _task(record, event)
    if task is None:
        return
    outcome = text(event, "outcome")
    task.discarded = outcome if outcome in OUTCOMES_DISCARDED else ""
    task.discard_reason = text(event, "reason")
    task.sha256 = task.sha256 or text(event, "sha256")


@HANDLERS.on("task_closed")
def task_closed(record: Record, event: Event) -> None:
    task = _task(record, event)
    if task is not None:
        task.closed_at = event.mono_s
        task.state, task.reason = text(event, "state"), text(event, "reason")
        task.coordinator_marks.append((event.mono_s, "closed"))


@HANDLERS.on("version_committed")
def version_committed(record: Record, event: Event) -> None:
    version = integer(event, "version")
    if version is None:
        return
    merged = VersionRecord(version, text(event, "sha256"), integer(event, "round"), event.mono_s, event.boot)
    for item in mappings(event, "updates"):
        update = MergedUpdate(
            text(item, "task"), text(item, "agent"), text(item, "sha256"), number(item, "weight")
        )
        update.samples, update.factor = integer(item, "samples"), number(item, "factor")
        update.base_version, update.staleness = integer(item, "version"), integer(item, "staleness")
        merged.updates.append(update)
        task = record.tasks.setdefault(update.task, TaskRecord(id=update.task, agent=update.agent))
        task.merged_in.append(version)
        task.weight, task.sha256 = update.weight, task.sha256 or update.sha256
    record.versions.append(merged)


@HANDLERS.on("version_published")
def version_published(record: Record, event: Event) -> None:
    version = integer(event, "version")
    size = sum(count(item, "bytes") for item in mappings(event, "objects"))
    for known in record.versions:
        if known.version == version and not known.published_bytes:
            known.published_bytes = size


@HANDLERS.on("evaluated")
def evaluated(record: Record, event: Event) -> None:
    version, accuracy = integer(event, "version"), number(event, "accuracy")
    loss = number(event, "loss")
    if version is None or (accuracy is None and loss is None):
        return
    found = mapping(event, "metrics")
    record.evaluations.append(
        Evaluation(
            version=version,
            round=integer(event, "round"),
            at=event.mono_s,
            accuracy=accuracy,
            loss=loss,
            samples=count(event, "samples"),
            per_class=gaps(event, "per_class"),
            metrics={name: value for name in METRICS if (value := number(found, name)) is not None},
            confusion=matrix(event, "confusion"),
        )
    )


@HANDLERS.on("message_refused")
def message_refused(record: Record, event: Event) -> None:
    device = record.devices.get(text(event, "agent"))
    if device is not None:
        device.refused_messages += count(event, "count") or 1
