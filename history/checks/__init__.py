"""Checks on a run's record, one file each; importing this package registers them."""

from history.checks import (
    emulation_held,
    faults_met_tasks,
    history_whole,
    progress_after_heal,
    updates_conserved,
    versions_gapless,
)
from history.checks.registry import CHECKS, Answer, CheckResult, run_checks

__all__ = [
    "CHECKS",
    "Answer",
    "CheckResult",
    "emulation_held",
    "faults_met_tasks",
    "history_whole",
    "progress_after_heal",
    "run_checks",
    "updates_conserved",
    "versions_gapless",
]
