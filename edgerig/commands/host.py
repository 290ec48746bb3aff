"""sweep, doctor: this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from compose import engine
from compose.sweep import sweep as sweep_host
from edgerig.options import DEFAULT_RUNS, Format, FormatOption, RunsFolder

app = typer.Typer()


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
    """
    removed = sweep_host(engine.client(), runs, everything=everything)
    if format is Format.json:
        typer.echo(json.dumps(removed, indent=1))
        return
    for run, things in removed.items():
        typer.echo(f"{run}: removed {', '.join(things) or 'nothing'}")
    if not removed:
        typer.echo("nothing to sweep")
