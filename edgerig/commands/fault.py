"""fault, link, heal: what goes wrong by hand in a run that is alive, recorded like what its plan says."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs

from compose.errors import EnvironmentProblem
from compose.session import find_run, plan_of
from edgerig.exits import FAILED, OK
from edgerig.options import DEFAULT_RUNS, RunsFolder
from emulation.control import SOCKET_NAME, Answer, FaultRequest, HealRequest, Request, ask
from topology.checks.faults import LASTING
from topology.errors import TopologyError, TopologyErrors
from topology.faults import plans_of
from topology.loader import Document, load_file, load_value
from topology.plan import FaultPlan
from topology.plan.faults import BROKER, COORDINATOR
from topology.schema.faults import FAULTS, GENERATORS
from topology.validate import validate

app = typer.Typer()

Run = Annotated[
    str, typer.Argument(help="A run: its id, the beginning of it, its folder, or `latest`.", metavar="RUN")
]
Target = Annotated[
    str,
    typer.Argument(
        help="A device, a glob, `one`, `majority`, `everyone`, `broker`, `coordinator` or `hostd`.",
        metavar="TARGET",
    ),
]
HealAfter = Annotated[
    str | None, typer.Option("--heal-after", help="How long it lasts, e.g. 20s; until the end without it.")
]


@app.command()
def fault(
    name: Run,
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(FAULTS)}.", metavar="KIND")],
    target: Target,
    heal_after: HealAfter = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A key of the fault, e.g. factor=0.5; may be repeated.")
    ] = None,
    runs: RunsFolder = DEFAULT_RUNS,
) -> None:
    """Let something go wrong now, in a run that is alive.

    \b
    edgerig fault latest kill pi4-3 --heal-after 10s
    edgerig fault RUN cpu_slowdown 'zero-*' --set factor=0.5 --heal-after 30s
    edgerig fault RUN partition majority --set direction=up --heal-after 15s
    """
    keys = dict(_setting(text) for text in set_ or [])
    _strike(find_run(runs, name), kind, target, keys, heal_after)


@app.command()
def link(
    name: Run,
    target: Target,
    profile: Annotated[str | None, typer.Option("--profile", help="A link profile, e.g. 3g.")] = None,
    up: Annotated[str | None, typer.Option("--up", help="Rate from the device, e.g. 200kbit/s.")] = None,
    down: Annotated[str | None, typer.Option("--down", help="Rate to the device.")] = None,
    delay: Annotated[str | None, typer.Option("--delay", help="One-way, each direction, e.g. 300ms.")] = None,
    jitter: Annotated[str | None, typer.Option("--jitter", help="Standard deviation of the delay.")] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="Share of packets dropped, e.g. 5%.")] = None,
    heal_after: HealAfter = None,
    runs: RunsFolder = DEFAULT_RUNS,
) -> None:
    """Change links now, in a run that is alive; what is not named stays as it is planned.

    \b
    edgerig link latest 'zero-*' --up 200kbit/s --delay 300ms --heal-after 30s
    """
    given = {"profile": profile, "up": up, "down": down, "delay": delay, "jitter": jitter, "loss": loss}
    changed = {key: value for key, value in given.items() if value is not None}
    _strike(find_run(runs, name), "link_change", target, {"link": changed}, heal_after)


@app.command()
def heal(
    name: Run,
    fault_id: Annotated[
        str, typer.Argument(help="As `edgerig fault` and `status` name it.", metavar="FAULT")
    ],
    runs: RunsFolder = DEFAULT_RUNS,
) -> None:
    """Heal a fault before its time.

    \b
    edgerig heal latest by-hand-1
    """
    _say(_ask(find_run(runs, name), HealRequest(fault=fault_id)))


def _setting(text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise typer.BadParameter(f"{text!r}: a key and a value are wanted, as in factor=0.5")
    try:
        return key, load_value(value)
    except TopologyErrors as errors:
        raise typer.BadParameter(f"{text!r}: {errors.errors[0].message}") from None


def _strike(root: Path, kind: str, target: str, keys: dict[str, Any], heal_after: str | None) -> None:
    found = planned(load_file(root / "topology.yaml"), kind, target, keys, heal_after)
    request = FaultRequest(
        kind=found.kind, targets=found.targets, heal_after_s=found.heal_after_s, params=found.params
    )
    answer = _ask(root, request)
    typer.echo(f"{kind} of {', '.join(found.targets)}")
    _say(answer)


def planned(
    file: Document, kind: str, target: str, keys: dict[str, Any], heal_after: str | None
) -> FaultPlan:
    """What was asked for, through the same checks as a file's faults. Raises TopologyErrors."""
    if kind in GENERATORS:
        hint = f"by hand one at a time: {', '.join(FAULTS)}"
        problem = TopologyError(f"faults[0].{kind}", target, "draws many faults before a run", hint)
        raise TopologyErrors([problem], file.source)
    # A plan has to say when a service comes back; who is there can heal it by hand.
    lasts = heal_after or ("24 h" if target in (BROKER, COORDINATOR) and kind in LASTING else None)
    entry: dict[str, Any] = {"at": "1 s", kind: {**_aim(target), **keys}}
    if lasts is not None:
        entry["heal_after"] = lasts
    # Each draw is another one: `one` twice in a row is meant to hit somebody else.
    data = {**file.data, "faults": [entry], "seed": secrets.randbelow(2**32)}
    topology = validate(Document(data=data, lines={}, source=file.source))
    found = plans_of(topology, 0)[0]
    return found if heal_after is not None else structs.replace(found, heal_after_s=None)


def _aim(target: str) -> dict[str, Any]:
    if target in ("broker", "coordinator", "hostd"):
        return {"service": target}
    if target in ("one", "majority"):
        return {"device": "*", "pick": target}
    return {"device": "*" if target == "everyone" else target}


def _ask(root: Path, request: Request) -> Answer:
    plan = plan_of(root)
    folder = root / "nodes" / ("hostd" if plan.runtime == "docker" else "processes")
    try:
        return ask(folder, request)
    except OSError as error:
        raise EnvironmentProblem(
            f"{plan.run} does not take faults by hand: {error.strerror or error}",
            awaited=f"hostd listening at {folder}/{SOCKET_NAME}",
            hint="is the run alive, and is it yours? `edgerig status` tells",
        ) from None


def _say(answer: Answer) -> None:
    typer.echo(f"{answer.fault + ': ' if answer.fault else ''}{answer.detail}")
    raise typer.Exit(OK if answer.ok else FAILED)
