"""Everything a run needs before it starts: plan, credentials, shards, training graph, initial model, folders.

Done by `edgerig run` on the host, by the init service of a compose file, and for the process runtime.
Idempotent: what belongs to the same plan is kept, so that a second `docker compose up` does not take the
credentials of running services away.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import yaml

from compose.broker_config import mosquitto_conf
from compose.credentials import RunCredentials, give, make_credentials, write_private
from compose.learned import Learned
from compose.process_runtime import ProcessRuntime
from learning import allotment
from learning.datasets.base import Dataset
from learning.making import require_batches, source_files
from topology.allotment import TABLE_NAME, write_table
from topology.plan import AgentConfig, DevicePlan, Plan, dump_plan
from topology.plan.agent import HOOK_NAME
from topology.plan.faults import BEHAVIOURS
from wire.topics import COORDINATOR

CONTAINER_ROOT = "/run/edgerig"
MARK = ".made-for"  # holds the plan's digest; written last, so that a half-made folder is made again
# hostd may wait for the last container for the whole start timeout, and measures after that: it gives up first.
GATE_WAIT_FACTOR = 2.0
UNSHAPED_BIT_S = 100_000_000  # what an agent assumes of a link without a rate: bytes in flight stay bounded
BROKER_NAMES = ["broker", "localhost"]


def prepare(
    plan: Plan,
    root: Path,
    *,
    data_dir: Path | None = None,
    broker_port: int | None = None,
    agent_ports: Mapping[str, int] | None = None,
) -> None:
    """Fill `root` for the plan.

    `data_dir`: where data sets are that do not ship (EDGERIG_DATA). `broker_port`: where the broker listens
    instead of the plan's port, and `agent_ports`: which port each agent connects to (its relay); both for the
    process runtime. Raises what `edgerig.cli` turns into exit code 2 (learning.shard.DatasetError,
    learning.partition.PartitionError, learning.making.BindingError, AutodiffError, PluginError), and OSError
    (a full disk, a missing permission).
    """
    root.mkdir(parents=True, exist_ok=True)
    content = dump_plan(plan)
    digest = hashlib.sha256(content).hexdigest()
    port = broker_port or plan.network.broker_port
    ports = {device.name: (agent_ports or {}).get(device.name, port) for device in plan.devices}

    _once(root / "private", digest, lambda folder: _write_private(plan, root, folder, port, ports))
    learned = Learned(plan, data_dir)
    made_from = hashlib.sha256((digest + _fingerprint(plan)).encode()).hexdigest()
    _once(root / "shards", made_from, lambda folder: _write_shards(plan, folder, learned.dataset))
    _once(root / "model", made_from, lambda folder: _write_model(folder, learned))
    _make_node_folders(plan, root)
    _replace(root / "plan.json", content)


def _once(folder: Path, digest: str, make: Callable[[Path], None]) -> None:
    """Make a folder unless it is there for the same plan; it appears whole or not at all."""
    mark = folder / MARK
    if mark.is_file() and mark.read_text() == digest:
        return
    draft = draft_of(folder)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o755)
    make(draft)
    (draft / MARK).write_text(digest)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def draft_of(path: Path) -> Path:
    """Where a file or folder is made before it takes its name."""
    return path.with_name(f".{path.name}.new")


def _replace(path: Path, content: bytes) -> None:
    draft = draft_of(path)
    draft.write_bytes(content)
    draft.chmod(0o644)
    draft.rename(path)


# --- credentials --------------------------------------------------------------------------------------------


def _write_private(plan: Plan, root: Path, folder: Path, port: int, ports: Mapping[str, int]) -> None:
    addresses = ["127.0.0.1", *([plan.network.broker_address] if plan.network.broker_address else [])]
    made = make_credentials(plan.run, list(ports), BROKER_NAMES, addresses)
    conf = _broker_conf(plan, root, port)
    write_private(folder / "broker", {**made.broker, "mosquitto.conf": conf.encode()}, plan.broker_uid)
    write_private(folder / COORDINATOR, _client_files(made, COORDINATOR), plan.coordinator_uid)
    for device in plan.devices:
        config = agent_config(plan, device, ports[device.name])
        files = {**_client_files(made, device.name), "agent.yaml": _yaml(config)}
        write_private(folder / device.name, files, device.uid)


def _client_files(made: RunCredentials, client: str) -> dict[str, bytes]:
    return {"password": made.passwords[client].encode(), "ca.crt": made.ca}


def _broker_conf(plan: Plan, root: Path, port: int) -> str:
    if plan.runtime == "docker":
        return mosquitto_conf(f"{CONTAINER_ROOT}/private/broker", port=port)
    # Started as root it would become the user `mosquitto`, who may not read the folder.
    user = "root" if plan.broker_uid == 0 else ""
    return mosquitto_conf(f"{root}/private/broker", port=port, bind="127.0.0.1", user=user)


def agent_config(plan: Plan, device: DevicePlan, port: int) -> AgentConfig:
    """What one device is told. Paths are relative to `private/<agent>/`: a run's folder can be anywhere."""
    docker = plan.runtime == "docker"
    version: Literal[4, 5] = 5 if docker or ProcessRuntime.mqtt_version() == 5 else 4
    return AgentConfig(
        run=plan.run,
        agent=device.name,
        broker_host=plan.network.broker_host,
        broker_port=port,
        username=device.name,
        password_file="password",
        ca_file="ca.crt",
        mqtt_version=version,
        shard=f"../../shards/{device.name}",
        state=f"../../nodes/{device.name}",
        gate=f"../../gate/{device.name}" if docker else "",
        hook=f"../../nodes/{device.name}/{HOOK_NAME}" if device.name in hooked(plan) else "",
        power=f"../../gate/{device.name}.power" if docker and device.battery is not None else "",
        gate_wait_s=GATE_WAIT_FACTOR * plan.start_timeout_s,
        threads=device.threads,
        uplink_bit_s=device.link.up.rate_bit_s or UNSHAPED_BIT_S,
        downlink_bit_s=device.link.down.rate_bit_s or UNSHAPED_BIT_S,
        rtt_s=device.link.up.delay_s + device.link.down.delay_s,
        congestion=plan.network.congestion,
    )


