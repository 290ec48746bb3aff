"""`edgerig`: put together from one file per command group, and the one place where errors become exit codes."""

from __future__ import annotations

import sqlite3
import sys
from typing import NoReturn

import typer

from compose.errors import EnvironmentProblem, Interrupted
from edgerig import __version__
from edgerig.commands import baseline, calibrate, data, fault, host, model, record, run, topology
from edgerig.exits import CONFIGURATION, ENVIRONMENT, INTERRUPTED, OK
from edgerig.failures import say
from learning.artifact import ArtifactError
from learning.autodiff import AutodiffError
from learning.datasets import DatasetError
from learning.making import BindingError
from learning.partition import PartitionError
from learning.plugins import PluginError
from topology.errors import TopologyErrors

HELP = """Federated learning at the edge, for real: throttled containers, shaped links, faults, a verdict.

\b
  edgerig run topology/examples/quickstart.yaml     bring it up, train, judge, tear down
  edgerig run FILE --runtime process                the same without Docker or root
  edgerig validate FILE                             every error at once
  edgerig data FILE                                 what every device gets of the data
  edgerig status                                    what the newest run is waiting for
  edgerig sweep                                     remove what a killed run left

\b
Exit codes: 0 expectations held · 1 not (or could not be judged) · 2 bad configuration
            3 environment (Docker, disk, broker …) · 4 interrupted
"""

TYPER_INTERRUPTED = 130
RECORDING = frozenset({"run", "down", "report"})  # commands that write a run's record

app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
for group in (topology, data, run, record, baseline, host, calibrate, fault):
    for command in group.app.registered_commands:
        app.registered_commands.append(command)
app.add_typer(model.app, name="model")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgerig {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """The options of `edgerig` itself."""


def _fail(code: int, lines: list[str], error: Exception | None = None) -> NoReturn:
    say(lines, error)
    sys.exit(code)


def _run_app() -> None:
    """Typer makes an exit code of its own of Ctrl-C; ours is documented. A command that starts a run has its own way
    (`compose.signals.interruptible`).
    """
    try:
        app()
    except SystemExit as ended:
        if ended.code == TYPER_INTERRUPTED:
            raise KeyboardInterrupt from ended
        raise


def main() -> None:
    """Run the command; whatever goes wrong ends as its own message and exit code."""
    try:
        _run_app()
    except TopologyErrors as errors:
        _fail(CONFIGURATION, errors.lines(), errors)
    except (DatasetError, PartitionError) as error:
        _fail(CONFIGURATION, [f"data: {error}"])
    except (AutodiffError, ArtifactError, BindingError) as error:
        _fail(CONFIGURATION, [f"model: {error}"])
    except PluginError as error:
        _fail(CONFIGURATION, [f"plug-in: {error}"])
    except EnvironmentProblem as problem:
        _fail(ENVIRONMENT, problem.lines(), problem)
    except Interrupted as interrupted:
        _fail(INTERRUPTED, interrupted.lines())
    except KeyboardInterrupt:
        _fail(INTERRUPTED, ["interrupted"])
    except BrokenPipeError:
        # `edgerig logs | head`: the reader had enough.
        sys.stderr.close()
        sys.exit(OK)
    except (OSError, sqlite3.OperationalError) as error:
        # A disk that fills up while the record is written, a folder that has lost its permissions.
        recorded = not RECORDING.isdisjoint(sys.argv[1:2])
        missing = isinstance(error, FileNotFoundError)
        look_at = "is there such a folder?" if missing else "check free space and permissions"
        again = "; `edgerig report RUN` writes a run's record again" if recorded else ""
        blamed = EnvironmentProblem(str(error), hint=f"{look_at}{again}")
        _fail(ENVIRONMENT, blamed.lines(), blamed)
