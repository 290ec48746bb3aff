"""report, audit, replay, check: what a run's record says."""

from __future__ import annotations

import json
from typing import Annotated

import msgspec
import typer

from compose.errors import EnvironmentProblem
from compose.session import find_run, plan_of
from coordinator.audit import audit as audit_run
from coordinator.replay import replay as replay_run
from edgerig.exits import FAILED, OK
from edgerig.options import DEFAULT_RUNS, Format, FormatOption, RunName, RunsFolder
from history.checks import CHECKS, run_checks
from history.collect import collect
from history.derive import derive
from history.reader import read_history
from wire.topics import COORDINATOR

app = typer.Typer()


@app.command()
def report(
    name: RunName = "latest", runs: RunsFolder = DEFAULT_RUNS, format: FormatOption = Format.text
) -> None:
    """Write a run's summary and report again from its history.

    \b
    edgerig report
    edgerig report RUN --format json | jq .verdict
    """
    root = find_run(runs, name)
    summary = collect(root, plan_of(root))
    if format is Format.json:
        typer.echo(json.dumps(msgspec.to_builtins(summary), indent=1))
    else:
        typer.echo(f"{summary.verdict}: {root / 'report.html'}")
    raise typer.Exit(summary.exit_code)


@app.command()
def audit(
    name: RunName = "latest", runs: RunsFolder = DEFAULT_RUNS, format: FormatOption = Format.text
) -> None:
    """Recompute every model version from the recorded updates and compare bit for bit.

    \b
    edgerig audit runs/latest
    """
    root = find_run(runs, name)
    result = audit_run(root)
    if format is Format.json:
        typer.echo(json.dumps(msgspec.to_builtins(result), indent=1))
    else:
        for problem in result.problems:
            typer.echo(f"problem: {problem}")
        for limit in (*filter(None, [result.missing]), *result.unverified):
            typer.echo(limit)
        every = "every" if result.ok and not result.missing else "NOT every"
        typer.echo(f"{every} version was recomputed bit for bit: {result.versions}")
    raise typer.Exit(OK if result.ok else FAILED)


@app.command()
def replay(
    name: RunName = "latest", runs: RunsFolder = DEFAULT_RUNS, format: FormatOption = Format.text
) -> None:
    """Drive the coordinator's core again from what it was told: it must decide the same, and what was committed.

    \b
    edgerig replay runs/latest
    """
    root = find_run(runs, name)
    try:
        result = replay_run(root)
    except FileNotFoundError as error:
        raise EnvironmentProblem(str(error), hint="only runs of this version can be replayed") from error
    if format is Format.json:
        typer.echo(json.dumps(msgspec.to_builtins(result), indent=1))
    else:
        typer.echo(
            f"{result.events} events in {result.boots} boots, {result.actions} actions, {result.versions} versions: "
            + (f"the first difference is in {result.difference}" if result.difference else "all the same")
        )
    raise typer.Exit(FAILED if result.difference else OK)


@app.command()
def check(
    name: RunName = "latest",
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Just this check; may be repeated.")
    ] = None,
    runs: RunsFolder = DEFAULT_RUNS,
    format: FormatOption = Format.text,
) -> None:
    """Judge a run's history again: pass, fail or unknown for each check.

    \b
    edgerig check
    edgerig check RUN --only updates_conserved --format json

    Exit code 1: a check failed, or nothing could be judged. One that is unknown beside others that pass is no failure.
    """
    root = find_run(runs, name)
    unknown = sorted(set(only or []) - set(CHECKS))
    if unknown:
        raise EnvironmentProblem(
            f"no check is called {', '.join(unknown)}", hint="there are: " + ", ".join(CHECKS)
        )
    history = read_history(root)
    results = run_checks(derive(history, plan_of(root)), only)
    judged = any(event.node == COORDINATOR for event in history.events) and any(
        result.outcome == "pass" for result in results
    )
    if format is Format.json:
        typer.echo(json.dumps(msgspec.to_builtins(results), indent=1))
    else:
        for result in results:
            typer.echo(f"{result.outcome:<8} {result.name:<20} {result.detail}")
        if not judged:
            typer.echo("nothing could be judged: no check passed, or the coordinator's history is not there")
    failed = any(result.outcome == "fail" for result in results)
    raise typer.Exit(FAILED if failed or not judged else OK)
