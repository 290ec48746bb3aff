"""Checks on a run's record, one file each; importing this package registers them."""

from history.checks import (
    emulation_held,
    faults_healed,
    faults_met_tasks,
    history_whole,
    nobody_starved,
    nothing_leaked,
    progress_after_heal,
    staleness_bounded,
    updates_conserved,
    versions_gapless,
)
from history.checks.registry import CHECKS, Answer, CheckResult, run_checks

__all__ = [
    "CHECKS",
    "Answer",
    "CheckResult",
    "emulation_held",
    "faults_healed",
    "faults_met_tasks",
    "history_whole",
    "nobody_starved",
    "nothing_leaked",
    "progress_after_heal",
    "run_checks",
    "staleness_bounded",
    "updates_conserved",
    "versions_gapless",
]
