"""What hostd sees of the engine, from the engine's own words."""

from __future__ import annotations

from typing import Any

import docker
import pytest

from emulation.docker_host import LABEL_NODE, LABEL_ROLE, Container, DockerHost, quota_options

RUNNING = {
    "Id": "b" * 64,
    "Name": "/r-1-broker",
    "State": {"Status": "running", "Pid": 12, "StartedAt": "2026-01-01T00:00:00Z", "ExitCode": 0},
    "Config": {"Labels": {LABEL_NODE: "broker", LABEL_ROLE: "broker"}},
    "HostConfig": {"NanoCpus": 500_000_000, "Memory": 1 << 26},
}


class Engine:
    """Lists two containers of the run and notes which it is asked to inspect."""

    def __init__(self) -> None:
        self.inspected: list[str] = []
        self.api = self

    def version(self) -> dict[str, Any]:
        return {"Version": "20.10"}

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        labels = {LABEL_NODE: "d-1", LABEL_ROLE: "agent"}
        return [
            {"Id": "a" * 64, "Names": ["/r-1-d-1"], "State": "created", "Labels": labels},
            {"Id": "b" * 64, "Names": ["/r-1-broker"], "State": "running", "Labels": {}},
        ]

    def inspect_container(self, identity: str) -> dict[str, Any]:
        self.inspected.append(identity)
        return RUNNING


def test_a_container_that_waits_for_its_start_is_not_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine would answer only when the start it is busy with is over, and everybody behind would wait."""
    engine = Engine()
    monkeypatch.setattr(docker, "from_env", lambda **_: engine)
    found = DockerHost("r-1").containers()
    assert engine.inspected == ["b" * 64]
    assert found["d-1"] == Container("a" * 64, "d-1", "agent", "created", 0, "", 0, 0, 0)
    assert not found["d-1"].running
    assert found["broker"].running
    assert found["broker"].nano_cpus == 500_000_000


def inspected(**host: Any) -> Container:
    state = {"Status": "running", "Pid": 7, "StartedAt": "t0"}
    return Container.of({"Id": "x", "Name": "/x", "State": state, "Config": {}, "HostConfig": host})


@pytest.mark.parametrize(
    ("host", "options"),
    [
        ({"NanoCpus": 200_000_000}, {"NanoCpus": 100_000_000}),
        ({"CpuQuota": 4_000, "CpuPeriod": 20_000}, {"CpuQuota": 2_000, "CpuPeriod": 20_000}),
        ({}, {"CpuQuota": 2_000, "CpuPeriod": 20_000}),
    ],
)
def test_a_quota_is_changed_in_the_form_it_was_given_in(
    host: dict[str, int], options: dict[str, int]
) -> None:
    """The daemon refuses the other one, so a device with a period of its own could not be slowed down."""
    found = inspected(**host)
    assert found.nano_cpus == (200_000_000 if host else 0)
    assert quota_options(found, 0.1, 20_000) == options
