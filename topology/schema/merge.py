"""How updates become the next version."""

from __future__ import annotations

from typing import Literal

from topology.fields import Strict


class Merge(Strict):
    """FedAvg: the mean of the updates, weighted by samples."""

    kind: Literal["fedavg"] = "fedavg"
