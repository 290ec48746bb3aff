"""What is written of a fault: the same lines whoever carries it out, hostd or the process runtime."""

from __future__ import annotations

from collections.abc import Iterable

from emulation.faults.core import Apply
from history.writer import HistoryWriter
from topology.plan import FaultPlan

DETAIL_MAX = 500  # characters: what ten devices say of themselves; a line of the history stays a line


def armed(history: HistoryWriter, faults: Iterable[FaultPlan]) -> None:
    for fault in faults:
        history.append(
            "fault_armed",
            fault=fault.id,
            kind=fault.kind,
            trigger=fault.trigger.text,
            targets=list(fault.targets),
            heal_after_s=fault.heal_after_s,
        )


def applied(history: HistoryWriter, action: Apply, *, lateness_s: float) -> None:
    fault = action.fault
    history.append(
        "fault_applied",
        fault=fault.id,
        kind=fault.kind,
        targets=list(fault.targets),
        lateness_s=round(lateness_s, 4),
        round=action.round,
        durable=True,
    )


def verified(history: HistoryWriter, fault: FaultPlan, *, ok: bool, detail: str) -> None:
    """What did not take is a lapse besides."""
    history.append("fault_verified", fault=fault.id, ok=ok, detail=detail[:DETAIL_MAX])
    if not ok:
        lapse(history, "fault_not_taken", fault.targets[0], detail)


def healed(
    history: HistoryWriter, fault: FaultPlan, *, wall_s: float, final: bool, left_stopped: bool
) -> None:
    history.append(
        "fault_healed",
        fault=fault.id,
        targets=list(fault.targets),
        wall_s=round(wall_s, 4),
        final=final,
        left_stopped=left_stopped,
        durable=True,
    )


def lapse(history: HistoryWriter, what: str, node: str, detail: str) -> None:
    history.append("lapse", what=what, node=node, detail=detail[:DETAIL_MAX])
