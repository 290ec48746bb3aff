"""Reference models, losses and metrics; gradients of every model against PyTorch, where it is installed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from benchmarks.fedavg_paper import reached
from edgerig.commands.model import app
from learning.artifact import InputSpec
from learning.autodiff import AutodiffError, build_training_graph, initial_parameters
from learning.autodiff.losses import LOSSES
from learning.autodiff.registry import RULES
from learning.autodiff.table import document, figures
from learning.evaluator import Evaluator, macro_f1
from learning.models import MODELS, build_model
from learning.plugins import PluginError, load_plugins
from learning.prepare import check, export, inspect, load_model
from learning.session import StepSession
from learning.shard import Shard

RAW = InputSpec(dtype="float32", scale=1.0)


def prepared(name, batch=4, **options):
    model = build_model(name, 1)
    scaling = RAW if name in ("gru", "conv1d") else None
    loss = "next_token" if name == "transformer" else "softmax_cross_entropy"
    return model, build_training_graph(model, batch_size=batch, scaling=scaling, **{"loss": loss, **options})


@pytest.mark.torch
@pytest.mark.parametrize("name", sorted(MODELS))
def test_gradients_are_pytorchs(name):
    model, artifact = prepared(name)
    result = check(model, artifact)
    assert result.loss == pytest.approx(result.torch_loss, rel=1e-5)
    assert result.worst < 1e-4, result.errors


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_losses_weigh_samples_and_agree_with_the_evaluator(loss):
    """Two samples of which one counts: loss and gradient are those of that one alone."""
    name = "transformer" if loss == "next_token" else "mlp"
    model, artifact = prepared(name, batch=2, loss=loss)
    flat = initial_parameters(model, artifact)
    rng = np.random.default_rng(0)
    high = 96 if name == "transformer" else 255
    x = rng.integers(0, high, (2, *artifact.input.shape)).astype(artifact.input.dtype)
    shape = (2, *artifact.labels.shape)
    y = (
        rng.random(shape).astype(np.float32)
        if artifact.labels.dtype == "float32"
        else rng.integers(0, 10, shape)
    )
    grad = np.empty_like(flat)
    step = StepSession(artifact, flat, grad)
    step.x[...], step.labels[...] = x, y
    step.weights[:] = [0.5, 0.0]
    one = step.run()
    kept = grad.copy()
    step.x[1], step.labels[1] = x[0], y[0]
    step.weights[:] = 1.0
    assert step.run() == pytest.approx(4 * one, rel=1e-5)
    np.testing.assert_allclose(grad, kept, atol=1e-6)
    measured = Evaluator(artifact, Shard(x[:1], y[:1])).evaluate(flat)
    assert measured.loss == pytest.approx(2 * one, rel=1e-4)
    assert (measured.mse is not None) == (loss == "mean_squared_error")
    assert (measured.perplexity is not None) == (loss == "next_token")


@pytest.mark.torch
@pytest.mark.parametrize("loss", ["mean_squared_error", "binary_cross_entropy"])
def test_other_losses_have_pytorchs_gradients(loss):
    model, artifact = prepared("mlp", loss=loss)
    result = check(model, artifact)
    assert result.loss == pytest.approx(result.torch_loss, rel=1e-5)
    assert result.worst < 1e-4, result.errors


@pytest.mark.torch
def test_the_check_fails_where_a_rule_is_wrong(monkeypatch):
    """By the command, whose exit code is what people look at."""
    run = CliRunner().invoke
    assert run(app, ["check", "mlp", "--batch-size", "4"]).exit_code == 0
    wrong = dataclasses.replace(RULES["Relu"], rule=lambda n: n.dy)
    monkeypatch.setitem(RULES, "Relu", wrong)
    done = run(app, ["check", "mlp", "--batch-size", "4"])
    assert done.exit_code == 1
    assert "fc1.weight" in done.output


def test_the_check_without_pytorch_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    done = CliRunner().invoke(app, ["check", "mlp"])
    assert done.exit_code == 2
    assert "edgerig[torch]" in done.output


@pytest.mark.torch
def test_label_smoothing_is_pytorchs():
    import torch

    model, artifact = prepared("mlp", loss_options={"label_smoothing": 0.1})
    flat = initial_parameters(model, artifact)
    step = StepSession(artifact, flat, np.empty_like(flat))
    step.labels[...] = [1, 2, 3, 4]
    from learning.autodiff.oracle import torch_output

    output, _ = torch_output(model, np.zeros((4, 1, 28, 28), np.float32), {})
    want = torch.nn.functional.cross_entropy(output, torch.tensor([1, 2, 3, 4]), label_smoothing=0.1)
    assert step.run() / 4 == pytest.approx(float(want), rel=1e-5)
    with pytest.raises(AutodiffError, match="softmax_cross_entropy"):
        prepared("mlp", loss_options={"smoothing": 0.1})


def test_macro_f1_by_hand():
    assert macro_f1(np.array([[8, 2], [4, 6]])) == pytest.approx((16 / 22 + 12 / 18) / 2)
    assert macro_f1(np.array([[5, 0, 0], [0, 5, 0], [0, 0, 0]])) == 1.0


def test_inspection_counts():
    found = inspect(build_model("cnn"), 16)
    assert found.parameters == 1_663_370
    assert found.flops == pytest.approx(
        2 * (784 * 25 * 32 + 196 * 25 * 32 * 64 + 3136 * 512 + 5120), rel=0.01
    )
    assert found.unsupported == []
    assert any("BatchNormalization" in note for note in found.notes)
    reasons = {v.name: v.reason for v in inspect(build_model("transformer"), 2).verdicts}
    assert reasons["block0.attention.mask"].startswith("constant: looks like a mask")
    assert reasons["position"] == "weight of Add add_2"


def test_broken_files_are_refused_before_anything_starts(tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(build_model("mlp").SerializeToString()[:5_000])
    with pytest.raises(AutodiffError, match=r"cut.onnx is no valid ONNX model"):
        load_model(path)
    with pytest.raises(AutodiffError, match="no file and no reference model"):
        load_model("resnet")


def test_export_puts_trained_parameters_into_the_model():
    model, artifact = prepared("mlp")
    flat = np.random.default_rng(0).standard_normal(artifact.size).astype(np.float32)
    trained = export(model, artifact, flat)
    onnx.checker.check_model(trained)
    np.testing.assert_array_equal(initial_parameters(trained, artifact), flat)
    with pytest.raises(AutodiffError, match="not the one"):
        export(build_model("cnn"), artifact, flat)
    flat[0] = np.nan
    with pytest.raises(AutodiffError, match="not finite"):
        export(model, artifact, flat)


def test_the_commands(tmp_path):
    run = CliRunner().invoke
    out = tmp_path / "m.artifact"
    done = run(app, ["prepare", "mlp", "-o", str(out), "--batch-size", "4"])
    assert done.exit_code == 0, done.output
    trained = tmp_path / "t.onnx"
    exported = ["export", "mlp", "--artifact", str(out), "--parameters", str(out.with_suffix(".npy"))]
    done = run(app, [*exported, "-o", str(trained)])
    assert done.exit_code == 0, done.output
    done = run(app, ["inspect", str(trained)])
    assert done.exit_code == 0
    assert "parameters: 199210" in done.output
    assert run(app, ["inspect", "cnn", "--memory-mb", "50"]).exit_code == 2
    assert run(app, ["prepare", "nothing"]).exit_code == 2
    assert run(app, ["prepare", "mlp", "--loss", "l1", "-o", str(out)]).exit_code == 2


def test_the_commands_speak_json(tmp_path):
    run, out = CliRunner().invoke, tmp_path / "m.artifact"
    done = run(app, ["prepare", "mlp", "-o", str(out), "--optimizer", "adam", "--format", "json"])
    made = json.loads(done.output)
    assert (made["parameters"], made["bytes"]) == (199_210, out.stat().st_size)
    looked = json.loads(run(app, ["inspect", "cnn", "--format", "json"]).output)
    assert looked["parameters"] == 1_663_370
    assert {t["name"]: t["trainable"] for t in looked["tensors"]}["conv1.weight"] is True
    plain = json.loads(run(app, ["inspect", "cnn", "--optimizer", "sgd", "--format", "json"]).output)
    assert looked["step_mb"] - plain["step_mb"] == pytest.approx(4 * 1_663_370 / 1e6, abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepare", "cnn", "--batch-size", "4096", "--profile", "raspberry-pi-zero-2w"], "smaller batch"),
        (["inspect", "cnn", "--profile", "raspberry-pi-9"], "raspberry-pi-zero-2w"),
        (["inspect", "cnn", "--optimizer", "lion"], "adamw"),
        (["prepare", "mlp", "--dim", "length"], "--dim length=32"),
        (["prepare", "mlp", "--input", "int7"], "float32"),
        (["prepare", "mlp", "--batch-norm", "on"], "frozen or train"),
        (["export", "mlp", "--parameters", "p.npy"], "together"),
    ],
)
def test_what_the_commands_refuse(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert not list(tmp_path.iterdir()), "nothing is written by a command that refuses"


def test_a_dynamic_dimension_is_bound_by_name(tmp_path):
    model = build_model("gru")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "steps"
    path = tmp_path / "gru.onnx"
    onnx.save(model, str(path))
    run = CliRunner().invoke
    refused = run(app, ["inspect", str(path)])
    assert refused.exit_code == 2
    assert "--dim steps=N" in refused.output
    done = run(app, ["inspect", str(path), "--dim", "steps=16", "--format", "json"])
    assert json.loads(done.output)["input"] == [16, 16, 6]


def test_every_command_has_an_example():
    for command in ("prepare", "inspect", "check", "export"):
        done = CliRunner().invoke(app, [command, "--help"])
        assert f"edgerig model {command}" in done.output


def test_devices_never_import_onnx():
    """What a device imports of learning/ must not pull in the operator's libraries."""
    code = (
        "import sys; import learning.trainer, learning.artifact, learning.shard, learning.session, "
        "learning.optimizers, learning.scaffold, learning.evaluator; "
        "print([m for m in ('onnx', 'pydantic', 'typer', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_operator_table_lists_every_rule():
    text = document()
    for operator in ("Conv", "GRU", "LayerNormalization", "Einsum"):
        assert f"| {operator} |" in text
    assert "| `cnn` | 1,663,370 |" in text


def test_the_document_shows_recorded_figures_only(tmp_path):
    assert figures(tmp_path) == []
    row = {"ort_ms": 5.0, "torch_ms": 10.0, "ratio": 0.5, "ort_rss_mb": 80.0, "torch_rss_mb": 320.0}
    (tmp_path / "training.json").write_text(json.dumps({"models": {"gru": row}}))
    run = {"lr": 0.1, "rounds": 2, "accuracy": [0.9, 0.95], "best_mean_of_three": None, "rounds_to_99": None}
    (tmp_path / "fedavg_paper.json").write_text(json.dumps({"sweep": {"0.1": [0.9, 0.95]}, "iid": run}))
    once = {"model": "cnn", "batch": 32, "lr": 0.02, "momentum": 0.9, "accuracy": [0.98, 0.99], "cpu_s": 1.0}
    (tmp_path / "central_mnist.json").write_text(json.dumps(once))
    text = "\n".join(figures(tmp_path))
    assert "after each epoch: 0.9800, 0.9900." in text
    assert "| `gru` | 5.00 ms | 10.00 ms | 0.50 | 80 MB | 320 MB | 0.25 |" in text
    assert "| iid | 0.1 | 2 | 0.9500 | – | not reached |" in text


def test_rounds_to_a_target_are_counted_over_three_rounds():
    assert reached([0.991, 0.98, 0.99, 0.99, 0.99]) == 5
    assert reached([0.999, 0.98, 0.991]) == 3
    assert reached([0.99, 0.99]) is None


def test_the_cnn_is_prepared_in_two_seconds_of_this_machine():
    """Of its processor's time: how busy the machine is is not what is tested."""
    model = build_model("cnn")
    began = time.process_time()
    build_training_graph(model, batch_size=16).to_bytes()
    assert time.process_time() - began < 2


@pytest.mark.parametrize("name", sorted(MODELS))
def test_artifacts_hold_ordinary_operators_only(name):
    """onnxruntime's own domains differ from platform to platform."""
    _, artifact = prepared(name)
    for graph in (artifact.training, artifact.inference):
        model = onnx.load_from_string(graph)
        assert {node.domain for node in model.graph.node} == {""}
        assert {entry.domain for entry in model.opset_import} == {""}


class Point:
    """An entry point as importlib.metadata gives it."""

    def __init__(self, group, name, loaded):
        self.group, self.name, self.value, self.dist, self._loaded = group, name, "pkg:thing", None, loaded

    def load(self):
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


def test_plugins_join_the_tables_but_never_replace(monkeypatch):
    monkeypatch.delitem(MODELS, "mine", raising=False)
    try:
        assert load_plugins([Point("edgerig.models", "mine", build_model)]) == ["edgerig.models:mine"]
        assert MODELS["mine"] is build_model
        assert load_plugins([Point("console_scripts", "x", None)]) == []
        with pytest.raises(PluginError, match="has that name already"):
            load_plugins([Point("edgerig.models", "cnn", build_model)])
        with pytest.raises(PluginError, match="does not load: gone"):
            load_plugins([Point("edgerig.partitions", "p", ImportError("gone"))])
    finally:
        MODELS.pop("mine", None)
