"""The whole file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from topology.expectations import METRICS, Expected
from topology.fields import Strict
from topology.schema.base import GROUP, GROUP_LENGTH_MAX, GroupName, device_name, one_of
from topology.schema.compression import Compression, expand
from topology.schema.data import Data
from topology.schema.devices import DeviceGroup, Network, ToleranceSpec
from topology.schema.faults import Fault
from topology.schema.learning import Training
from topology.schema.merge import Merge
from topology.schema.model import Model
from topology.schema.personalization import Evaluation, Personalization
from topology.schema.policy import Policy

MetricName = Annotated[str, one_of(METRICS, "metric")]


class Topology(Strict):
    """One federated-learning run: the fleet, the data, the learning, what goes wrong, and what must hold."""

    name: Annotated[
        str, Field(pattern=GROUP, max_length=GROUP_LENGTH_MAX, description="Part of the run's id.")
    ]
    seed: Annotated[
        int, Field(ge=0, le=2**32 - 1, description="Of data, model, cohorts and fault targets.")
    ] = 0
    devices: Annotated[dict[GroupName, DeviceGroup], Field(min_length=1)]
    data: Data
    model: Model
    training: Training
    policy: Policy = Policy()
    merge: Merge = Merge()
    personalization: Personalization | None = None
    evaluation: Evaluation = Evaluation()
    compression: Annotated[Compression, BeforeValidator(expand)] = Compression()
    faults: Annotated[list[Fault], Field(max_length=1000)] = []  # noqa: RUF012 (pydantic copies defaults)
    expect: dict[MetricName, Expected] = {}  # noqa: RUF012
    tolerance: ToleranceSpec = ToleranceSpec()
    network: Network = Network()

    @property
    def tests_locally(self) -> bool:
        """Whether devices test on their own data: as written, or because they have models of their own."""
        local = self.evaluation.local
        return local if local is not None else self.personalization is not None

    @property
    def device_names(self) -> list[str]:
        """Every device in the fleet's order."""
        return [
            device_name(group, i) for group, spec in self.devices.items() for i in range(1, spec.count + 1)
        ]
