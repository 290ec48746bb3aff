"""Every shaped link and every CPU quota was verified and within tolerance."""

from __future__ import annotations

from history import emulation
from history.checks.registry import Answer, check
from history.record import Record


@check("Were links and CPU quotas what they claim to be?")
def emulation_held(record: Record) -> Answer:
    if record.plan.runtime != "docker":
        return Answer("unknown", f"the {record.plan.runtime} runtime measures no link and no quota")
    found = emulation.problems(record)
    if not record.hostd_heard:
        return Answer("unknown", found[0])
    if found:
        return Answer("fail", found[0], tuple(found))
    return Answer("pass", f"{len(record.devices)} devices verified")
