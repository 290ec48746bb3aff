"""The file a user writes, as pydantic models. Every quantity carries a unit; unknown keys are errors.

`topology.validate` turns a file into a `Topology` or into all its errors, `topology.checks` holds what no
single key can know, and `topology.compile` resolves the rest into a plan. The models are the source of
`topology/schema.json`.
"""

from __future__ import annotations

from topology.schema.base import DEVICES_MAX, GROUP, GROUP_LENGTH_MAX, device_name
from topology.schema.compression import Compression, Downlink, Sparsify, Uplink
from topology.schema.data import Data, Partition
from topology.schema.devices import DeviceGroup, LinkSpec, Network, ToleranceSpec
from topology.schema.learning import Optimizer, Schedule, Training
from topology.schema.merge import Merge
from topology.schema.model import Feed, Model
from topology.schema.personalization import Evaluation, Personalization
from topology.schema.policy import Policy, Staleness
from topology.schema.run import Topology

__all__ = [
    "DEVICES_MAX",
    "GROUP",
    "GROUP_LENGTH_MAX",
    "Compression",
    "Data",
    "DeviceGroup",
    "Downlink",
    "Evaluation",
    "Feed",
    "LinkSpec",
    "Merge",
    "Model",
    "Network",
    "Optimizer",
    "Partition",
    "Personalization",
    "Policy",
    "Schedule",
    "Sparsify",
    "Staleness",
    "ToleranceSpec",
    "Topology",
    "Training",
    "Uplink",
    "device_name",
]
