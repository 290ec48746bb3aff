"""Models of the devices' own, and tests on their own data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from topology.fields import Strict
from topology.names import PERSONALIZATIONS
from topology.schema.base import enum_of, one_of

# Which keys a kind reads; `topology.checks.personalization` refuses the others.
KEYS: dict[str, frozenset[str]] = {
    "fedper": frozenset({"head"}),
    "fedrep": frozenset({"head", "steps"}),
    "ditto": frozenset({"steps", "proximal"}),
    "fine_tune": frozenset({"steps"}),
}


class Personalization(Strict):
    """What a device makes of the shared model for itself: a head of its own that never travels (fedper, fedrep), a
    model of its own that is pulled towards the shared one (ditto), or some steps on its own data before it is tested
    (fine_tune).
    """

    kind: Annotated[
        str,
        one_of(PERSONALIZATIONS, "personalization"),
        Field(json_schema_extra=enum_of(PERSONALIZATIONS)),
    ]
    head: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]] | None,
        Field(
            min_length=1,
            max_length=256,
            description="fedper, fedrep: name patterns, such as fc3*; the last layer by default.",
        ),
    ] = None
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="fedrep: of the head; ditto, fine_tune: of the model of one's own. As many as a task's by "
            "default.",
        ),
    ] = None
    proximal: Annotated[
        float | None,
        Field(ge=0, le=1000, description="ditto: λ, how strongly towards the shared model; 0.1 by default."),
    ] = None


class Evaluation(Strict):
    """Tests beside the coordinator's own."""

    local: Annotated[
        bool | None,
        Field(
            description="Every device tests what it receives on its own test data (data: {local_test: ...}), and its "
            "personal model beside it, in every task and once more at the end. On by default with personalization."
        ),
    ] = None
    drift: Annotated[
        bool | None,
        Field(
            description="Of every merged update its norm and its cosine to the mean of its version, recomputed from "
            "the journal. As `local` by default."
        ),
    ] = None
