"""A prepared run: every file where its reader expects it, owned by who reads it, and kept on a second call."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from compose_plans import QUICKSTART, plan_of

from compose.prepare import prepare
from learning.allotment import partition_of
from learning.artifact import TrainingArtifact
from learning.datasets import DatasetError, load
from learning.shard import open_shard
from topology.allotment import TABLE_NAME, read_table
from topology.plan import AgentConfig, Plan, load_plan

ROOT = os.geteuid() == 0


def prepared(root: Path, **options: object) -> Plan:
    plan = plan_of(uid=None if ROOT else os.geteuid())
    prepare(plan, root, **options)  # type: ignore[arg-type]
    return plan


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    root = tmp_path_factory.mktemp("run")
    return prepared(root), root


def config_of(root: Path, name: str) -> AgentConfig:
    text = (root / "private" / name / "agent.yaml").read_bytes()
    return msgspec.convert(yaml.safe_load(text), AgentConfig)


def test_the_plan_is_readable_by_all(run: tuple[Plan, Path]) -> None:
    plan, root = run
    assert load_plan(root / "plan.json") == plan
    assert stat.S_IMODE((root / "plan.json").stat().st_mode) == 0o644


def test_an_agent_finds_everything_from_its_own_file(run: tuple[Plan, Path]) -> None:
    plan, root = run
    for device in plan.devices:
        folder, config = root / "private" / device.name, config_of(root, device.name)
        assert (config.agent, config.username, config.run) == (device.name, device.name, plan.run)
        assert (config.broker_host, config.broker_port, config.mqtt_version) == ("broker", 8883, 5)
        assert len((folder / config.password_file).read_text()) >= 43
        assert (folder / str(config.ca_file)).read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")
        assert (folder / config.shard).resolve() == (root / "shards" / device.name).resolve()
        assert (folder / config.state).resolve() == (root / "nodes" / device.name).resolve()
        assert (folder / config.gate).resolve() == (root / "gate" / device.name).resolve()
        assert config.uplink_bit_s == device.link.up.rate_bit_s
        assert config.gate_wait_s > plan.start_timeout_s


def test_shards_are_disjoint_and_each_agent_has_its_own(run: tuple[Plan, Path]) -> None:
    plan, root = run
    dataset = load("mnist-mini")
    chosen = partition_of(plan, dataset).devices
    assert len(set(np.concatenate(chosen).tolist())) == 1500
    for device, indices in zip(plan.devices, chosen, strict=True):
        shard = open_shard(root / "shards" / device.name)
        assert len(shard) == plan.data.samples_per_device
        assert np.array_equal(shard.x, dataset.train_x[indices])
    assert len(open_shard(root / "shards" / "test")) == len(dataset.test_y)


def test_the_table_says_what_every_device_got(run: tuple[Plan, Path]) -> None:
    plan, root = run
    table = read_table(root / "model" / TABLE_NAME)
    assert table is not None
    for device, share in zip(plan.devices, table.shares, strict=True):
        labels = open_shard(root / "shards" / device.name).y
        assert (share.device, share.samples) == (device.name, len(labels))
        assert list(share.classes) == np.bincount(labels, minlength=10).tolist()
    assert table.samples_max == plan.data.samples_per_device
    assert all(device.name in "\n".join(table.lines()) for device in plan.devices)


def test_the_model_is_an_artifact_and_its_parameters(run: tuple[Plan, Path]) -> None:
    plan, root = run
    artifact = TrainingArtifact.from_bytes((root / "model" / "artifact.bin").read_bytes())
    initial = np.load(root / "model" / "initial.npy", allow_pickle=False)
    assert (artifact.model, artifact.batch_size) == ("mlp", plan.training.batch_size)
    assert initial.shape == (artifact.size,)
    assert initial.dtype == np.float32


@pytest.mark.skipif(not ROOT, reason="only root can give files to the containers' uids")
def test_everybody_owns_what_is_theirs_and_nothing_else(run: tuple[Plan, Path]) -> None:
    plan, root = run
    owners = {"broker": plan.broker_uid, "coordinator": plan.coordinator_uid}
    owners |= {device.name: device.uid for device in plan.devices}
    for name, uid in owners.items():
        folder = root / "private" / name
        assert folder.stat().st_uid == uid
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for file in folder.iterdir():
            assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (uid, 0o400)
    for device in plan.devices:
        shard = root / "shards" / device.name
        assert {path.stat().st_uid for path in (shard, *shard.iterdir())} == {device.uid}
        assert stat.S_IMODE(shard.stat().st_mode) == 0o700
        assert (root / "nodes" / device.name).stat().st_uid == device.uid


def test_no_password_is_outside_of_private(run: tuple[Plan, Path]) -> None:
    plan, root = run
    secrets = [
        (root / "private" / name / "password").read_bytes() for name in ("coordinator", plan.devices[0].name)
    ]
    for path in root.rglob("*"):
        if path.is_file() and root / "private" not in path.parents:
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_second_call_changes_nothing_and_another_plan_changes_the_secrets(tmp_path: Path) -> None:
    plan = prepared(tmp_path)
    (tmp_path / "nodes" / "coordinator" / "journal").write_text("kept")
    before = contents(tmp_path)
    prepare(plan, tmp_path)
    assert contents(tmp_path) == before
    prepare(plan_of(run="test-2", uid=None if ROOT else os.geteuid()), tmp_path)
    after = contents(tmp_path)
    assert after["private/coordinator/password"] != before["private/coordinator/password"]
    assert after["nodes/coordinator/journal"] == b"kept"


def test_a_half_made_folder_is_made_again(tmp_path: Path) -> None:
    plan = prepared(tmp_path)
    (tmp_path / "private" / ".made-for").unlink()
    (tmp_path / "private" / "coordinator" / "password").unlink()
    prepare(plan, tmp_path)
    assert (tmp_path / "private" / "coordinator" / "password").exists()


def test_the_same_seed_gives_the_same_shards_and_model(tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepared(tmp_path / name)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    same = [path for path in first if path.startswith(("shards/", "model/", "plan.json"))]
    assert len(same) >= 10
    assert all(first[path] == second[path] for path in same)


def test_the_process_runtime_has_ports_of_its_own_and_no_gate(tmp_path: Path) -> None:
    plan = plan_of(runtime="process", uid=os.geteuid())
    relays = {device.name: 40_001 + device.index for device in plan.devices}
    prepare(plan, tmp_path, broker_port=40_000, agent_ports=relays)
    for device in plan.devices:
        config = config_of(tmp_path, device.name)
        assert (config.broker_host, config.broker_port, config.gate) == ("127.0.0.1", relays[device.name], "")
    conf = (tmp_path / "private" / "broker" / "mosquitto.conf").read_text()
    assert "listener 40000 127.0.0.1" in conf
    assert f"password_file {tmp_path}/private/broker/passwd" in conf


def test_without_relays_agents_go_to_the_broker(tmp_path: Path) -> None:
    plan = plan_of(runtime="process", uid=os.geteuid())
    prepare(plan, tmp_path, broker_port=40_000)
    assert {config_of(tmp_path, device.name).broker_port for device in plan.devices} == {40_000}


def test_a_missing_data_folder_is_named(tmp_path: Path) -> None:
    text = QUICKSTART.read_text().replace("dataset: mnist-mini", "dataset: mnist")
    (tmp_path / "full.yaml").write_text(text)
    plan = plan_of(tmp_path / "full.yaml", uid=None if ROOT else os.geteuid())
    with pytest.raises(DatasetError, match="absent"):
        prepare(plan, tmp_path / "run", data_dir=tmp_path / "absent")
    assert not (tmp_path / "run" / "shards").exists()
