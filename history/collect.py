"""At the end of a run: read every producer's history, write `run.sqlite`, `summary.json` and
`report.html`.
"""

from __future__ import annotations

from pathlib import Path

from history.baselines import BASELINES_NAME, load_baselines
from history.derive import derive
from history.reader import read_history
from history.report import render
from history.store import STORE_NAME, write_store
from history.summarize import summarize
from history.summary import SUMMARY_NAME, Summary, write_atomic, write_summary
from topology.allotment import TABLE_NAME, read_table
from topology.plan import Plan

REPORT_NAME = "report.html"


def collect(run_root: Path, plan: Plan, *, interrupted: bool = False) -> Summary:
    """Works on whatever the run has left, and may be repeated: each file is replaced whole. Raises
    OSError.
    """
    history = read_history(run_root)
    record = derive(history, plan)
    record.data = read_table(run_root / "model" / TABLE_NAME)
    record.baselines = load_baselines(run_root / BASELINES_NAME)
    summary = summarize(record, interrupted=interrupted)
    write_store(run_root / STORE_NAME, history.events, record, summary)
    write_summary(run_root / SUMMARY_NAME, summary)
    write_atomic(run_root / REPORT_NAME, render(record, summary).encode())
    return summary
