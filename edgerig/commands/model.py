"""`edgerig model`: prepare, inspect, check and export models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from edgerig.exits import CONFIGURATION, FAILED

app = typer.Typer(
    help="Prepare, inspect, check and export models.", no_args_is_help=True, pretty_exceptions_enable=False
)

MODEL = typer.Argument(..., help="An .onnx file, or a reference model's name.")
LOSS = typer.Option("softmax_cross_entropy", help="Loss head; docs/models.md lists them.")
BATCH = typer.Option(16, min=1, help="Batch size of a training step.")
TRAINABLE = typer.Option(None, help="Name patterns of what is trained, comma-separated: 'fc*,head.*'.")
BATCH_NORM = typer.Option("frozen", help="frozen, or train: batch statistics, running ones kept as state.")
INPUT = typer.Option(
    "", help="What devices feed: uint8 (scaled to [0, 1]), float32, int64. Default: by the model."
)
SEED = typer.Option(0, help="Seed of a reference model's parameters.")
GRADIENT_ERROR_MAX = (
    1e-4  # max|a−b| / max|b|: float32 against float32; rules that are wrong are off by far more
)


def _refuse(error: Exception) -> typer.Exit:
    typer.echo(f"model: {error}", err=True)
    return typer.Exit(CONFIGURATION)


def _artifact(
    model: str, loss: str, batch: int, trainable: str | None, batch_norm: str, feed: str, seed: int
) -> tuple[Any, Any]:
    from learning.artifact import InputSpec
    from learning.autodiff import AutodiffError, build_training_graph
    from learning.prepare import load_model, patterns

    try:
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
            batch_norm=batch_norm,  # type: ignore[arg-type]
        )
    except AutodiffError as error:
        raise _refuse(error) from error
    return loaded, artifact


@app.command()
def prepare(
    model: str = MODEL,
    out: Path = typer.Option(Path("model.artifact"), "--out", "-o", help="Where the artifact goes."),
    loss: str = LOSS,
    batch_size: int = BATCH,
    trainable: str | None = TRAINABLE,
    batch_norm: str = BATCH_NORM,
    feed: str = typer.Option("", "--input", help=INPUT.help),
    seed: int = SEED,
) -> None:
    """Derive the training graph of an inference model and write the training artifact."""
    import numpy as np

    from learning.autodiff import initial_parameters

    loaded, artifact = _artifact(model, loss, batch_size, trainable, batch_norm, feed, seed)
    data = artifact.to_bytes()
    out.write_bytes(data)
    start = out.with_suffix(".npy")
    np.save(start, initial_parameters(loaded, artifact))
    typer.echo(f"{out}: {len(data)} bytes, {artifact.size} parameters in {len(artifact.parameters)} tensors")
    typer.echo(f"{start}: version 0")


@app.command()
def inspect(
    model: str = MODEL,
    batch_size: int = BATCH,
    memory_mb: float | None = typer.Option(None, help="A device's memory limit: does a step fit?"),
    seed: int = SEED,
) -> None:
    """Print parameters, which are trainable and why, FLOPs and memory of a training step."""
    from learning.autodiff import AutodiffError
    from learning.prepare import inspect as look
    from learning.prepare import load_model

    try:
        found = look(load_model(model, seed), batch_size)
    except AutodiffError as error:
        raise _refuse(error) from error
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
    typer.echo(f"agent while training with momentum: about {found.step_mb():.0f} MB")
    for note in found.notes:
        typer.echo(f"note: {note}")
    if found.unsupported:
        typer.echo(f"no gradient rule: {', '.join(found.unsupported)}", err=True)
        raise typer.Exit(CONFIGURATION)
    if memory_mb is not None and found.step_mb() > memory_mb:
        typer.echo(f"does not fit {memory_mb:.0f} MB: use a smaller batch or freeze layers", err=True)
        raise typer.Exit(CONFIGURATION)


@app.command()
def check(
    model: str = MODEL,
    loss: str = LOSS,
    batch_size: int = BATCH,
    trainable: str | None = TRAINABLE,
    feed: str = typer.Option("", "--input", help=INPUT.help),
    seed: int = SEED,
) -> None:
    """Compare the gradients of one step with PyTorch's (where it is installed)."""
    from learning.autodiff import AutodiffError
    from learning.prepare import check as compare

    loaded, artifact = _artifact(model, loss, batch_size, trainable, "frozen", feed, seed)
    try:
        result = compare(loaded, artifact)
    except AutodiffError as error:
        raise _refuse(error) from error
    typer.echo(f"loss {result.loss:.6f}, PyTorch {result.torch_loss:.6f}")
    for name, error_ in result.errors.items():
        typer.echo(f"  {error_:.1e}  {name}")
    typer.echo(f"worst gradient error {result.worst:.1e}, allowed {GRADIENT_ERROR_MAX:.0e}")
    if result.worst > GRADIENT_ERROR_MAX:
        raise typer.Exit(FAILED)


@app.command()
def export(
    model: str = MODEL,
    artifact: Path = typer.Option(..., help="The training artifact it was prepared as."),
    parameters: Path = typer.Option(..., help="Trained parameters: a flat .npy vector, float16 or float32."),
    out: Path = typer.Option(Path("trained.onnx"), "--out", "-o", help="Where the model goes."),
    seed: int = SEED,
) -> None:
    """Write the trained inference model."""
    import numpy as np
    import onnx

    from learning.artifact import ArtifactError, TrainingArtifact
    from learning.autodiff import AutodiffError
    from learning.prepare import export as fill
    from learning.prepare import load_model

    try:
        prepared = TrainingArtifact.from_bytes(artifact.read_bytes())
        flat = np.load(parameters, allow_pickle=False).astype(np.float32)
        onnx.save(fill(load_model(model, seed), prepared, flat), str(out))
    except (AutodiffError, ArtifactError, OSError, ValueError) as error:
        raise _refuse(error) from error
    typer.echo(f"{out}: {prepared.size} trained parameters")
