"""Model, data and devices against each other: what cannot work is refused before any device starts, exit code 2."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compose.learned import Learned, preflight
from edgerig import cli
from learning.making import BindingError
from learning.partition import PartitionError
from topology.compile import compile_topology
from topology.errors import TopologyErrors
from topology.plan import Plan
from topology.validate import load_topology

FIXTURES = Path(__file__).parents[1] / "learning" / "fixtures"
TOPOLOGY = """
name: learned
seed: 3
devices: {{pi: {{profile: raspberry-pi-4, count: 3, link: home-wifi{device}}}}}
data: {data}
model: {model}
training: {{rounds: 1, batch_size: 8{training}}}
"""
MINI = "{dataset: mnist-mini, samples_per_device: 100}"


def write(folder: Path, model: str = "mlp", data: str = MINI, training: str = "", device: str = "") -> Path:
    path = folder / "t.yaml"
    path.write_text(TOPOLOGY.format(model=model, data=data, training=training, device=device))
    return path


def plan_of(path: Path) -> Plan:
    return compile_topology(load_topology(path).topology, "learned-1")


def tiny(
    *nodes: onnx.NodeProto, weight: np.ndarray | None = None, dims: tuple[object, ...] = (784,)
) -> onnx.ModelProto:
    """x [batch, *dims] through the nodes to z; `w` is [784, 10]."""
    w = np.zeros((784, 10), np.float32) + 0.01 if weight is None else weight
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *dims])],
        [
            helper.make_tensor_value_info(
                "z", TensorProto.FLOAT, ["n", *(f"a{i}" for i in range(len(dims) - 1)), 10]
            )
        ],
        initializer=[numpy_helper.from_array(w, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


MATMUL = helper.make_node("MatMul", ["x", "w"], ["z"])


def test_a_model_beside_the_topology_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    onnx.save(tiny(MATMUL), str(tmp_path / "models" / "tiny.onnx"))
    path = write(tmp_path, model="models/tiny.onnx")
    monkeypatch.chdir("/")
    plan = plan_of(path)
    assert plan.model == "tiny"
    assert Learned(plan, None).artifact.size == 7840


def test_a_copy_beside_a_copied_topology_will_do(tmp_path: Path) -> None:
    """A run's folder and the init container of a compose file keep it there."""
    onnx.save(tiny(MATMUL), str(tmp_path / "tiny.onnx"))
    assert plan_of(write(tmp_path, model="../elsewhere/tiny.onnx")).graph.source == str(
        tmp_path / "tiny.onnx"
    )


