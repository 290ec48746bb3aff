"""`edge-agent calibrate`: time the project's own training step on this device and write a profile of it.

The artifact comes from the operator's machine (`edgerig calibrate --artifact step.artifact`), because a device cannot
derive training graphs. What it writes, `edgerig calibrate PROFILE` turns into a CPU quota on a host.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import yaml

from edge_agent.errors import EXIT_OK, ConfigurationError
from learning.artifact import ARTIFACT_BYTES_MAX, ArtifactError, TrainingArtifact

EXAMPLE = """examples:
  edgerig calibrate --artifact step.artifact          on the operator's machine; copy the file to the device
  edge-agent calibrate --artifact step.artifact --out my-pi4.yaml
  edgerig calibrate my-pi4.yaml                       on a host: the quota that makes it as slow as the device
"""
HEAD = "# Measured by `edge-agent calibrate`. On a host: `edgerig calibrate` with this file.\n"
SECONDS = 10.0


def main(arguments: Sequence[str]) -> int:
    """Raises ConfigurationError."""
    options = _parser().parse_args(arguments)
    from learning.calibration import calibrate

    try:
        artifact = TrainingArtifact.from_bytes(_read(options.artifact))
        found = calibrate(artifact, options.threads, options.seconds)
    except ArtifactError as error:
        raise ConfigurationError(f"{options.artifact}: {error}") from error
    built = msgspec.to_builtins(found)
    if options.json:
        print(json.dumps(built))
    step = found.step
    said = f"{step.mean_s * 1e3:.2f} ms a step ({step.low_s * 1e3:.2f} to {step.high_s * 1e3:.2f})"
    print(f"{found.board}: {found.model}, batches of {found.batch_size}: {said}", file=sys.stderr)
    if options.out is not None:
        try:
            options.out.write_text(HEAD + yaml.safe_dump(built, sort_keys=False))
        except OSError as error:
            raise ConfigurationError(f"cannot write {options.out}: {error.strerror}") from error
        print(f"written to {options.out}", file=sys.stderr)
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-agent calibrate",
        description="Time the training step on this device and write its profile.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--artifact", type=Path, required=True, help="from `edgerig calibrate --artifact`")
    parser.add_argument("--out", type=Path, help="the profile to write (YAML)")
    parser.add_argument("--threads", type=int, default=1, choices=range(1, 65), metavar="N")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="at least so long (default 10)")
    parser.add_argument("--json", action="store_true", help="the profile as JSON on standard output")
    return parser


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(ARTIFACT_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read the artifact {path}: {error.strerror}") from error
