"""sweep, doctor: this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from compose import engine
from compose.errors import EnvironmentProblem
from compose.sweep import containers_expected
from compose.sweep import sweep as sweep_host
from edgerig.exits import ENVIRONMENT, OK
from edgerig.options import DEFAULT_RUNS, Format, FormatOption, RunsFolder
from emulation.probe import probe

app = typer.Typer()


@app.command()
def doctor(format: FormatOption = Format.text) -> None:
    """What this kernel, Docker and cgroup can and cannot do, and which link backend a run here will use.

    \b
    edgerig doctor
    edgerig doctor --format json | jq .backend

    Exit code 3: no containers can be run here (the process runtime works all the same).
    """
    found = probe()
    if format is Format.json:
        typer.echo(json.dumps(asdict(found), indent=1))
    else:
        typer.echo(f"links will be shaped by {found.backend}: {found.reason}")
        for name, says in found.checks.items():
            typer.echo(f"  {name:<30} {says}")
        typer.echo("of a link it can do")
        for name, says in found.links.items():
            typer.echo(f"  {name:<30} {says}")
        for what in found.install:
            typer.echo(f"install: {what}")
        if not found.docker:
            typer.echo(f"next: {engine.SETUP_HINT}")
    raise typer.Exit(OK if found.docker else ENVIRONMENT)


@app.command()
def sweep(
    runs: RunsFolder = DEFAULT_RUNS,
    everything: Annotated[bool, typer.Option("--all", help="Also runs that are still alive.")] = False,
    format: FormatOption = Format.text,
) -> None:
    """Remove what a killed run left: containers, networks, volumes, credentials.

    \b
    edgerig sweep           runs whose runner is dead
    edgerig sweep --all     every run on this host

    Exit code 3: a dead run had containers, and there is no Docker Engine that could tell whether it has them still.
    """
    client, problem = _engine()
    orphaned = problem is not None and containers_expected(runs, everything=everything)
    removed = sweep_host(client, runs, everything=everything)
    if format is Format.json:
        typer.echo(json.dumps(removed, indent=1))
    else:
        typer.echo("\n".join(_swept(removed)))
    if problem is not None:
        typer.echo(f"containers could not be looked at: {problem.what}", err=True)
    raise typer.Exit(ENVIRONMENT if orphaned else OK)


def _engine() -> tuple[Any, EnvironmentProblem | None]:
    """What runs of the process runtime left needs no engine."""
    try:
        return engine.client(), None
    except EnvironmentProblem as problem:
        return None, problem


def _swept(removed: dict[str, list[str]]) -> list[str]:
    lines = [f"{run}: removed {', '.join(things) or 'nothing'}" for run, things in removed.items()]
    return lines or ["nothing to sweep"]
