"""What no single key can know: checks between sections of a topology.

Each check names the sections it reads; where one of them is broken it is skipped, so that it never reports
the consequences of an error that is reported already. Beside the file's own sections there are `links` (all
`link` keys) and `resources` (cpus, memory, threads) of the devices.
"""

from __future__ import annotations

from topology.checks import (
    compression,
    devices,
    expectations,
    fault_links,
    faults,
    merge,
    personalization,
    policy,
    power,
)
from topology.checks.learning import samples_per_device
from topology.checks.registry import Problem, problems

# Imported for what they register.
SECTIONS = (compression, devices, expectations, fault_links, faults, merge, personalization, policy, power)

__all__ = ["SECTIONS", "Problem", "problems", "samples_per_device"]