def test_a_missing_file_is_an_error_of_the_topology(tmp_path: Path) -> None:
    with pytest.raises(TopologyErrors, match=r"line 6: model = .*there is no .*none.onnx.*relative to"):
        load_topology(write(tmp_path, model="none.onnx"))
    with pytest.raises(TopologyErrors, match=r"data.dataset.*there is no .*nowhere"):
        load_topology(write(tmp_path, data="{dataset: ./nowhere}"))


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("operator", r"Mod.*odd|odd.*Mod"),
        ("nan", r"parameter 'w' holds NaN"),
        ("truncated", r"bad.onnx is no valid ONNX model .*truncated"),
        ("unbound", r"dimension 'length' .* is dynamic: bind it"),
        ("shape", r"samples of shape \[28, 28\] do not fit the input \[700\]"),
        ("control flow", r"control flow \(If\)"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_with_node_and_remedy(
    tmp_path: Path, case: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.onnx"
    if case == "operator":
        mod = helper.make_node("Mod", ["y", "y"], ["z"], name="odd", fmod=1)
        onnx.save(tiny(helper.make_node("MatMul", ["x", "w"], ["y"]), mod), str(path))
    elif case == "nan":
        onnx.save(tiny(MATMUL, weight=np.full((784, 10), np.nan, np.float32)), str(path))
    elif case == "truncated":
        content = tiny(MATMUL).SerializeToString()
        path.write_bytes(content[: len(content) // 2])
    elif case == "unbound":
        onnx.save(tiny(MATMUL, dims=(1, "length", 784)), str(path))
    elif case == "shape":
        onnx.save(tiny(MATMUL, weight=np.ones((700, 10), np.float32), dims=(700,)), str(path))
    else:
        branch = helper.make_graph(
            [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(1)))],
            "branch",
            [],
            [helper.make_tensor_value_info("c", TensorProto.FLOAT, [])],
        )
        flag = helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(np.array(True)))
        onnx.save(
            tiny(flag, helper.make_node("If", ["b"], ["q"], then_branch=branch, else_branch=branch), MATMUL),
            str(path),
        )
    file = write(tmp_path, model="bad.onnx")
    monkeypatch.setattr(sys, "argv", ["edgerig", "validate", "--no-host", str(file)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert re.search(said, capsys.readouterr().err)


def test_a_step_larger_than_a_device_names_both(tmp_path: Path) -> None:
    with pytest.raises(BindingError, match=r"about \d+ MB; pi has 67 MB: a smaller batch"):
        preflight(plan_of(write(tmp_path, model="cnn", device=", memory: 64 MiB")), None)


def test_labels_that_the_loss_cannot_use_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = np.random.default_rng(1)
    x, y = rng.random((90, 784), np.float32), rng.random(90, np.float32)
    for part in ("train", "test"):
        np.savez(folder / f"{part}.npz", x=x, y=y)
    with pytest.raises(BindingError, match="wants classes: use mean_squared_error"):
        preflight(plan_of(write(tmp_path, data="{dataset: ./mine}")), None)
    many = "{source: mlp, loss: mean_squared_error}"
    with pytest.raises(BindingError, match=r"1 numbers per label, loss mean_squared_error compares 10"):
        preflight(plan_of(write(tmp_path, data="{dataset: ./mine}", model=many)), None)
    for part in ("train", "test"):
        np.savez(folder / f"{part}.npz", x=x, y=np.full(90, 11))
    with pytest.raises(BindingError, match="labels from 11 to 11, the model mlp has 10 outputs"):
        preflight(plan_of(write(tmp_path, data="{dataset: ./mine}")), None)


def test_a_folder_of_floats_is_fed_as_floats_and_bytes_as_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    x = np.random.default_rng(1).random((90, 784), np.float32)
    for part in ("train", "test"):
        np.savez(folder / f"{part}.npz", x=x, y=np.arange(90) % 10, user=np.arange(90) % 3)
    data = "{dataset: ./mine, partition: {kind: natural}}"
    fed = Learned(plan_of(write(tmp_path, data=data)), None)
    assert (fed.artifact.input.dtype, fed.artifact.input.scale) == ("float32", 1.0)
    assert Learned(plan_of(write(tmp_path)), None).artifact.input.dtype == "uint8"
    scaled = "{source: mlp, input: {dtype: uint8, scale: 0.5, offset: -1}}"
    assert Learned(plan_of(write(tmp_path, model=scaled)), None).artifact.input.offset == -1


def test_classes_become_targets_of_a_loss_of_numbers(tmp_path: Path) -> None:
    learned = Learned(plan_of(write(tmp_path, model="{source: mlp, loss: binary_cross_entropy}")), None)
    assert learned.dataset.train_y.shape == (10_000, 10)
    assert learned.dataset.train_y.sum(axis=1).tolist() == [1.0] * 10_000


def test_what_is_not_in_a_model_cannot_be_switched_on(tmp_path: Path) -> None:
    with pytest.raises(BindingError, match="no BatchNormalization in it: exporters fold it"):
        preflight(plan_of(write(tmp_path, model="{source: mlp, batch_norm: train}")), None)
    with pytest.raises(BindingError, match="no Dropout in it"):
        preflight(plan_of(write(tmp_path, model="{source: mlp, dropout: true}")), None)


def test_a_partition_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartitionError, match="does not say who its samples are from"):
        preflight(plan_of(write(tmp_path, data="{dataset: mnist-mini, partition: {kind: natural}}")), None)
    few = "{dataset: mnist-mini, samples_per_device: 9, partition: {kind: quantity, exponent: 3}}"
    with pytest.raises(BindingError, match=r"last_batch: drop leaves out every sample .*pi-\d has"):
        preflight(plan_of(write(tmp_path, data=few, training=", last_batch: drop")), None)


def test_a_trainable_subset_is_all_that_travels(tmp_path: Path) -> None:
    learned = Learned(plan_of(write(tmp_path, model="{source: mlp, trainable: ['fc3*']}")), None)
    assert [spec.name for spec in learned.artifact.parameters] == ["fc3.weight", "fc3.bias"]


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards", "quantity", "feature-drift"])
def test_every_partition_reaches_the_disk(tmp_path: Path, kind: str) -> None:
    from learning import allotment
    from learning.shard import TEST_NAMES, open_shard

    data = f"{{dataset: mnist-mini, samples_per_device: 40, local_test: 0.25, partition: {{kind: {kind}}}}}"
    plan = plan_of(write(tmp_path, data=data))
    dataset = allotment.load_dataset(plan.data, None)
    table = allotment.write(plan, dataset, tmp_path / "shards")
    for share in table.shares:
        own = open_shard(tmp_path / "shards" / share.device)
        held = open_shard(tmp_path / "shards" / share.device, TEST_NAMES)
        assert (len(own), len(held)) == (share.samples, share.test_samples)
        assert sum(share.classes) == share.samples
    assert sum(share.samples + share.test_samples for share in table.shares) == 120
    pixels = {float(open_shard(tmp_path / "shards" / f"pi-{i}").x.mean()) for i in (1, 2, 3)}
    if kind == "feature-drift":
        parts = allotment.divide(plan, dataset).train.devices
        means = [float(dataset.train_x[part].mean()) for part in parts]
        assert not pixels & set(means)  # nobody sees the pixels as they are


def test_redraws_and_repairs_are_said(tmp_path: Path) -> None:
    data = "{dataset: mnist-mini, samples_per_device: 12, partition: {kind: dirichlet, sizes: free, alpha: 0.01}}"
    notes = preflight(plan_of(write(tmp_path, data=data)), None)
    assert "drawn" in notes[0] or "samples were moved" in notes[0]
