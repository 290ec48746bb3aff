"""`edgerig model`: prepare, inspect, check and export models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from edgerig.exits import CONFIGURATION, FAILED
from edgerig.failures import say
from edgerig.options import DEFAULT_RUNS, Format, FormatOption, RunsFolder

app = typer.Typer(
    help="Prepare, inspect, check and export models.", no_args_is_help=True, pretty_exceptions_enable=False,
    rich_markup_mode=None,
)  # fmt: skip

Model = Annotated[str, typer.Argument(help="An .onnx file, or a reference model's name.", metavar="MODEL")]
Loss = Annotated[str, typer.Option(help="Loss head; docs/models.md lists them.")]
Batch = Annotated[int, typer.Option(min=1, max=65_536, help="Batch size of a training step.")]
Trainable = Annotated[
    str | None, typer.Option(help="Name patterns of what is trained, comma-separated: 'fc*,head.*'.")
]
BatchNorm = Annotated[
    str, typer.Option(help="frozen, or train: batch statistics, running ones kept as state.")
]
Feed = Annotated[
    str,
    typer.Option(
        "--input", help="What devices feed: uint8 (scaled to [0, 1]), float32, int64. Default: by the model."
    ),
]
Dims = Annotated[
    list[str] | None, typer.Option("--dim", help="Bind a dynamic dimension: length=32. May be repeated.")
]
Optimizer = Annotated[str, typer.Option(help="sgd, momentum, adam or adamw: what its state costs in memory.")]
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", help="A device profile: refuse a step that does not fit its memory."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of a reference model's parameters.")]
# max|a−b| / max|b|: float32 against float32; rules that are wrong are off by far more.
GRADIENT_ERROR_MAX = 1e-4


@contextmanager
def _refused() -> Iterator[None]:
    """What is wrong with a model is the user's to mend: said in one line, exit code 2."""
    from coordinator.journal import JournalError
    from learning.artifact import ArtifactError
    from learning.autodiff import AutodiffError

    try:
        yield
    except (AutodiffError, ArtifactError, JournalError, OSError) as error:
        say([f"model: {error}"])
        raise typer.Exit(CONFIGURATION) from error


def _artifact(
    model: str, loss: str, batch: int, trainable: str | None, batch_norm: str, dropout: bool, feed: str,
    dims: list[str] | None, seed: int,
) -> tuple[Any, Any]:  # fmt: skip
    from learning.artifact import InputSpec
    from learning.autodiff import AutodiffError, build_training_graph
    from learning.prepare import bindings, load_model, patterns

    if batch_norm not in ("frozen", "train"):
        raise AutodiffError(f"--batch-norm {batch_norm!r}: frozen or train")
    scaling = None
    if feed:
        if feed not in ("uint8", "float32", "int64", "int32"):
            raise AutodiffError(f"--input {feed!r}: uint8, float32, int64 or int32")
        scaling = InputSpec(dtype=feed, scale=1 / 255 if feed == "uint8" else 1.0)  # type: ignore[arg-type]
    loaded = load_model(model, seed)
    artifact = build_training_graph(
        loaded,
        loss=loss,
        trainable=patterns(trainable),
        batch_size=batch,
        scaling=scaling,
        dims=bindings(dims or []),
        batch_norm=batch_norm,  # type: ignore[arg-type]
        dropout=dropout,
    )
    return loaded, artifact


def _require_fit(
    loaded: Any,
    batch: int,
    dims: list[str] | None,
    optimizer: str,
    profile: str | None,
    memory_mb: float | None,
) -> Any:
    """The inspection, after holding its step against a profile or a limit."""
    from learning.autodiff import AutodiffError
    from learning.prepare import OPTIMIZER_VECTORS, bindings, inspect, require_fit
    from topology.profiles import DEVICES

    if optimizer not in OPTIMIZER_VECTORS:
        raise AutodiffError(f"--optimizer {optimizer!r}: one of {', '.join(OPTIMIZER_VECTORS)}")
    if profile is not None and profile not in DEVICES:
        raise AutodiffError(f"no device profile is called {profile!r}: one of {', '.join(DEVICES)}")
    found = inspect(loaded, batch, bindings(dims or []))
    if profile is not None:
        require_fit(found, DEVICES[profile].memory_bytes, profile, optimizer)
    if memory_mb is not None:
        require_fit(found, int(memory_mb * 1e6), "the device", optimizer)
    return found


