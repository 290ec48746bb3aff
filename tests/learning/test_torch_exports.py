"""Ten models exported by PyTorch train to PyTorch's own loss curve: 50 steps within 1e-3.

The files and the curves were made by scripts/make_torch_fixtures.py; PyTorch is not needed for the curves. Where it is
installed, the gradients of every file are compared with its autograd.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from learning.artifact import InputSpec, TrainingArtifact
from learning.autodiff import build_training_graph, initial_parameters
from learning.optimizers import Sgd
from learning.prepare import check
from learning.session import StepSession

FIXTURES = Path(__file__).parent / "fixtures"
BATCH, LR, MOMENTUM = 8, 0.02, 0.9
NAMES = sorted(path.stem for path in FIXTURES.glob("*.onnx"))


def test_there_are_ten():
    assert len(NAMES) == 10


def loaded(name):
    """The model, its data, and the artifact that trains it."""
    model = onnx.load(str(FIXTURES / f"{name}.onnx"))
    data = np.load(FIXTURES / f"{name}.npz")
    feed = "int64" if data["x"].dtype.kind == "i" else "float32"
    artifact = build_training_graph(
        model,
        batch_size=BATCH,
        loss="softmax_cross_entropy" if data["y"].dtype.kind == "i" else "mean_squared_error",
        scaling=InputSpec(dtype=feed, scale=1.0),
    )
    return model, data, TrainingArtifact.from_bytes(artifact.to_bytes())


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_pytorchs(name):
    model, _, artifact = loaded(name)
    result = check(model, artifact)
    assert result.loss == pytest.approx(result.torch_loss, rel=1e-5)
    assert result.worst < 1e-4, result.errors


@pytest.mark.parametrize("name", NAMES)
def test_loss_curve_is_pytorchs(name):
    model, data, artifact = loaded(name)
    params = initial_parameters(model, artifact)
    grad = np.empty_like(params)
    session, optimizer = StepSession(artifact, params, grad), Sgd(params.size, MOMENTUM)
    got = []
    for step in range(50):
        start = step * BATCH % len(data["x"])
        session.x[...] = data["x"][start : start + BATCH]
        session.labels[...] = data["y"][start : start + BATCH].reshape(session.labels.shape)
        got.append(session.run() / BATCH)
        optimizer.step(params, grad, LR)
    np.testing.assert_allclose(got, data["losses"], atol=1e-3)
