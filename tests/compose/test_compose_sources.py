"""A model and data beside the topology, in a compose file that plain `docker compose up` accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from compose_plans import REPOSITORY, plan_of

from compose.generate import compose_file
from compose.session import keep_sources
from topology.errors import TopologyErrors
from topology.sources import files_of

EXAMPLES = REPOSITORY / "topology" / "examples"


def init_of(file: Path) -> dict[str, object]:
    text = compose_file(plan_of(file), mode="volumes", repo=REPOSITORY, topology=file)
    init: dict[str, object] = yaml.safe_load(text)["services"]["init"]
    return init


def mounts(init: dict[str, object]) -> dict[str, str]:
    return {v["target"]: v["source"] for v in init["volumes"] if v["type"] == "bind"}  # type: ignore[attr-defined]


def test_the_model_lies_beside_the_topology_in_the_init_container() -> None:
    init = init_of(EXAMPLES / "bring-your-own.yaml")
    found = mounts(init)
    assert found["/topology/digits.onnx"] == str(EXAMPLES / "models" / "digits.onnx")
    assert found["/topology/topology.yaml"].endswith("bring-your-own.yaml")
    assert "environment" not in init or "EDGERIG_DATA" not in init["environment"]  # type: ignore[operator]


def test_so_do_data_and_nobody_needs_edgerig_data_for_them() -> None:
    found = mounts(init_of(EXAMPLES / "text.yaml"))
    assert found["/topology/sonnets.txt"] == str(EXAMPLES / "data" / "sonnets.txt")
    assert "/data" not in found
    assert "/data" not in mounts(init_of(EXAMPLES / "sensors.yaml"))


TRACED = """
name: traced
devices:
  there: {profile: raspberry-pi-4, link: ethernet, availability: {kind: trace, file: hours.csv}}
  away:  {profile: raspberry-pi-4, link: {up: {rate: 1 Mbit/s, vary: {trace: {file: bus.up}}}, down: 3 Mbit/s}}
data: {dataset: mnist-mini, samples_per_device: 100}
model: models/digits.onnx
training: {rounds: 1, batch_size: 10, optimizer: {kind: sgd, lr: 0.1}}
faults:
  - when: round 1 training
    link_change: {device: there-1, link: {up: {rate: 1 Mbit/s, vary: {trace: {file: tunnel.up}}}}}
    heal_after: 1 s
"""


@pytest.fixture
def traced(tmp_path: Path) -> Path:
    (tmp_path / "hours.csv").write_text("0,1\n50,0\n")
    for name in ("bus.up", "tunnel.up"):
        (tmp_path / name).write_text("".join(f"{ms}\n" for ms in range(0, 2000, 4)))
    (tmp_path / "models").symlink_to(EXAMPLES / "models")
    file = tmp_path / "traced.yaml"
    file.write_text(TRACED)
    return file


def test_every_trace_lies_beside_the_topology_in_the_init_container(traced: Path) -> None:
    names = {"hours.csv", "bus.up", "tunnel.up", "digits.onnx", "topology.yaml"}
    assert {Path(target).name for target in mounts(init_of(traced))} == names


def test_a_run_can_be_repeated_from_its_folder(traced: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / "topology.yaml").write_bytes(traced.read_bytes())
    keep_sources(plan_of(traced), root)
    for path in (*tmp_path.glob("*.up"), tmp_path / "hours.csv"):
        path.unlink()
    (tmp_path / "models").unlink()
    assert {Path(name).parent for name in files_of(plan_of(root / "topology.yaml"))} == {root}


def test_files_of_one_name_are_refused_by_name(traced: Path) -> None:
    (traced.parent / "other").mkdir()
    (traced.parent / "other" / "bus.up").write_bytes((traced.parent / "bus.up").read_bytes())
    traced.write_text(TRACED.replace("tunnel.up", "other/bus.up"))
    with pytest.raises(TopologyErrors, match="different names"):
        init_of(traced)
    root = traced.parent / "run"
    root.mkdir()
    with pytest.raises(TopologyErrors, match=r"need different names; it is .*bus.up and .*other/bus.up"):
        keep_sources(plan_of(traced), root)
    assert list(root.iterdir()) == []


def test_no_file_of_a_topology_replaces_one_of_the_runs_own(traced: Path) -> None:
    (traced.parent / "plan.json").write_bytes((traced.parent / "bus.up").read_bytes())
    traced.write_text(TRACED.replace("tunnel.up", "plan.json"))
    root = traced.parent / "run"
    root.mkdir()
    with pytest.raises(TopologyErrors, match=r"plan.json"):
        keep_sources(plan_of(traced), root)
