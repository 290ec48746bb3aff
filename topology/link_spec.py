"""What may be written of a link: numbers of one direction or of both, and how they vary.

Apart from `topology.schema.devices`, because faults that change a link write the same keys.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from topology import traces
from topology.fields import Delay, Loss, Moment, Percent, Queue, Rate, Strict, Wait, problem
from topology.files import read_text_file
from topology.plan import JitterKind, Steps, Varied
from topology.traces import STEP_S_MIN, TraceError

STEPS_MAX = 1_000  # written by hand; what is longer is a trace


class Shorthand(Strict):
    """A mapping for which a single value may be written: that of the key `shorthand`."""

    shorthand: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _single_value(cls, value: Any) -> Any:
        return value if isinstance(value, dict | cls) else {cls.shorthand: value}


class JitterSpec(Shorthand):
    """What is added to the delay at random; packets stay in order. A bare duration is normal."""

    shorthand = "deviation"
    deviation: Annotated[Delay, Field(description="Standard deviation.")]
    kind: Annotated[
        JitterKind, Field(description="Distribution; pareto is mostly early and seldom very late.")
    ] = "normal"


class LossSpec(Shorthand):
    """A bare percentage is lost at random; `p` and `r` are the bursts of Gilbert and Elliott."""

    shorthand = "random"
    random: Annotated[Loss | None, Field(description="Share of packets, each on its own.")] = None
    p: Annotated[Percent | None, Field(gt=0, description="From good to bad, per packet.")] = None
    r: Annotated[Percent | None, Field(gt=0, description="From bad to good: bursts of 1/r packets.")] = None
    bad: Annotated[Percent, Field(description="Share lost while bad; 100 % by default.")] = 1.0
    good: Annotated[Percent, Field(description="Share lost while good; 0 % by default.")] = 0.0

    @model_validator(mode="after")
    def _one_kind(self) -> LossSpec:
        if (self.random is not None) == (self.p is not None or self.r is not None):
            raise problem("either `random`, or `p` and `r`", "write 1 %, or {p: 1 %, r: 20 %}")
        if self.random is not None and self.model_fields_set & {"bad", "good"}:
            raise problem("`bad` and `good` are of bursts", "write {p: 1 %, r: 20 %, bad: 50 %}")
        if self.random is None and (self.p is None or self.r is None):
            raise problem("bursts need both `p` and `r`", "write {p: 1 %, r: 20 %}")
        return self


class StepSpec(Strict):
    """From a time on; what is left out stays as it was."""

    at: Annotated[Moment, Field(description="After the run was ready; within `repeat`.")]
    rate: Rate | None = None
    delay: Delay | None = None
    jitter: Delay | None = None
    loss: Loss | None = None


class SineSpec(Strict):
    """A number swings around its own value."""

    of: Annotated[Varied, Field(description="Which number.")] = "rate"
    amplitude: Annotated[Percent, Field(gt=0, lt=1, description="Of the number's own value.")]
    period: Wait
    phase: Annotated[float, Field(ge=0, lt=1, description="Where it starts, in periods.")] = 0.0
    every: Annotated[Wait | None, Field(ge=STEP_S_MIN, description="1/20 of the period by default.")] = None


class RandomWalkSpec(Strict):
    """A number wanders by a seeded walk of its logarithm, another one on each device and in each direction."""

    of: Annotated[Varied, Field(description="Which number.")] = "rate"
    step: Annotated[Percent, Field(gt=0, description="Standard deviation of one step.")]
    every: Annotated[Wait, Field(ge=STEP_S_MIN, description="Time between two steps.")] = 1.0
    low: Annotated[float, Field(gt=0, le=1, description="Least, as a factor of the number.")] = 0.25
    high: Annotated[float, Field(ge=1, le=100, description="Most, as a factor of the number.")] = 4.0

    @model_validator(mode="after")
    def _has_room(self) -> RandomWalkSpec:
        if self.low == self.high:
            raise problem("`low` and `high` leave it no room", "write low: 0.5, high: 2")
        return self


class TraceSpec(Strict):
    """A recorded link, from a file beside the topology. It repeats."""

    file: Annotated[
        str, Field(max_length=4096, description="Relative to the topology's folder.", examples=["lte.up"])
    ]
    format: Annotated[str, Field(json_schema_extra={"enum": [*traces.FORMATS]})] = "mahimahi"
    interval: Annotated[
        Wait,
        Field(
            ge=STEP_S_MIN,
            le=60,
            description="Of a Mahimahi trace: what one rate is counted over. Of CSV: how long the last row holds.",
        ),
    ] = 1.0
    _steps: Steps | None = PrivateAttr(None)

    @property
    def steps(self) -> Steps | None:
        """What the file says, read once while the topology is validated."""
        return self._steps

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in traces.FORMATS:
            raise problem(f"no such format {value!r}", f"allowed: {', '.join(traces.FORMATS)}")
        return value

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> TraceSpec:
        """What compiles a topology needs no file any more."""
        folder = Path((info.context or {}).get("folder", ".")).resolve()
        path = folder / self.file
        if not path.exists() and (folder / path.name).exists():
            path = folder / path.name  # where a compose file's init container has it (topology.sources)
        found = _read_trace(path, self.format, self.interval)
        self._steps = msgspec.structs.replace(found, source=str(path))
        return self


def _read_trace(path: Path, format_name: str, interval_s: float) -> Steps:
    try:
        text = read_text_file(path, traces.BYTES_MAX, errors="replace")
        return traces.FORMATS[format_name](text, interval_s)
    except OSError as error:
        raise problem(f"{path}: {error.strerror}", "the path is relative to the topology's folder") from None
    except TraceError as error:
        raise problem(f"{path}: {error}", f"the format is {format_name}; see docs/links.md") from None


class VarySpec(Strict):
    """How a direction's numbers change while the run goes on, from when all devices are ready. `steps` and `trace` set
    numbers, `sine` and `random_walk` then scale them.
    """

    steps: Annotated[list[StepSpec] | None, Field(min_length=1, max_length=STEPS_MAX)] = None
    repeat: Annotated[Wait | None, Field(description="The steps begin again after this long.")] = None
    trace: TraceSpec | None = None
    sine: SineSpec | None = None
    random_walk: RandomWalkSpec | None = None

    @model_validator(mode="after")
    def _steps_follow(self) -> VarySpec:
        if self.steps is not None and self.trace is not None:
            raise problem("`steps` and `trace` both set the numbers", "write one of them")
        if not (self.steps or self.trace or self.sine or self.random_walk):
            raise problem("nothing varies", "one of steps, trace, sine, random_walk")
        if self.repeat is not None and self.steps is None:
            raise problem("`repeat` is of `steps`, and there are none", "leave it out")
        times = [step.at for step in self.steps or ()]
        ends = [*times[1:], self.repeat or math.inf][: len(times)]
        gaps = [later - at for at, later in zip(times, ends, strict=True)]
        if any(gap < STEP_S_MIN for gap in gaps):
            raise problem(
                f"steps (and `repeat` after the last) have to be at least {STEP_S_MIN:g} s apart, in order",
                "hostd changes the live link at each",
            )
        return self


class DirectionKeys(Strict):
    """What can be said of one direction, or of both at once."""

    delay: Annotated[Delay | None, Field(description="One-way, per direction.")] = None
    jitter: Annotated[JitterSpec | None, Field(description="Deviation of the delay.")] = None
    loss: Annotated[LossSpec | None, Field(description="Share of packets dropped, per direction.")] = None
    reorder: Annotated[
        Loss | None, Field(description="Share of packets that skip the delay, and so overtake others.")
    ] = None
    duplicate: Annotated[Loss | None, Field(description="Share of packets that arrive twice.")] = None
    corrupt: Annotated[Loss | None, Field(description="Share of packets with one bit flipped.")] = None
    queue: Annotated[Queue | None, Field(description="What may wait: time at the link's rate, or bytes.")] = (
        None
    )
    vary: Annotated[VarySpec | None, Field(description="How the numbers change during the run.")] = None


class DirectionSpec(DirectionKeys, Shorthand):
    """One direction; a bare rate is its rate. What is left out is the link's."""

    shorthand = "rate"
    rate: Annotated[Rate | None, Field(description="Counted in Ethernet frames; unlimited without it.")] = (
        None
    )


class LinkKeys(DirectionKeys):
    """Both directions: `up` and `down` have rates, and may have numbers of their own."""

    up: Annotated[DirectionSpec | None, Field(description="From the device.")] = None
    down: Annotated[DirectionSpec | None, Field(description="To the device.")] = None
