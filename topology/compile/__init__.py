"""From a topology to a plan: every name resolved to numbers, addresses, uids and fault targets. Pure and
deterministic.
"""

from __future__ import annotations

from topology.compile.devices import AGENTS_UID, DEFAULT_SUBNET, default_subnet
from topology.compile.run import RUN_ID, compile_topology

__all__ = ["AGENTS_UID", "DEFAULT_SUBNET", "RUN_ID", "compile_topology", "default_subnet"]
