"""data: who gets what, before anything runs."""

from __future__ import annotations

import msgspec
import typer

from compose.session import seeded
from edgerig.options import Format, FormatOption, Seed, TopologyFile, data_dir
from learning.allotment import allot
from topology.compile import compile_topology
from topology.validate import load_topology

app = typer.Typer()


@app.command()
def data(file: TopologyFile, seed: Seed = None, format: FormatOption = Format.text) -> None:
    """Print what every device gets of the data: samples for training and for its own tests, and their classes.

    \b
    edgerig data topology/examples/quickstart.yaml
    edgerig data FILE --seed 11 --format json
    """
    loaded = load_topology(file)
    plan = compile_topology(seeded(loaded, seed), "data", sha256=loaded.sha256)
    table = allot(plan, data_dir())
    if format is Format.json:
        typer.echo(msgspec.json.format(msgspec.json.encode(table), indent=1).decode())
    else:
        typer.echo("\n".join(table.lines()))
