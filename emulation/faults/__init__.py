"""Faults: what goes wrong on purpose. A new one is one file and one line here."""

from __future__ import annotations

from emulation.faults.base import Fault
from emulation.faults.kill import Kill

REGISTRY: dict[str, Fault] = {fault.kind: fault for fault in (Kill(),)}