@app.command()
def prepare(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the artifact goes.")] = Path(
        "model.artifact"
    ),
    loss: Loss = "softmax_cross_entropy",
    optimizer: Optimizer = "momentum",
    batch_size: Batch = 16,
    trainable: Trainable = None,
    batch_norm: BatchNorm = "frozen",
    dropout: Annotated[bool, typer.Option("--dropout", help="Train with the model's Dropout.")] = False,
    feed: Feed = "",
    dims: Dims = None,
    profile: ProfileName = None,
    seed: Seed = 0,
    format: FormatOption = Format.text,
) -> None:
    """Derive the training graph of an inference model and write the training artifact, and version 0 beside it.

    \b
    edgerig model prepare net.onnx --loss softmax_cross_entropy --optimizer momentum --profile raspberry-pi-3b
    edgerig model prepare text.onnx --loss next_token --dim length=64 --trainable 'head*'
    """
    import numpy as np

    from learning.autodiff import initial_parameters
    from learning.autodiff.parameters import select
    from learning.prepare import patterns, rehearse

    with _refused():
        loaded, artifact = _artifact(
            model, loss, batch_size, trainable, batch_norm, dropout, feed, dims, seed
        )
        found = _require_fit(loaded, batch_size, dims, optimizer, profile, None)
        rehearse(artifact)
        wanted = {v.name for v in select(found.verdicts, patterns(trainable))}
        idle = sorted(wanted - {spec.name for spec in artifact.parameters})
        if idle:
            found.notes.append(f"not trained, the first output does not depend on them: {', '.join(idle)}")
        data, start = artifact.to_bytes(), out.with_suffix(".npy")
        out.write_bytes(data)
        np.save(start, initial_parameters(loaded, artifact))
    if format is Format.json:
        facts = {
            "artifact": str(out), "bytes": len(data), "version_0": str(start), "parameters": artifact.size,
            "tensors": len(artifact.parameters), "step_mb": round(found.step_mb(optimizer), 1), "notes": found.notes,
        }  # fmt: skip
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo(f"{out}: {len(data)} bytes, {artifact.size} parameters in {len(artifact.parameters)} tensors")
    typer.echo(f"{start}: version 0")
    for note in found.notes:
        typer.echo(f"note: {note}")


@app.command()
def inspect(
    model: Model,
    batch_size: Batch = 16,
    optimizer: Optimizer = "momentum",
    profile: ProfileName = None,
    memory_mb: Annotated[
        float | None, typer.Option(min=1, help="A device's memory limit in MB: does a step fit?")
    ] = None,
    dims: Dims = None,
    seed: Seed = 0,
    format: FormatOption = Format.text,
) -> None:
    """Print parameters, which are trainable and why, FLOPs and memory of a training step.

    \b
    edgerig model inspect net.onnx --profile raspberry-pi-zero-2w
    edgerig model inspect cnn --batch-size 32 --format json | jq .step_mb

    Exit code 2 if it cannot be trained, or does not fit.
    """
    from learning.autodiff.parameters import select
    from learning.prepare import load_model

    with _refused():
        found = _require_fit(load_model(model, seed), batch_size, dims, optimizer, None, None)
        if format is Format.json:
            typer.echo(json.dumps(_facts(found, batch_size, optimizer), indent=1))
        else:
            _print(found, batch_size, optimizer)
        if found.unsupported:
            typer.echo(f"no gradient rule: {', '.join(found.unsupported)}", err=True)
            raise typer.Exit(CONFIGURATION)
        select(found.verdicts, None)
        _require_fit(load_model(model, seed), batch_size, dims, optimizer, profile, memory_mb)


def _facts(found: Any, batch_size: int, optimizer: str) -> dict[str, Any]:
    return {
        "model": found.name,
        "opset": found.opset,
        "input": list(found.input_shape),
        "output": list(found.output_shape),
        "parameters": found.parameters,
        "tensors": [
            {
                "name": v.name,
                "shape": list(found.shapes[v.name]),
                "size": found.sizes[v.name],
                "trainable": v.kind is not None,
                "kind": v.kind,
                "reason": v.reason,
            }
            for v in found.verdicts
        ],
        "flops_per_sample": found.flops,
        "activation_bytes": found.activation_bytes,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "step_mb": round(found.step_mb(optimizer), 1),
        "unsupported": found.unsupported,
        "notes": found.notes,
    }


