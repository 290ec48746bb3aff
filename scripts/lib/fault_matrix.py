"""Every fault under every schedule: one run per column, all faults in it one after the other, a verdict per cell.

A cell passes when its fault struck, was seen to take, met an open task, was healed, was followed by a new version in
time, and when the run's own checks hold. Results are kept in docs/fault-matrix.json, so that columns can be run one at
a time; the table in docs/faults.md is made from it, and a cell that nobody has run says so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from compose.process_faults import SUPPORTED  # noqa: E402
from history.checks import run_checks  # noqa: E402
from history.checks.progress_after_heal import bound_s, recoveries  # noqa: E402
from history.derive import derive  # noqa: E402
from history.reader import read_history  # noqa: E402
from history.record import FaultRecord, Record  # noqa: E402
from topology.plan import load_plan  # noqa: E402

RESULTS = REPOSITORY / "docs" / "fault-matrix.json"
PAGE = REPOSITORY / "docs" / "faults.md"
BEGIN, END = "<!-- fault-matrix -->", "<!-- /fault-matrix -->"
RUN_S_MAX = 240.0
AFTER_S = 9.0  # rounds that follow the last heal
RUN_CHECKS = ("updates_conserved", "versions_gapless", "staleness_bounded", "nothing_leaked", "history_whole")

SCHEDULES = {
    "synchronous": "{kind: synchronous, deadline: 15 s, quorum: 0.5}",
    "buffered": "{kind: buffered, buffer: 2, deadline: 20 s, max_staleness: 20}",
    "asynchronous": "{kind: asynchronous, deadline: 20 s, max_staleness: 40}",
    "tiered": "{kind: tiered, tiers: 2, deadline: 15 s, quorum: 0.5}",
    "fedat": "{kind: fedat, tiers: 2, deadline: 15 s}",
}
# Where half of the devices rest at a time, a fault waits for a round in which its target trains: two seconds each.
BY_ROUND = {"tiered"}
PROCESS = "process runtime"
COLUMNS = (*SCHEDULES, PROCESS)


class Row(NamedTuple):
    """One fault: what the file says after its kind, when it strikes, how long it lasts (None: it heals itself)."""

    name: str
    at_s: int
    kind: str
    target: str
    keys: str = ""
    heal_s: int | None = 4

    def entry(self, by_round: bool = False) -> str:
        aim = f"service: {self.target}" if "-" not in self.target else f"device: {self.target}"
        more = f", {self.keys}" if self.keys else ""
        heal = f", heal_after: {self.heal_s} s" if self.heal_s is not None else ""
        when = f"when: round {self.at_s} training" if by_round else f"at: {self.at_s} s"
        return f"  - {{{when}, {self.kind}: {{{aim}{more}}}{heal}}}"


ROWS = (
    Row("kill", 1, "kill", "pi-1", heal_s=3),
    Row("stop", 1, "stop", "pi-2", heal_s=3),
    Row("pause", 1, "pause", "pi-3", heal_s=3),
    Row("CPU slowdown", 1, "cpu_slowdown", "pi-4", "factor: 0.5"),
    Row("restart", 15, "restart", "pi-1", heal_s=None),
    Row("out of memory", 9, "out_of_memory", "pi-2", heal_s=3),
    Row("partition, both ways", 9, "partition", "pi-3"),
    Row("link change", 9, "link_change", "pi-4", "link: {up: 300 kbit/s, delay: 200 ms}"),
    Row("flap", 18, "flap", "pi-1", "period: 2 s"),
    Row("partition, up only", 18, "partition", "pi-2", "direction: up"),
    Row("partition, down only", 18, "partition", "pi-4", "direction: down"),
    Row("duplicate delivery", 18, "duplicate_delivery", "pi-3"),
    Row("late delivery", 27, "late_delivery", "pi-4", "delay: 3 s", heal_s=5),
    Row("corrupt payload", 27, "corrupt_payload", "pi-1", "share: 100 %"),
    Row("poison: not a number", 27, "poison", "pi-2", "how: nan"),
    Row("poison: sign flip", 27, "poison", "pi-3", "how: sign_flip"),
    Row("poison: scaled", 9, "poison", "pi-1", "how: scaled, factor: 10"),
    Row("disk full", 36, "disk_full", "pi-1"),
    Row("clock offset", 36, "clock_offset", "pi-2", "offset: -2 h"),
    Row("client-id takeover", 36, "client_takeover", "pi-3", heal_s=6),
    Row("packet corruption", 36, "packet_corruption", "pi-4", "share: 2 %", heal_s=5),
    Row("kill the coordinator", 46, "kill", "coordinator", heal_s=1),
    Row("kill the broker", 52, "kill", "broker", heal_s=1),
    Row("kill hostd", 64, "kill", "hostd", heal_s=None),
)

TOPOLOGY = """
name: matrix
seed: 9
devices:
  pi:
    profile: raspberry-pi-4
    count: 4
    cpus: 0.2
    memory: 160 MiB
    link: {{up: 2 Mbit/s, down: 6 Mbit/s, delay: 20 ms}}
