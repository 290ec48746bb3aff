"""validate, compose, generated, prepare: what can be said of a topology before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from compose.generate import compose_file
from compose.generated import generated_files as compose_generated
from compose.learned import preflight
from compose.prepare import prepare as prepare_run
from compose.session import REPOSITORY, seeded
from edgerig.exits import FAILED
from edgerig.options import Format, FormatOption, RunId, Seed, TopologyFile, data_dir
from edgerig.this_host import probed_host
from learning.autodiff.table import document as operator_table
from topology.compile import compile_topology
from topology.generated import generated_files as topology_generated
from topology.validate import load_topology

app = typer.Typer()


@app.command()
def validate(
    file: TopologyFile,
    host: Annotated[
        bool, typer.Option("--host/--no-host", help="Also: can this host give what is asked?")
    ] = True,
    format: FormatOption = Format.text,
) -> None:
    """Check a topology; prints every error at once, with path, value and what is allowed.

    Model and data are made and held against each other and the devices, as a run would do.

    \b
    edgerig validate my-fleet.yaml
    edgerig validate my-fleet.yaml --no-host --format json
    """
    loaded = load_topology(file, host=probed_host() if host else None)
    plan = compile_topology(loaded.topology, "validate", sha256=loaded.sha256)
    notes = preflight(plan, data_dir())
    quotas = sum(device.cpus for device in plan.devices)
    if format is Format.json:
        found = {"ok": True, "name": plan.name, "devices": len(plan.devices), "cpus": round(quotas, 3)}
        typer.echo(json.dumps({**found, "notes": notes}))
    else:
        typer.echo(
            f"{file}: good. {len(plan.devices)} devices, {quotas:.2f} cores in all, {plan.training.rounds} rounds"
        )
        for note in notes:
            typer.echo(f"note: {note}")


@app.command("compose")
def compose_command(
    file: TopologyFile,
    run: RunId = None,
    seed: Seed = None,
) -> None:
    """Print a compose file that plain `docker compose up` accepts.

    \b
    edgerig compose topology/examples/quickstart.yaml > /tmp/fleet.yaml
    docker compose -f /tmp/fleet.yaml up --build
    """
    loaded = load_topology(file, host=probed_host())
    topology = seeded(loaded, seed)
    plan = compile_topology(topology, run or topology.name, sha256=loaded.sha256)
    typer.echo(compose_file(plan, mode="volumes", repo=REPOSITORY, topology=file.resolve()), nl=False)


@app.command()
def generated(
    check: Annotated[
        bool, typer.Option("--check", help="Only compare; exit code 1 if one is out of date.")
    ] = False,
) -> None:
    """Write the files that are generated from code (JSON Schema, compose examples, tables), or check them."""
    stale = []
    files = {**topology_generated(), **compose_generated(), "docs/models.md": operator_table().encode()}
    for path, content in files.items():
        target = REPOSITORY / path
        if target.exists() and target.read_bytes() == content:
            continue
        stale.append(str(path))
        if not check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for name in stale:
        typer.echo(f"{name}: {'out of date; run `edgerig generated`' if check else 'written'}")
    if check and stale:
        raise typer.Exit(FAILED)


@app.command(hidden=True)
def prepare(
    topology: Annotated[Path, typer.Option(help="The topology file.")],
    run: Annotated[str, typer.Option(help="The run's id.")],
    root: Annotated[Path, typer.Option(help="The run's folder.")] = Path("/run/edgerig"),
    subnet: Annotated[str, typer.Option(help="The data network.")] = "",
    seed: Seed = None,
) -> None:
    """What the init service of a compose file does: plan, credentials, shards, model."""
    loaded = load_topology(topology)
    plan = compile_topology(seeded(loaded, seed), run, subnet=subnet or None, sha256=loaded.sha256)
    prepare_run(plan, root, data_dir=data_dir())
    typer.echo(f"prepared {plan.run}: {len(plan.devices)} devices")
