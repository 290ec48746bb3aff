"""baseline: what a run is to be compared with, recomputed from its own plan and shards."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from compose.errors import EnvironmentProblem
from compose.session import find_run, is_driven, plan_of
from coordinator import baselines as compute
from edgerig.options import DEFAULT_RUNS, Format, FormatOption, RunName, RunsFolder
from history.baselines import BASELINES_NAME, Baseline, Baselines, LocalOnly, load_baselines
from history.collect import collect
from history.summary import write_atomic
from learning.evaluator import Evaluation
from topology.plan import Plan

app = typer.Typer()


class Kind(StrEnum):
    fedavg = "fedavg"
    centralised = "centralised"
    local_only = "local-only"


@app.command()
def baseline(
    name: RunName = "latest",
    only: Annotated[list[Kind] | None, typer.Option("--only", help="Just this one; may be repeated.")] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Instead of as many as the run has versions.")
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.01, help="At most so long for all of them.")
    ] = 60.0,
    threads: Annotated[int, typer.Option("--threads", min=1, max=64, help="Of onnxruntime.")] = 1,
    runs: RunsFolder = DEFAULT_RUNS,
    format: FormatOption = Format.text,
) -> None:
    """The same model and data centralised, every device alone, and FedAvg without compression, beside the run.

    \b
    edgerig baseline latest
    edgerig baseline RUN --only centralised --format json | jq .centralised.accuracy

    They are kept in the run's folder (baselines.json) and stand in its report and summary from then on.
    """
    root = find_run(runs, name)
    plan = plan_of(root)
    if is_driven(root):
        raise EnvironmentProblem(
            f"{plan.run} is still running: training beside it would take its CPU", hint="wait for its end"
        )
    wanted = _rounds(root, plan, rounds)
    ends = time.monotonic() + minutes * 60.0
    world = _open(root, plan, wanted, threads, lambda: time.monotonic() >= ends)
    found = _compute(world, _kept(root, plan, wanted), only or list(Kind))
    write_atomic(root / BASELINES_NAME, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    summary = collect(root, plan)
    if format is Format.json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
        return
    typer.echo(_line("this run", summary.final_accuracy, summary.final_loss, f"{summary.versions} versions"))
    for line in _lines(found):
        typer.echo(line)
    typer.echo(f"  report    {root / 'report.html'}")


def _rounds(root: Path, plan: Plan, given: int | None) -> int:
    """As many as the run has versions beside its first; all that were asked for where it has none."""
    if given is not None:
        return min(given, plan.training.rounds)
    made = collect(root, plan).versions
    return made or plan.training.rounds


def _open(root: Path, plan: Plan, rounds: int, threads: int, stop: Callable[[], bool]) -> compute.World:
    for part in ("model/artifact.bin", "model/initial.npy", "shards/test"):
        if not (root / part).exists():
            raise EnvironmentProblem(
                f"{root / part} is not there",
                hint="only a run whose folder has its model and shards can be compared",
            )
    return compute.World(root, plan, rounds, threads=threads, stop=stop, progress=_say)


def _kept(root: Path, plan: Plan, rounds: int) -> Baselines:
    """What was computed before for as many rounds stays beside what is computed now."""
    fresh = Baselines(run=plan.run, seed=plan.seed, rounds=rounds)
    kept = load_baselines(root / BASELINES_NAME)
    same = kept is not None and (kept.run, kept.seed, kept.rounds) == (fresh.run, fresh.seed, fresh.rounds)
    return kept if kept is not None and same else fresh


def _compute(world: compute.World, kept: Baselines, kinds: list[Kind]) -> Baselines:
    found = kept
    if Kind.fedavg in kinds:
        found = msgspec.structs.replace(found, fedavg=compute.fedavg(world))
    if Kind.centralised in kinds:
        found = msgspec.structs.replace(found, centralised=compute.centralised(world))
    if Kind.local_only in kinds:
        found = msgspec.structs.replace(found, local_only=compute.local_only(world))
    return found


def _say(kind: str, done: int, of: int, found: Evaluation | None) -> None:
    """One line that is written over, on a terminal; where nobody looks only the last one of each."""
    live = sys.stderr.isatty()
    if not live and done < of:
        return
    reached = "" if found is None else f", {_figure(found.accuracy, found.loss)}"
    end = "\n" if done == of else ""
    what = "device" if kind == Kind.local_only else "round"
    begin = "\r\x1b[K" if live else ""
    print(f"{begin}{kind}: {what} {done} of {of}{reached}", end=end, file=sys.stderr, flush=True)


def _figure(accuracy: float | None, loss: float | None) -> str:
    if accuracy is not None:
        return f"accuracy {accuracy:.2%}"
    return "not evaluated" if loss is None else f"loss {loss:.4f}"


def _line(name: str, accuracy: float | None, loss: float | None, rest: str) -> str:
    return f"{name:<14} {_figure(accuracy, loss):<18} {rest}"


def _lines(found: Baselines) -> list[str]:
    shown: list[tuple[str, Baseline | LocalOnly | None]] = [
        ("fedavg", found.fedavg),
        ("centralised", found.centralised),
        ("local-only", found.local_only),
    ]
    return [_line(name, b.accuracy, b.loss, _rest(b)) for name, b in shown if b is not None]


def _rest(b: Baseline | LocalOnly) -> str:
    how = f"mean of {len(b.devices)} devices" if isinstance(b, LocalOnly) else f"{b.rounds} rounds"
    parts = [how, f"{b.steps} steps", f"{b.wall_s:.1f} s"]
    if isinstance(b, LocalOnly) and b.accuracy_min is not None and b.accuracy_max is not None:
        parts.insert(1, f"{b.accuracy_min:.2%} to {b.accuracy_max:.2%}")
    parts += [f"own test {b.own_accuracy:.2%}"] if b.own_accuracy is not None else []
    return ", ".join([*parts, *([b.note] if b.note else [])])
