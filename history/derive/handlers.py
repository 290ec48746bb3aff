"""A registry of handlers: event name → function that adds the event to the record."""

from __future__ import annotations

from collections.abc import Callable

from history.events import Event
from history.fields import text
from history.record import Record, TaskRecord

Handler = Callable[[Record, Event], None]
TASKS_MAX = 1_000_000  # of one run; above it memory, not the fleet, would be what is tested


class Handlers(dict[str, Handler]):
    def on(self, *names: str) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            for name in names:
                self[name] = handler
            return handler

        return register


def task_of(record: Record, event: Event, agent: str) -> TaskRecord | None:
    """The task an event is about; made when it is new. None when it belongs to another agent than the one
    named.
    """
    name = text(event, "task")
    task = record.tasks.get(name)
    if task is None and name and len(record.tasks) < TASKS_MAX:
        task = record.tasks[name] = TaskRecord(id=name, agent=agent)
    return task if task is not None and task.agent == agent else None
