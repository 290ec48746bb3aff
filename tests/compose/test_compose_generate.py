"""The compose file: limits, rights and networks of every service, the same text for the same plan, no secret
in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from compose_plans import QUICKSTART, REPOSITORY, plan_of

from compose import engine
from compose.generate import compose_file
from compose.generated import generated_files
from topology.plan import Plan

PLAN = plan_of(QUICKSTART, run="q-1")
AGENTS = [device.name for device in PLAN.devices]


def bind(plan: Plan = PLAN) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(compose_file(plan, mode="bind", root="/runs/q-1", repo="/repo"))
    return document


def volumes(plan: Plan = PLAN) -> dict[str, Any]:
    text = compose_file(plan, mode="volumes", repo="../..", topology="../fleet.yaml")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


@pytest.mark.parametrize("path", sorted(generated_files()))
def test_generated_files_are_fresh(path: str) -> None:
    assert (REPOSITORY / path).read_bytes() == generated_files()[path], "run `edgerig generated`"


def test_same_plan_same_text() -> None:
    assert compose_file(PLAN, mode="bind", root="/r", repo="/x") == compose_file(
        PLAN, mode="bind", root="/r", repo="/x"
    )


@pytest.mark.parametrize("document", [bind(), volumes()], ids=["bind", "volumes"])
def test_every_service_is_limited_labelled_and_without_rights(document: dict[str, Any]) -> None:
    for name, service in document["services"].items():
        assert service["labels"][engine.LABEL_RUN] == "q-1", name
        assert service["labels"][engine.LABEL_NODE] == name
        assert service["labels"][engine.LABEL_ROLE] == ("agent" if name in AGENTS else name)
        assert service["init"] is True
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "privileged" not in service
        assert service["mem_limit"] == service["memswap_limit"] > 0
        assert 0 < service["pids_limit"] <= 256
        assert service["logging"]["options"]["max-size"]
        assert "ports" not in service
    for network in document["networks"].values():
        assert network["labels"][engine.LABEL_RUN] == "q-1"
        assert network["internal"] is True
    for volume in document.get("volumes", {}).values():
        assert volume["labels"][engine.LABEL_RUN] == "q-1"


@pytest.mark.parametrize("document", [bind(), volumes()], ids=["bind", "volumes"])
def test_rights_and_the_socket_are_hostds_alone(document: dict[str, Any]) -> None:
    for name, service in document["services"].items():
        sockets = [v for v in service["volumes"] if "docker.sock" in str(v)]
        assert bool(sockets) == (name == "hostd")
        if name not in ("hostd", "init"):
            assert "cap_add" not in service
        if name not in ("hostd", "init", "report"):
            assert service["user"].split(":")[0] not in ("", "0")
    assert set(document["services"]["hostd"]["cap_add"]) >= {"NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"}


def test_agents_have_their_quota_address_and_network() -> None:
    services = bind()["services"]
    for device in PLAN.devices:
        service = services[device.name]
        assert service["cpus"] == device.cpus
        assert service["mem_limit"] == device.memory_bytes
        assert service["networks"] == {"data": {"ipv4_address": device.address}}
        assert service["user"] == f"{device.uid}:{device.uid}"
        assert service["restart"] == "no"  # a restart policy would hide a kill
    assert set(services["broker"]["networks"]) == {"data", "control"}
    assert services["broker"]["networks"]["data"] == {"ipv4_address": PLAN.network.broker_address}
    assert set(services["coordinator"]["networks"]) == {"control"}
    assert services["coordinator"]["restart"].startswith("on-failure")


@pytest.mark.parametrize("document", [bind(), volumes()], ids=["bind", "volumes"])
def test_what_all_links_share_starts_before_the_devices_and_runs_before_them(
    document: dict[str, Any],
) -> None:
    services = document["services"]
    for agent in AGENTS:
        for name in ("broker", "hostd"):
            assert services[agent]["depends_on"][name] == {"condition": "service_started"}
    assert services["hostd"]["cpu_shares"] > 1_024
    assert all("cpu_shares" not in service for name, service in services.items() if name != "hostd")


def test_another_cpu_period_is_written_as_quota() -> None:
    device = msgspec.structs.replace(PLAN.devices[0], cpu_period_us=20_000)
    service = bind(msgspec.structs.replace(PLAN, devices=(device,)))["services"][device.name]
    assert "cpus" not in service  # Docker refuses both together
    assert (service["cpu_period"], service["cpu_quota"]) == (20_000, 3_000)


def test_bind_mode_gives_a_container_its_own_parts_only() -> None:
    services = bind()["services"]
    for agent in AGENTS:
        sources = {mount["source"] for mount in services[agent]["volumes"]}
        assert sources == {
            f"/runs/q-1/{part}" for part in (f"private/{agent}", f"shards/{agent}", "gate", f"nodes/{agent}")
        }
        writable = [mount["source"] for mount in services[agent]["volumes"] if not mount.get("read_only")]
        assert writable == [f"/runs/q-1/nodes/{agent}"]
    assert "/runs/q-1/private/hostd" not in str(services["hostd"])
    assert "private" not in str([mount["source"] for mount in services["hostd"]["volumes"]])


def test_bind_mode_is_swept_by_its_folder() -> None:
    assert {s["labels"][engine.LABEL_ROOT] for s in bind()["services"].values()} == {"/runs/q-1"}
    assert all(engine.LABEL_ROOT not in s["labels"] for s in volumes()["services"].values())


def test_volume_mode_waits_for_init_and_mounts_secrets_read_only() -> None:
    services = volumes()["services"]
    for name, service in services.items():
        mounts = {mount["target"]: mount for mount in service["volumes"]}
        if name == "init":
            assert "depends_on" not in service
            continue
        assert service["depends_on"]["init"] == {"condition": "service_completed_successfully"}
        assert (set(service["depends_on"]) == {"init"}) == (name not in AGENTS)
        assert mounts["/run/edgerig"]["read_only"] is True
        assert bool(mounts["/run/edgerig/gate"].get("read_only")) == (name != "hostd")


def test_volume_mode_can_be_moved_to_another_subnet() -> None:
    document = volumes()
    (block,) = document["networks"]["data"]["ipam"]["config"]
    assert block == {"subnet": "${EDGERIG_PREFIX:-10.213.0}.0/24", "gateway": "${EDGERIG_PREFIX:-10.213.0}.1"}
    command = document["services"]["init"]["command"]
    assert command[command.index("--subnet") + 1] == "${EDGERIG_PREFIX:-10.213.0}.0/24"


def test_a_data_set_from_outside_is_mounted_into_init_alone(tmp_path: Path) -> None:
    (tmp_path / "full.yaml").write_text(QUICKSTART.read_text().replace("mnist-mini", "mnist"))
    services = volumes(plan_of(tmp_path / "full.yaml"))["services"]
    assert services["init"]["environment"] == {"EDGERIG_DATA": "/data"}
    assert [name for name, service in services.items() if "EDGERIG_DATA" in str(service)] == ["init"]


def test_each_image_is_built_once() -> None:
    for document, expected in ((bind(), 4), (volumes(), 4)):
        services = document["services"].values()
        built = [service["build"]["target"] for service in services if "build" in service]
        assert len(built) == len(set(built)) == expected
        assert all("build" in service or service["pull_policy"] == "never" for service in services)


def test_congestion_control_is_pinned_where_tcp_ends() -> None:
    plan = msgspec.structs.replace(PLAN, network=msgspec.structs.replace(PLAN.network, congestion="reno"))
    services = bind(plan)["services"]
    for name in ("broker", "coordinator", *AGENTS):
        assert services[name]["sysctls"] == {"net.ipv4.tcp_congestion_control": "reno"}
    assert bind()["services"]["broker"]["sysctls"] == {"net.ipv4.tcp_congestion_control": "cubic"}


def test_what_cannot_be_generated_is_refused() -> None:
    with pytest.raises(ValueError, match="docker runtime"):
        compose_file(plan_of(runtime="process", uid=0), mode="bind", root="/r", repo="/x")
    with pytest.raises(ValueError, match="run's folder"):
        compose_file(PLAN, mode="bind", repo="/x")
    with pytest.raises(ValueError, match="topology file"):
        compose_file(PLAN, mode="volumes", repo="/x")
