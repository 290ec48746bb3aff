"""How rounds are scheduled and merged."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from topology.fields import Fraction, Strict, Wait
from topology.schema.base import DEVICES_MAX


class Policy(Strict):
    """Synchronous rounds: a cohort trains, the round closes at the deadline or when all are in, from the
    quorum up.
    """

    kind: Literal["synchronous"] = "synchronous"
    cohort: Annotated[
        int | None, Field(ge=1, le=DEVICES_MAX, description="Devices per round; all by default.")
    ] = None
    over_select: Annotated[
        float, Field(ge=1, le=4, description="Give out this many times the cohort; surplus is late.")
    ] = 1.0
    deadline: Annotated[Wait, Field(ge=1, description="Of a round, from the moment it opens.")] = 60.0
    quorum: Annotated[Fraction, Field(description="Share of the cohort that is enough at the deadline.")] = (
        1.0
    )
    server_lr: Annotated[float, Field(gt=0, le=100)] = 1.0
