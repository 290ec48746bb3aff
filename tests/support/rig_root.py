"""A run's folder for a tiny linear model: what `init` would have written, in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

from learning.artifact import InputSpec, LabelSpec, ParameterSpec, TrainingArtifact
from topology.plan import (
    CompressionPlan,
    DataPlan,
    DevicePlan,
    Link,
    PartitionPlan,
    Plan,
    PolicyPlan,
    Shape,
    TrainingPlan,
    UplinkPlan,
    dump_plan,
)
from wire.codecs import uplink_spec

FEATURES, CLASSES = 20, 4
PARAMETERS = FEATURES * CLASSES


def make_plan(agents: int = 3, **changes: Any) -> Plan:
    link = Link(name="lan", up=Shape(rate_bit_s=8_000_000), down=Shape(rate_bit_s=8_000_000))
    devices = tuple(
        DevicePlan(name=f"d-{i}", group="d", index=i, profile="p", cpus=0.1, memory_bytes=1 << 27, link=link)
        for i in range(agents)
    )
    policy = {"cohort": agents, "deadline_s": 20.0, "quorum": 0.6, **changes.pop("policy", {})}
    training = {"rounds": 3, **changes.pop("training", {})}
    return Plan(
        run="run-1",
        name="test",
        seed=1,
        runtime="process",
        topology_sha256="0" * 64,
        devices=devices,
        data=DataPlan(dataset="none", partition=PartitionPlan(), samples_per_device=50),
        model="linear",
        training=TrainingPlan(**training),
        policy=PolicyPlan(**policy),
        compression=CompressionPlan(uplink=UplinkPlan(chain=uplink_spec(0.5, "int8"))),
        **changes,
    )


def linear_inference() -> bytes:
    """x float32[n, 20] times p:w [20, 4] -> output."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])
    w = helper.make_tensor_value_info("p:w", TensorProto.FLOAT, [FEATURES, CLASSES])
    out = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", CLASSES])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "p:w"], ["output"])], "linear", [x, w], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_artifact() -> TrainingArtifact:
    return TrainingArtifact(
        model="linear",
        loss="softmax_cross_entropy",
        batch_size=10,
        input=InputSpec(dtype="float32", shape=(FEATURES,), scale=1.0),
        labels=LabelSpec(),
        parameters=(ParameterSpec(name="w", shape=(FEATURES, CLASSES), kind="weight"),),
        output_shape=(CLASSES,),
        training=b"not needed here",
        inference=linear_inference(),
    )


def make_root(root: Path, plan: Plan, passwords: dict[str, str]) -> Path:
    for folder in ("model", "shards/test", "private/coordinator", "nodes/coordinator"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "plan.json").write_bytes(dump_plan(plan))
    (root / "model" / "artifact.bin").write_bytes(make_artifact().to_bytes())
    np.save(root / "model" / "initial.npy", np.zeros(PARAMETERS, np.float32))
    rng = np.random.default_rng(0)
    np.save(root / "shards" / "test" / "x.npy", rng.standard_normal((40, FEATURES)).astype(np.float32))
    np.save(root / "shards" / "test" / "y.npy", rng.integers(0, CLASSES, 40))
    (root / "private" / "coordinator" / "password").write_text(passwords["coordinator"])
    return root


def read_history(path: Path) -> list[dict[str, Any]]:
    """All lines of one producer; a line cut short by a kill is left out."""
    events = []
    for line in path.read_bytes().splitlines():
        try:
            record = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            continue
        events.append(record | record.get("fields", {}))
    return events
