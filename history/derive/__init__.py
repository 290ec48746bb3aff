"""From events to a `Record`: one small handler per event, by the role of the producer that may write it."""

from __future__ import annotations

from history.derive import agent, coordinator, host, local, power  # noqa: F401 (local and power register with the others)
from history.derive.handlers import Handler
from history.derive.lapses import add_lapses
from history.events import COORDINATOR, HOST_NODES, TRUSTED, Event
from history.reader import Defect, Defects, History
from history.record import Record, empty_record, span
from topology.plan import Plan


def handler_of(record: Record, event: Event) -> Handler | None:
    """What a producer says counts only for what it can know: a device cannot commit a version or verify its
    link.
    """
    if event.node == COORDINATOR:
        return coordinator.HANDLERS.get(event.event)
    if event.node in HOST_NODES:
        return host.HANDLERS.get(event.event)
    if event.node in record.devices:
        return agent.HANDLERS.get(event.event)
    return None


# What every producer may say of itself; the host's handlers count those of the coordinator only.
SHARED = frozenset({"message_refused"})


def _foreign(event: Event) -> bool:
    known = coordinator.HANDLERS.keys() | host.HANDLERS.keys()
    return event.node not in TRUSTED and event.event in known - agent.HANDLERS.keys() - SHARED


def _truncated(event: Event) -> Defect:
    """The writer drops the fields of an event that is too large for a line: whatever it said is lost."""
    detail = f"{event.event} (seq {event.seq}) was too large for a line: {event['truncated']} bytes"[:500]
    return Defect(kind="truncated", node=event.node, boot=event.boot, detail=detail, mono_s=event.mono_s)


def derive(history: History, plan: Plan) -> Record:
    """Everything the history says about the run of this plan. Never raises for what an event holds."""
    record = empty_record(plan)
    record.defects = list(history.defects)
    record.producers = set(history.producers) | {event.node for event in history.events}
    record.event_count = len(history.events)
    span(record, history.events, TRUSTED)
    truncated: dict[str, Defects] = {}
    # The host's witnesses first: whose task a task is, is theirs to say.
    for event in sorted(history.events, key=lambda event: event.node not in TRUSTED):
        handler = handler_of(record, event)
        if "truncated" in event.fields and handler is not None:
            truncated.setdefault(event.node, Defects(event.node)).add(_truncated(event))
        elif handler is not None:
            handler(record, event)
        elif _foreign(event):
            record.foreign_events += 1
    record.defects += [defect for of_node in truncated.values() for defect in of_node.found]
    host.overlaps(record)
    add_lapses(record)
    return record