def _print(found: Any, batch_size: int, optimizer: str) -> None:
    typer.echo(
        f"{found.name}: opset {found.opset}, input {list(found.input_shape)}, output {list(found.output_shape)}"
    )
    for verdict in found.verdicts:
        mark = "train" if verdict.kind else "  -  "
        shape = "×".join(str(size) for size in found.shapes[verdict.name]) or "scalar"
        typer.echo(
            f"  {mark}  {verdict.name:<32} {shape:>14} {found.sizes[verdict.name]:>10}  {verdict.reason}"
        )
    typer.echo(f"parameters: {found.parameters}")
    typer.echo(f"forward pass: {found.flops / 1e6:.2f} MFLOP per sample")
    typer.echo(f"activations: {found.activation_bytes / 1e6:.1f} MB per step of {batch_size}")
    typer.echo(f"agent while training with {optimizer}: about {found.step_mb(optimizer):.0f} MB")
    for note in found.notes:
        typer.echo(f"note: {note}")


@app.command()
def check(
    model: Model,
    loss: Loss = "softmax_cross_entropy",
    batch_size: Batch = 16,
    trainable: Trainable = None,
    feed: Feed = "",
    dims: Dims = None,
    seed: Seed = 0,
    format: FormatOption = Format.text,
) -> None:
    """Compare the gradients of one step with PyTorch's (where it is installed). Exit code 1 if they differ.

    \b
    edgerig model check net.onnx --loss mean_squared_error --input float32
    """
    from learning.prepare import check as compare

    with _refused():
        loaded, artifact = _artifact(model, loss, batch_size, trainable, "frozen", False, feed, dims, seed)
        result = compare(loaded, artifact)
    if format is Format.json:
        facts = {"loss": result.loss, "torch_loss": result.torch_loss, "errors": result.errors}
        typer.echo(json.dumps({**facts, "worst": result.worst, "allowed": GRADIENT_ERROR_MAX}, indent=1))
    else:
        typer.echo(f"loss {result.loss:.6f}, PyTorch {result.torch_loss:.6f}")
        for name, error in result.errors.items():
            typer.echo(f"  {error:.1e}  {name}")
        typer.echo(f"worst gradient error {result.worst:.1e}, allowed {GRADIENT_ERROR_MAX:.0e}")
    if not result.worst <= GRADIENT_ERROR_MAX:
        raise typer.Exit(FAILED)


@app.command()
def export(
    source: Annotated[
        str, typer.Argument(help="A run, or a model with --artifact and --parameters.", metavar="RUN|MODEL")
    ] = "latest",
    artifact: Annotated[
        Path | None, typer.Option(help="The training artifact MODEL was prepared as.")
    ] = None,
    parameters: Annotated[
        Path | None, typer.Option(help="Trained parameters: a flat .npy vector, float16 or float32.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The .onnx file a run was started with, if it has moved since.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the model goes.")] = Path("trained.onnx"),
    runs: RunsFolder = DEFAULT_RUNS,
    seed: Seed = 0,
    format: FormatOption = Format.text,
) -> None:
    """Write the trained inference model: of a run's last version, or of parameters in a file.

    \b
    edgerig model export latest -o trained.onnx
    edgerig model export net.onnx --artifact model.artifact --parameters trained.npy
    """
    import onnx

    from learning.autodiff import AutodiffError
    from learning.prepare import export as fill

    with _refused():
        if (artifact is None) != (parameters is None):
            raise AutodiffError(
                "give --artifact and --parameters together with a model, or neither with a run"
            )
        if artifact is not None and parameters is not None:
            loaded, prepared, flat = _of_files(source, artifact, parameters, seed)
            version = None
        else:
            loaded, prepared, flat, version = _of_run(source, runs, model)
        onnx.save(fill(loaded, prepared, flat), str(out))
    if format is Format.json:
        typer.echo(json.dumps({"model": str(out), "parameters": prepared.size, "version": version}))
    else:
        of = f" of version {version}" if version is not None else ""
        typer.echo(f"{out}: {prepared.size} trained parameters{of}")


def _of_files(model: str, artifact: Path, parameters: Path, seed: int) -> tuple[Any, Any, Any]:
    import numpy as np

    from learning.artifact import ArtifactError, TrainingArtifact
    from learning.prepare import load_model

    prepared = TrainingArtifact.from_bytes(artifact.read_bytes())
    try:
        flat = np.load(parameters, allow_pickle=False).astype(np.float32)
    except (ValueError, EOFError) as error:
        raise ArtifactError(f"{parameters} is no .npy vector ({error})") from error
    return load_model(model, seed), prepared, flat


def _of_run(name: str, runs: Path, model: str | None) -> tuple[Any, Any, Any, int]:
    from compose.session import find_run, plan_of
    from coordinator.trained import trained_model
    from learning.making import model_of
    from learning.prepare import load_model

    root = find_run(runs, name)
    plan = plan_of(root)
    version, flat, prepared = trained_model(root)
    return load_model(model) if model else model_of(plan), prepared, flat, version