def hooked(plan: Plan) -> list[str]:
    """Devices that a fault of the plan tells to do wrong; nobody else has a hook."""
    kinds = [fault for fault in plan.faults if fault.kind in BEHAVIOURS]
    return sorted({target for fault in kinds for target in fault.targets})


def _yaml(config: AgentConfig) -> bytes:
    return yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False).encode()


# --- data and model -----------------------------------------------------------------------------------------


def _fingerprint(plan: Plan) -> str:
    """Of the files that model and data come from."""
    stats = [(path.name, path.stat()) for path in source_files(plan)]
    return repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _write_shards(plan: Plan, folder: Path, dataset: Dataset) -> None:
    table = allotment.write(plan, dataset, folder)
    require_batches(plan, {share.device: share.samples for share in table.shares})
    write_table(table, folder / TABLE_NAME)
    owners = {**{device.name: device.uid for device in plan.devices}, "test": plan.coordinator_uid}
    for name, uid in owners.items():
        _keep_private(folder / name, uid)


def _keep_private(folder: Path, uid: int) -> None:
    """Readable by its owner alone: one volume holds everybody's data."""
    for path in folder.iterdir():
        path.chmod(0o400)
        give(path, uid)
    folder.chmod(0o700)
    give(folder, uid)


def _write_model(folder: Path, learned: Learned) -> None:
    (folder / "artifact.bin").write_bytes(learned.artifact.to_bytes())
    np.save(folder / "initial.npy", learned.initial)
    # A copy for the coordinator, which sees no shard but the global test data.
    shutil.copyfile(folder.parent / "shards" / TABLE_NAME, folder / TABLE_NAME)


# --- folders that services write ----------------------------------------------------------------------------


def _make_node_folders(plan: Plan, root: Path) -> None:
    """Each service owns its own folder; everybody may read, since the history is no secret."""
    owners = {device.name: device.uid for device in plan.devices}
    owners[COORDINATOR] = plan.coordinator_uid
    (root / "nodes").mkdir(exist_ok=True)
    for name, uid in owners.items():
        folder = root / "nodes" / name
        if not folder.exists():
            folder.mkdir()
            give(folder, uid)
    for name in hooked(plan):
        hook = root / "nodes" / name / HOOK_NAME
        hook.write_bytes(b"{}")
        hook.chmod(0o600)
        give(hook, owners[name])
    for shared in (root / "nodes" / "hostd", root / "nodes" / "runner", root / "gate"):
        shared.mkdir(exist_ok=True)
