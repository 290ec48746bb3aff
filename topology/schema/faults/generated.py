"""Faults drawn from the seed before the run: churn as a Poisson process, and a random plan."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from topology.fields import Strict, Wait
from topology.schema.faults.targets import Aim

GeneratedKind = Literal["kill", "stop", "restart", "pause", "partition", "out_of_memory", "cpu_slowdown"]


class Churn(Aim):
    """Devices go and come back: on each, failures are a Poisson process and downtimes are exponential."""

    every: Annotated[Wait, Field(description="Mean time between failures of one device.", examples=["60 s"])]
    down: Annotated[Wait, Field(description="Mean downtime.", examples=["10 s"])]
    during: Annotated[Wait, Field(description="No failure begins later than this after the start.")]
    fault: Annotated[Literal["kill", "stop", "pause", "partition"], Field(description="How they fail.")] = (
        "kill"
    )


class Random(Strict):
    """So many faults of these kinds, at random times, on random devices, none contradicting another."""

    count: Annotated[int, Field(ge=1, le=1000)]
    kinds: Annotated[list[GeneratedKind], Field(min_length=1, description="Drawn from these.")]
    during: Annotated[Wait, Field(description="They strike within this time after the start.")]
    heal_after: Annotated[Wait, Field(description="Mean of how long each lasts.")] = 10.0
    seed: Annotated[int | None, Field(ge=0, description="Of this plan; the run's by default.")] = None
