"""Plans for the tests of compose."""

from __future__ import annotations

from pathlib import Path

import topology
from topology.compile import compile_topology
from topology.plan import Plan
from topology.validate import load_topology

REPOSITORY = Path(topology.__file__).parent.parent
SMOKE = REPOSITORY / "topology" / "examples" / "smoke.yaml"
QUICKSTART = REPOSITORY / "topology" / "examples" / "quickstart.yaml"


def plan_of(file: Path = SMOKE, run: str = "test-1", **options: object) -> Plan:
    loaded = load_topology(file)
    return compile_topology(loaded.topology, run, sha256=loaded.sha256, **options)  # type: ignore[arg-type]
