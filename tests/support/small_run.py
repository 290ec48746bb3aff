"""A run's folder with a model that really trains: linear, three devices of some samples each, within milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.rig_root import make_plan

from learning.artifact import InputSpec
from learning.autodiff import build_training_graph, initial_parameters
from topology.plan import Plan, dump_plan
from topology.plan.learning import OptimizerPlan

FEATURES, CLASSES, BATCH = 6, 3, 10


def linear() -> onnx.ModelProto:
    weight = np.zeros((FEATURES, CLASSES), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", CLASSES])],
        initializer=[numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def small_plan(devices: int = 3, rounds: int = 4, batch: int = BATCH, **optimizer: Any) -> Plan:
    training = {"rounds": rounds, "batch_size": batch, "optimizer": OptimizerPlan(**{"lr": 0.2, **optimizer})}
    return make_plan(devices, training=training)


def make_small_run(
    root: Path, plan: Plan, samples: tuple[int, ...] = (20, 30, 40), own_test: int = 0
) -> Path:
    """Clusters that a line can tell apart; every device sees mostly one class."""
    model = linear()
    artifact = build_training_graph(
        model, batch_size=plan.training.batch_size, scaling=InputSpec(dtype="float32", scale=1.0)
    )
    (root / "model").mkdir(parents=True)
    (root / "plan.json").write_bytes(dump_plan(plan))
    (root / "model" / "artifact.bin").write_bytes(artifact.to_bytes())
    np.save(root / "model" / "initial.npy", initial_parameters(model, artifact))
    rng = np.random.default_rng(5)
    centres = 2.0 * rng.standard_normal((CLASSES, FEATURES))

    def save(folder: Path, names: tuple[str, str], y: np.ndarray) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        x = centres[y] + rng.standard_normal((len(y), FEATURES))
        np.save(folder / names[0], x.astype(np.float32))
        np.save(folder / names[1], y)

    for number, device in enumerate(plan.devices):
        many = samples[number % len(samples)]
        common = rng.integers(0, CLASSES, many)
        y = np.where(rng.random(many) < 0.7, number % CLASSES, common)
        save(root / "shards" / device.name, ("x.npy", "y.npy"), y)
        if own_test:
            save(root / "shards" / device.name, ("x_test.npy", "y_test.npy"), y[:own_test])
    save(root / "shards" / "test", ("x.npy", "y.npy"), rng.integers(0, CLASSES, 60))
    return root
