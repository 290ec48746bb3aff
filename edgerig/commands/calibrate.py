"""calibrate: a real device's speed, as a CPU quota of this host."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import yaml

from compose.calibration import in_container
from compose.errors import EnvironmentProblem
from edgerig.exits import CONFIGURATION, FAILED
from edgerig.options import Format, FormatOption
from learning.artifact import TrainingArtifact
from learning.calibration import Calibration, Quota, StepTimes, calibrate, quota_for

app = typer.Typer()

PROFILE_BYTES_MAX = 65_536
SECONDS = 4.0  # on a whole core; 40 quota periods
AGREES_WITHIN = 0.10  # of the device's step: what a run tolerates of a quota, too
QUOTA_MIN = 0.01
PERIODS_IN_CONTAINER = 50


@app.command(name="calibrate")
def command(
    profile: Annotated[
        Path | None,
        typer.Argument(help="Written by `edge-agent calibrate` on the device.", metavar="[PROFILE]"),
    ] = None,
    artifact: Annotated[
        Path | None, typer.Option(help="Write the training step for `edge-agent calibrate` here, and end.")
    ] = None,
    model: Annotated[str, typer.Option(help="Whose step: a reference model, or an .onnx file.")] = "cnn",
    batch: Annotated[int, typer.Option(help="Samples in a step.", min=1, max=4096)] = 16,
    seconds: Annotated[float, typer.Option(help="Time steps for so long.", min=2, max=300)] = SECONDS,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Run the step in a container with the quota found.")
    ] = True,
    format: FormatOption = Format.text,
) -> None:
    """Time the training step here; with a device's PROFILE, find the CPU quota that makes this host as slow.

    \b
    edgerig calibrate                                   how long a step takes on this host
    edgerig calibrate --artifact step.artifact          copy it to the device, and there:
    edge-agent calibrate --artifact step.artifact --out my-pi4.yaml
    edgerig calibrate my-pi4.yaml                       the quota, with its spread, tried in a container

    Exit code 1: the container was not within 10 % of the device.
    """
    device = None if profile is None else read_profile(profile)
    built = _artifact(device.model if device else model, device.batch_size if device else batch)
    if artifact is not None:
        artifact.write_bytes(built.to_bytes())
        typer.echo(
            f"{artifact}: copy it to the device and run `edge-agent calibrate --artifact {artifact.name}`"
        )
        return
    host = calibrate(built, device.threads if device else 1, seconds)
    if device is None:
        _say(format, {"host": msgspec.to_builtins(host)}, [_line("this host", host.step)])
        return
    quota = quota_for(device.step, host.step)
    tried = _tried(built, quota, device) if verify else None
    _report(format, device, host, quota, tried)


def read_profile(path: Path) -> Calibration:
    """Exits with 2 for a file that is no profile."""
    try:
        with open(path, "rb") as file:
            loaded = yaml.safe_load(file.read(PROFILE_BYTES_MAX))
        return msgspec.convert(loaded, Calibration)
    except OSError as error:
        typer.echo(f"calibrate: {path} cannot be read: {error.strerror}", err=True)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        typer.echo(f"calibrate: {path} is no profile of `edge-agent calibrate`: {error}", err=True)
    raise typer.Exit(CONFIGURATION)


def _artifact(model: str, batch: int) -> TrainingArtifact:
    from learning.autodiff import build_training_graph
    from learning.prepare import load_model

    built: TrainingArtifact = build_training_graph(load_model(model), batch_size=batch)
    return msgspec.structs.replace(built, model=model) if built.model != model else built


def _tried(built: TrainingArtifact, quota: Quota, device: Calibration) -> Calibration | None:
    """None where no container can be run here; that is said, and the quota holds all the same."""
    seconds = max(PERIODS_IN_CONTAINER * 0.1, 3 * device.step.mean_s)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "step.artifact"
            file.write_bytes(built.to_bytes())
            file.chmod(0o644)
            Path(folder).chmod(0o755)  # the container's user is another one
            return in_container(file, max(QUOTA_MIN, quota.cores), device.threads, seconds)
    except EnvironmentProblem as problem:
        typer.echo(f"calibrate: not tried in a container: {problem.what}", err=True)
        return None


def _report(
    format: Format, device: Calibration, host: Calibration, quota: Quota, tried: Calibration | None
) -> None:
    error = None if tried is None else tried.step.mean_s / device.step.mean_s - 1
    held = error is None or abs(error) <= AGREES_WITHIN
    lines = [
        _line(device.board, device.step),
        _line("this host, a whole core", host.step),
        *([_line("a container with the quota", tried.step), f"error {error:+.1%}"] if tried else []),
        f"quota {quota.cores:.4f} of a core ({quota.low:.4f} to {quota.high:.4f}); in the topology:",
        f"    cpus: {max(QUOTA_MIN, round(quota.cores, 4))}",
        f"    threads: {device.threads}",
    ]
    if quota.cores > host.cores:
        lines.append(
            f"the device is faster than all {host.cores} cores of this host: it cannot be emulated here"
        )
        held = False
    found: dict[str, Any] = {
        "device": msgspec.to_builtins(device),
        "host": msgspec.to_builtins(host),
        "quota": msgspec.to_builtins(quota),
        "tried": None if tried is None else msgspec.to_builtins(tried),
        "error": error,
    }
    _say(format, found, lines)
    if not held:
        raise typer.Exit(FAILED)


def _line(who: str, step: StepTimes) -> str:
    spread = f"({step.low_s * 1e3:.2f} to {step.high_s * 1e3:.2f}, {step.steps} steps)"
    return f"{who}: {step.mean_s * 1e3:.2f} ms a step {spread}"


def _say(format: Format, found: dict[str, Any], lines: list[str]) -> None:
    if format is Format.json:
        typer.echo(json.dumps(found, indent=1))
    else:
        for line in lines:
            typer.echo(line)
