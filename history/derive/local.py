"""Tests on the devices' own data, and client drift: what the coordinator recorded of both."""

from __future__ import annotations

from history.derive.coordinator import HANDLERS
from history.events import Event
from history.fields import count, integer, mapping, mappings, number, text
from history.record import Drift, LocalEvaluation, LocalTest, Record


@HANDLERS.on("tested_locally")
def tested_locally(record: Record, event: Event) -> None:
    """The last word of a device about a version counts: it may have lost its disk, and trained again."""
    agent, version = text(event, "agent"), integer(event, "version")
    if agent not in record.devices or version is None:
        return
    record.local[agent, version] = LocalEvaluation(
        agent=agent,
        version=version,
        round=integer(event, "round"),
        received=_test(mapping(event, "received")),
        personal=_test(mapping(event, "personal")),
    )


def _test(found: dict[str, object]) -> LocalTest | None:
    loss, samples, answers = number(found, "loss"), count(found, "samples"), count(found, "answers")
    if loss is None or not samples:
        return None
    correct = integer(found, "correct")
    right = correct is not None and answers > 0 and 0 <= correct <= answers
    return LocalTest(samples, loss, correct / answers if right and correct is not None else None)


@HANDLERS.on("drift")
def drift(record: Record, event: Event) -> None:
    version = integer(event, "version")
    if version is None:
        return
    for item in mappings(event, "updates"):
        norm, agent = number(item, "norm"), text(item, "agent")
        if norm is not None and norm >= 0 and agent in record.devices:
            found = Drift(version, agent, norm, number(item, "cosine"))
            record.drift[version, text(item, "task")] = found
