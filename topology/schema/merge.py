"""How updates become the next version."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from topology.fields import Fraction, Size, Strict
from topology.names import MERGES
from topology.schema.base import DEVICES_MAX, enum_of, one_of

JOURNAL_BYTES_MIN = 1 << 20  # less than a single update of most models would be a typing error

# Which keys a kind reads, beside those that every kind has; `topology.checks.merge` refuses the others.
KEYS: dict[str, frozenset[str]] = {
    "fedavg": frozenset(),
    "fedavgm": frozenset({"momentum"}),
    "fedadam": frozenset({"beta1", "beta2", "tau"}),
    "fedyogi": frozenset({"beta1", "beta2", "tau"}),
    "fednova": frozenset(),
    "scaffold": frozenset({"control"}),
    "median": frozenset(),
    "trimmed_mean": frozenset({"trim"}),
    "krum": frozenset({"byzantine", "keep"}),
    "norm_bound": frozenset({"norm"}),
    "dp_fedavg": frozenset({"norm", "noise_multiplier", "delta"}),
}
NEEDED: dict[str, frozenset[str]] = {
    "norm_bound": frozenset({"norm"}),
    "dp_fedavg": frozenset({"norm", "noise_multiplier"}),
}


class Merge(Strict):
    """The mean of the updates by samples (fedavg), with an optimizer on the server (fedavgm, fedadam, fedyogi),
    normalised by local steps (fednova), with control variates (scaffold), robust against wrong updates (median,
    trimmed_mean, krum, norm_bound), or private (dp_fedavg).
    """

    kind: Annotated[str, one_of(MERGES, "merge"), Field(json_schema_extra=enum_of(MERGES.built_in))] = (
        "fedavg"
    )
    momentum: Annotated[float | None, Field(gt=0, lt=1, description="fedavgm: 0.9 by default.")] = None
    beta1: Annotated[float | None, Field(ge=0, lt=1, description="fedadam, fedyogi: 0.9.")] = None
    beta2: Annotated[float | None, Field(ge=0, lt=1, description="fedadam, fedyogi: 0.99.")] = None
    tau: Annotated[
        float | None, Field(gt=0, le=1, description="fedadam, fedyogi: adaptivity, 0.001; small adapts more.")
    ] = None
    trim: Annotated[
        Fraction | None,
        Field(lt=0.5, description="trimmed_mean: share of the values cut off at each end; 10 %."),
    ] = None
    byzantine: Annotated[
        int | None, Field(ge=1, le=DEVICES_MAX, description="krum: wrong updates to be survived; 1.")
    ] = None
    keep: Annotated[
        int | None, Field(ge=1, le=DEVICES_MAX, description="krum: updates averaged (multi-Krum); 1.")
    ] = None
    norm: Annotated[
        float | None, Field(gt=0, le=1e6, description="norm_bound, dp_fedavg: longer updates are shortened.")
    ] = None
    noise_multiplier: Annotated[
        float | None,
        Field(gt=0, le=1000, description="dp_fedavg: standard deviation of the noise on the sum, in `norm`."),
    ] = None
    delta: Annotated[
        float | None, Field(gt=0, lt=1, description="dp_fedavg: of (ε, δ); 0.00001 by default.")
    ] = None
    control: Annotated[
        Literal["none", "fp16", "int8"] | None,
        Field(description="scaffold: how the change of a device's control variate is sent; fp16 by default."),
    ] = None
    journal_bytes_max: Annotated[
        Size | None,
        Field(
            ge=JOURNAL_BYTES_MIN,
            description="Update bytes the coordinator keeps for the audit; 4 GiB. Beyond it the oldest merged go.",
        ),
    ] = None
