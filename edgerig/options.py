"""Options that several commands share."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from topology.compile import RUN_ID


class Format(StrEnum):
    text = "text"
    json = "json"


class RuntimeName(StrEnum):
    docker = "docker"
    process = "process"


TopologyFile = Annotated[
    Path, typer.Argument(help="The topology, a YAML file.", metavar="FILE", show_default=False)
]
RunName = Annotated[
    str, typer.Argument(help="A run: its id, the beginning of it, its folder, or `latest`.", metavar="[RUN]")
]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Where runs are kept.", envvar="EDGERIG_RUNS")]
FormatOption = Annotated[Format, typer.Option("--format", help="For people or for programs.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Use this seed instead of the file's.", min=0)]
DEFAULT_RUNS = Path("runs")


def _checked_run_id(value: str | None) -> str | None:
    if value and not RUN_ID.match(value):
        raise typer.BadParameter(f"{value!r}: small letters, digits and hyphens, at most 48, are allowed")
    return value


RunId = Annotated[
    str | None,
    typer.Option("--run-id", help="A name of your own instead of <name>-<time>.", callback=_checked_run_id),
]


def data_dir() -> Path | None:
    """The folder of data sets, from EDGERIG_DATA."""
    value = os.environ.get("EDGERIG_DATA", "")
    return Path(value).expanduser() if value else None
