"""A model and data beside the topology, in a compose file that plain `docker compose up` accepts."""

from __future__ import annotations

from pathlib import Path

import yaml
from compose_plans import REPOSITORY, plan_of

from compose.generate import compose_file

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
