"""Nothing is missing from the history itself; a cut last line of a killed producer is no gap."""

from __future__ import annotations

from history.checks.registry import Answer, check
from history.reader import UNREAD
from history.record import Record


@check("Is the history whole?")
def history_whole(record: Record) -> Answer:
    problems = [f"{d.node}: {d.detail or d.kind}" for d in record.defects if d.kind not in ("cut", UNREAD)]
    if record.foreign_events:
        problems.append(f"{record.foreign_events} events were written by devices that cannot know them")
    if problems:
        return Answer("fail", problems[0], tuple(problems))
    wanted = {"coordinator", *record.devices} | ({"hostd"} if record.plan.runtime == "docker" else set())
    unread = tuple(f"{d.node}: {d.detail}" for d in record.defects if d.kind == UNREAD)
    if unread:
        return Answer("unknown", unread[0], unread)
    missing = sorted(wanted - record.producers)
    if missing:
        return Answer("unknown", f"no history of {', '.join(missing[:8])}", tuple(missing))
    cut = sum(d.count for d in record.defects)  # no other kind is left here
    return Answer(
        "pass", f"{record.event_count} events of {len(record.producers)} producers, {cut} lines cut"
    )
