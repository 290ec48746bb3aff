"""Files of this package that are made from its code, committed, and checked to be fresh."""

from __future__ import annotations

from importlib import resources

from compose.generate import compose_file
from topology.compile import compile_topology
from topology.validate import parse_topology

QUICKSTART = "quickstart.yaml"


def generated_files() -> dict[str, bytes]:
    """Path in the repository → content."""
    return {f"compose/examples/{QUICKSTART}": quickstart().encode()}


def quickstart() -> str:
    """The compose file of the demo; its paths are relative to `compose/examples/`."""
    content = resources.files("topology").joinpath("examples", QUICKSTART).read_bytes()
    loaded = parse_topology(content, QUICKSTART)
    plan = compile_topology(loaded.topology, loaded.topology.name, sha256=loaded.sha256)
    return compose_file(plan, mode="volumes", repo="../..", topology=f"../../topology/examples/{QUICKSTART}")
