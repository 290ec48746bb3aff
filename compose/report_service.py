"""The report service of `docker compose up`: wait for the run's end, then write its record where the user
finds it.

    python3 -m compose.report_service --root /run/edgerig --out /out

It watches the history rather than the containers: a run whose coordinator failed gets its report too. What is
copied is the record (plan, histories, journal), never credentials or training data. Exit codes as of `edgerig
run`: 0 the expectations held, 1 they did not, 3 nothing was left to report on.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from compose.driver import run_timeout_s
from history.collect import collect
from history.reader import Follower
from history.summary import Summary
from topology.allotment import TABLE_NAME
from topology.plan import Plan, load_plan

POLL_S = 1.0
AFTER_FINISH_S = 40.0  # hostd waits up to 20 s for the agents, then heals
EXIT_ENVIRONMENT = 3


def wait_for_end(
    plan: Plan,
    root: Path,
    *,
    clock: Callable[[], float],
    wait: Callable[[float], None],
    say: Callable[[str], None],
) -> bool:
    """Whether the run came to its end; False when its time was up."""
    follower = Follower(root)
    deadline = clock() + run_timeout_s(plan)
    finished = False
    while clock() < deadline:
        for event in follower.poll():
            if event.node == "coordinator" and event.event == "run_finished":
                say(f"the run is over: {event.get('reason')}")
                finished, deadline = True, min(deadline, clock() + AFTER_FINISH_S)
            elif event.node == "coordinator" and event.event == "evaluated":
                say(f"version {event.get('version')}: accuracy {event.get('accuracy')}")
            elif event.node == "hostd" and event.event == "healed_all" and finished:
                return True
        wait(POLL_S)
    return finished


def copy_record(root: Path, out: Path) -> None:
    """The plan and every service's folder. A service's own private leftovers (a spool) may be unreadable:
    skipped.
    """
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / "plan.json", out / "plan.json")
    table = root / "model" / TABLE_NAME
    if table.is_file():
        (out / "model").mkdir(exist_ok=True)
        shutil.copyfile(table, out / "model" / TABLE_NAME)
    shutil.rmtree(out / "nodes", ignore_errors=True)
    for history in sorted(root.glob("nodes/*/history.jsonl")):
        if history.is_symlink():
            continue
        target = out / "nodes" / history.parent.name
        target.mkdir(parents=True)
        shutil.copyfile(history, target / history.name)
    journal = root / "nodes" / "coordinator"
    if journal.is_dir():
        shutil.copytree(journal, out / "nodes" / "coordinator", dirs_exist_ok=True, symlinks=True)


def report(root: Path, out: Path, *, finished: bool) -> Summary:
    """Copy the record and judge it. Raises OSError."""
    copy_record(root, out)
    return collect(out, load_plan(out / "plan.json"), interrupted=not finished)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="the run's folder")
    parser.add_argument("--out", type=Path, required=True, help="where the record goes")
    options = parser.parse_args()
    plan = load_plan(options.root / "plan.json")
    finished = wait_for_end(plan, options.root, clock=time.monotonic, wait=time.sleep, say=_say)
    try:
        summary = report(options.root, options.out, finished=finished)
    except OSError as error:
        _say(f"could not write the record: {error.strerror} ({error.filename})")
        return EXIT_ENVIRONMENT
    for reason in summary.reasons:
        _say(reason)
    _say(f"{summary.verdict}; see runs/{plan.run}/report.html")
    return summary.exit_code


def _say(text: str) -> None:
    print(f"report: {text}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
