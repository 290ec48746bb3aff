"""Data: which, and who gets what of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from topology.errors import did_you_mean
from topology.fields import Fraction, Strict, problem
from topology.names import ALL_PARTITIONS, DATASETS, is_path
from topology.schema.base import enum_of, one_of


def _known(value: object) -> object:
    if isinstance(value, str) and not is_path(value) and value not in DATASETS:
        raise problem(
            "no such data set", f"{did_you_mean(value, DATASETS)}; or the path of a folder or .txt file"
        )
    return value


class Partition(Strict):
    """How the training data are spread over the devices.

    iid: evenly at random. dirichlet: label shares drawn from Dirichlet(alpha), of equal or free sizes. shards:
    sorted by label and dealt in pieces. quantity: same labels, sizes as 1/rank^exponent. natural: by the data
    set's own users (a column `user`, a speaker, a sensor). feature-drift: iid, and every device sees its samples
    through its own gain and bias.
    """

    kind: Annotated[
        str, one_of(ALL_PARTITIONS, "partition"), Field(json_schema_extra=enum_of(ALL_PARTITIONS.built_in))
    ] = "iid"
    alpha: Annotated[
        float | None, Field(gt=0, le=1000, description="dirichlet: small is skewed; 0.5 by default.")
    ] = None
    sizes: Annotated[Literal["equal", "free"] | None, Field(description="dirichlet: equal by default.")] = (
        None
    )
    least: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="Free sizes: of any device; 10 by default.")
    ] = None
    shards_per_device: Annotated[int | None, Field(ge=1, le=100, description="shards: 2 by default.")] = None
    exponent: Annotated[float | None, Field(ge=0, le=5, description="quantity: 0 is even; 1 by default.")] = (
        None
    )
    drift: Annotated[
        float | None, Field(gt=0, le=5, description="feature-drift: its strength; 0.5 by default.")
    ] = None
    options: Annotated[
        dict[Annotated[str, Field(max_length=64)], float | int | str | bool],
        Field(max_length=32, description="A plug-in's own."),
    ] = {}  # noqa: RUF012 (pydantic copies defaults)


class Data(Strict):
    """A data set: `mnist` (from the folder EDGERIG_DATA), `mnist-mini` (ships with EdgeRig), `sensors` (synthetic
    motion windows, every device with its own drift), a plug-in's, a folder (train and test, .npz or .csv) or a
    .txt file.
    """

    dataset: Annotated[
        str,
        Field(min_length=1, max_length=512, description="A name, or a path beside the topology."),
        BeforeValidator(_known),
    ]
    options: Annotated[
        dict[Annotated[str, Field(max_length=64)], float | int | str | bool],
        Field(
            max_length=32, description="sensors: users, per_user, drift, length, time_first; text: context."
        ),
    ] = {}  # noqa: RUF012
    partition: Partition = Partition()
    samples_per_device: Annotated[
        int | None,
        Field(ge=1, le=1_000_000, description="The mean where sizes differ; an equal share by default."),
    ] = None
    local_test: Annotated[
        Fraction | None,
        Field(lt=1, description="Share of its samples that each device keeps back to test on itself."),
    ] = None

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.dataset.rstrip("/").rsplit("/", 1)[-1].removesuffix(".txt")

    @property
    def is_file(self) -> bool:
        return is_path(self.dataset)