data: {{dataset: mnist-mini, partition: {{kind: iid}}, samples_per_device: 600}}
model: mlp
training: {{rounds: 5000, local_epochs: 2, batch_size: 16, optimizer: {{kind: sgd, lr: 0.02}}}}
policy: {policy}
compression: {{uplink: {{sparsify: {{top_k: 0.05}}, quantize: int8, entropy: zstd}}, downlink: {{quantize: fp16}}}}
faults:
{faults}
"""


def unsupported(row: Row, column: str) -> str:
    """Why this cell cannot be run, or an empty string."""
    if column != PROCESS:
        return ""
    if row.kind not in SUPPORTED:
        return "unsupported: needs containers"
    return "unsupported: there is no hostd" if row.target == "hostd" else ""


def run_column(column: str, rows: Sequence[Row], folder: Path) -> dict[str, str]:
    """One run; what became of each fault. Raises SystemExit when the run itself did not come up."""
    wanted = [row for row in rows if not unsupported(row, column)]
    file = folder / f"{column.replace(' ', '-')}.yaml"
    policy = SCHEDULES.get(column, SCHEDULES["synchronous"])
    faults = "\n".join(row.entry(column in BY_ROUND) for row in wanted)
    file.write_text(TOPOLOGY.format(policy=policy, faults=faults))
    name = f"matrix-{column.split()[0]}-{os.getpid()}"
    command = [sys.executable, "-m", "edgerig", "run", str(file), "--runs", str(folder), "--run-id", name]
    command += ["--runtime", "process"] if column == PROCESS else ["--no-build"]
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=REPOSITORY)
        try:
            _until_over(process, folder / name, len(wanted))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(90)
    root = folder / name
    if not (root / "plan.json").exists():
        raise SystemExit((folder / f"{name}.log").read_text(errors="replace")[-2000:])
    return judge(derive(read_history(root), load_plan(root / "plan.json")), wanted)


def _until_over(process: subprocess.Popen[bytes], root: Path, faults: int) -> None:
    """Until every fault has been healed and some rounds have followed, or the run has ended, or its time is up."""
    deadline, over_at = time.monotonic() + RUN_S_MAX, float("inf")
    while process.poll() is None and time.monotonic() < min(deadline, over_at):
        healed = {e.get("fault") for e in read_history(root).events if e.event == "fault_healed"}
        if len(healed) >= faults and over_at == float("inf"):
            over_at = time.monotonic() + AFTER_S
        time.sleep(1.0)


def judge(record: Record, rows: Sequence[Row]) -> dict[str, str]:
    failed = [r for r in run_checks(record, list(RUN_CHECKS)) if r.outcome == "fail"]
    waits, limit = recoveries(record), bound_s(record)
    found = {}
    for row, fault in zip(rows, record.faults.values(), strict=True):
        found[row.name] = _cell(fault, waits.get(fault.id), limit)
        if failed and found[row.name] == "pass":
            found[row.name] = f"fail: {failed[0].name} ({failed[0].detail})"[:200]
    return found


def _cell(fault: FaultRecord, wait: float | None, limit: float) -> str:
    if fault.applied_at is None:
        return "fail: never struck"
    if fault.verified is not True:
        return f"fail: did not take ({fault.detail})"[:200]
    if fault.healed_at is None:
        return "fail: not healed"
    if wait is None:
        return "unknown: no version followed"
    if wait > limit:
        return f"fail: {wait:.0f} s until the next version"
    return "pass" if fault.overlapped else "unknown: met no open task"


def table(results: dict[str, dict[str, str]]) -> str:
    lines = ["| fault | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for row in ROWS:
        cells = [
            unsupported(row, column) or results.get(column, {}).get(row.name, "not run") for column in COLUMNS
        ]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(results: dict[str, dict[str, str]]) -> None:
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n{table(results)}\n{END}{tail}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fault-matrix", description=__doc__.splitlines()[0])
    parser.add_argument(
        "columns", nargs="*", metavar="COLUMN", help=f"of {', '.join(COLUMNS)}; all by default"
    )
    parser.add_argument("--only", help="rows by their kind, comma-separated; nothing is written then")
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "matrix", help="where the runs go")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    options = parser.parse_args()
    columns = [PROCESS if name in (PROCESS, "process") else name for name in options.columns] or list(COLUMNS)
    if unknown := sorted(set(columns) - set(COLUMNS)):
        parser.error(f"no column {', '.join(unknown)}; there are {', '.join(COLUMNS)}, process")
    results: dict[str, dict[str, str]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.table:
        write(results)
        return 0
    options.runs.mkdir(parents=True, exist_ok=True)
    kinds = set(options.only.split(",")) if options.only else {row.kind for row in ROWS}
    failures = 0
    for column in columns:
        began = time.monotonic()
        cells = run_column(column, [row for row in ROWS if row.kind in kinds], options.runs)
        failures += sum(not cell.startswith("pass") for cell in cells.values())
        print(f"{column}: {time.monotonic() - began:.0f} s", flush=True)
        for name, cell in cells.items():
            print(f"  {name:<24} {cell}", flush=True)
        if not options.only:
            results[column] = cells
            write(results)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
