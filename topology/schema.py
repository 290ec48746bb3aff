"""The file a user writes, as pydantic models. Every quantity carries a unit; unknown keys are errors.

`topology.validate` turns a file into a `Topology` or into all its errors, `topology.checks` holds what no
single key can know, and `topology.compile` resolves the rest into a plan. The models are the source of
`topology/schema.json`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from topology.errors import did_you_mean
from topology.expectations import METRICS, Expected
from topology.faults import Fault
from topology.fields import Delay, Fraction, Loss, Queue, Rate, Size, Strict, ToleranceRatio, Wait, problem
from topology.profiles import DEVICES, LINKS

# A device is named `<group>-<i>`, and that name is a DNS label, a container's host name and an MQTT user: 63
# characters.
GROUP = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
GROUP_LENGTH_MAX = 40
DEVICES_MAX = 2000  # one host runs some hundred containers; the process runtime and the simulation go further


def _one_of(names: Iterable[str], what: str) -> BeforeValidator:
    """Text from a table, with the nearest entry in the hint. (A Literal of a table would not be seen by
    mypy.)
    """

    def known(value: object) -> object:
        if isinstance(value, str) and value not in names:
            raise problem(f"no such {what}", did_you_mean(value, names))
        return value

    return BeforeValidator(known)


def _enum(names: Iterable[str]) -> dict[str, JsonValue]:
    return {"enum": [*names]}


class LinkSpec(Strict):
    """A link: a profile's name, or its numbers, or a profile with some numbers of one's own.

    `delay` is one-way and holds in each direction, like `jitter`, `loss` and `queue`. Without a rate it is
    unlimited.
    """

    profile: Annotated[
        str | None,
        _one_of(LINKS, "link profile"),
        Field(description="Where the numbers left out come from.", json_schema_extra=_enum(LINKS)),
    ] = None
    up: Annotated[Rate | None, Field(description="From the device.")] = None
    down: Annotated[Rate | None, Field(description="To the device.")] = None
    delay: Annotated[Delay | None, Field(description="One-way, per direction.")] = None
    jitter: Annotated[
        Delay | None, Field(description="Standard deviation of the delay; packets stay in order.")
    ] = None
    loss: Annotated[Loss | None, Field(description="Share of packets dropped, per direction.")] = None
    queue: Annotated[Queue | None, Field(description="What may wait: time at the link's rate, or bytes.")] = (
        None
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"profile": value} if isinstance(value, str) else value


class DeviceGroup(Strict):
    """`count` devices of one kind, named `<group>-1`, `<group>-2`, ... The profile's numbers may be
    overridden.
    """

    profile: Annotated[str, _one_of(DEVICES, "device profile"), Field(json_schema_extra=_enum(DEVICES))]
    count: Annotated[int, Field(ge=1, le=DEVICES_MAX)] = 1
    link: LinkSpec
    cpus: Annotated[float | None, Field(ge=0.01, le=256, description="Share of a host core.")] = None
    memory: Annotated[
        Size | None, Field(ge=64 * 1024 * 1024, description="Memory limit, at least 64 MiB.")
    ] = None
    threads: Annotated[int | None, Field(ge=1, le=64, description="Threads of the training session.")] = None


class Partition(Strict):
    """How the training data are spread: evenly at random, by Dirichlet over labels (equal sizes), or by label
    shards.
    """

    kind: Literal["iid", "dirichlet", "shards"] = "iid"
    alpha: Annotated[
        float | None, Field(gt=0, le=1000, description="dirichlet: small is skewed; 0.5 by default.")
    ] = None
    shards_per_device: Annotated[int | None, Field(ge=1, le=100, description="shards: 2 by default.")] = None


class Data(Strict):
    """`mnist` is read from the folder EDGERIG_DATA; `mnist-mini` ships with EdgeRig."""

    dataset: Literal["mnist", "mnist-mini"]
    partition: Partition = Partition()
    samples_per_device: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="An equal share of the training data by default.")
    ] = None


class Optimizer(Strict):
    """Local stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=100)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0


class Training(Strict):
    """What a device does in a round, and when the run ends."""

    rounds: Annotated[int, Field(ge=1, le=100_000)]
    local_epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    optimizer: Optimizer = Optimizer()
    stop_at_accuracy: Annotated[
        float | None,
        Field(gt=0, lt=1, description="End before the last round when the test accuracy is reached."),
    ] = None


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


class Sparsify(Strict):
    """Keep the largest entries of an update; the rest stays on the device as residual."""

    top_k: Annotated[Fraction, Field(description="Share of entries that is sent.")]


def _none_is_absent(value: Any) -> Any:
    return None if value == "none" else value


class Uplink(Strict):
    """From the devices: sparsify, then quantize, then entropy-code. All with error feedback."""

    sparsify: Annotated[
        Sparsify | None, BeforeValidator(_none_is_absent), Field(description="`none`, or {top_k: 0.01}.")
    ] = None
    quantize: Literal["none", "fp16", "int8"] = "none"
    entropy: Literal["none", "zstd"] = "zstd"


class Downlink(Strict):
    """To the devices: float16 versions with server-side error feedback, or exact float32."""

    quantize: Literal["none", "fp16"] = "fp16"


class Compression(Strict):
    """What is done to the bytes, per direction."""

    uplink: Uplink = Uplink()
    downlink: Downlink = Downlink()


class ToleranceSpec(Strict):
    """How far a measured link or quota may be off before the run is invalid."""

    rate: Annotated[ToleranceRatio, Field(description="5 % by default.")] = 0.05
    delay: Annotated[ToleranceRatio, Field(description="5 % by default.")] = 0.05
    delay_floor: Annotated[
        Delay, Field(description="No delay has to be closer than this; 2 ms by default.")
    ] = 0.002
    cpu: Annotated[ToleranceRatio, Field(description="10 % by default.")] = 0.10


class Network(Strict):
    """The data network."""

    congestion: Annotated[
        Literal["bbr", "cubic", "reno"] | None,
        Field(description="TCP congestion control; the kernel's by default."),
    ] = None


GroupName = Annotated[str, Field(pattern=GROUP, max_length=GROUP_LENGTH_MAX)]
MetricName = Annotated[str, _one_of(METRICS, "metric")]


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
    model: Literal["cnn", "mlp"]
    training: Training
    policy: Policy = Policy()
    compression: Compression = Compression()
    faults: Annotated[list[Fault], Field(max_length=1000)] = []  # noqa: RUF012 (pydantic copies defaults)
    expect: dict[MetricName, Expected] = {}  # noqa: RUF012
    tolerance: ToleranceSpec = ToleranceSpec()
    network: Network = Network()

    @property
    def device_names(self) -> list[str]:
        """Every device in the fleet's order."""
        return [
            device_name(group, i) for group, spec in self.devices.items() for i in range(1, spec.count + 1)
        ]


def device_name(group: str, number: int) -> str:
    """`pi4`, 3 → `pi4-3`; numbers start at 1, also in a group of one."""
    return f"{group}-{number}"
