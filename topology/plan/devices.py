"""What one device, its link and the data network are, in numbers."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from topology.plan.power import AvailabilityPlan, BatteryPlan

Varied = Literal["rate", "delay", "loss"]


class Step(Struct, frozen=True, kw_only=True):
    """From `at_s` on; None leaves a number as it is."""

    at_s: float
    rate_bit_s: int | None = None
    delay_s: float | None = None
    jitter_s: float | None = None
    loss: float | None = None


class Steps(Struct, frozen=True, kw_only=True, tag="steps"):
    """Numbers that hold from a time on. `repeat_s` 0: the last one stays. `source`: the trace file they came from."""

    steps: tuple[Step, ...]
    repeat_s: float = 0.0
    source: str = ""


class Sine(Struct, frozen=True, kw_only=True, tag="sine"):
    """base · (1 + amplitude · sin(2π (t / period_s + phase))), read anew every `every_s`."""

    of: Varied
    amplitude: float
    period_s: float
    every_s: float
    phase: float = 0.0


class RandomWalk(Struct, frozen=True, kw_only=True, tag="random_walk"):
    """base · exp(w): each `every_s` w moves by a normal deviate of standard deviation `step`, reflected so that the
    factor stays between `low` and `high`. `seed` names the sequence."""

    of: Varied
    step: float
    every_s: float
    low: float
    high: float
    seed: str


Variation = Steps | Sine | RandomWalk


JitterKind = Literal["normal", "pareto", "uniform"]


class Bursts(Struct, frozen=True, kw_only=True):
    """Gilbert–Elliott loss: a chain of two states that may change after every packet, and the loss in each.

    `p`: from good to bad, `r`: back, per packet; `bad`, `good`: the share lost in each state (1-h and 1-k of Gilbert
    and Elliott, as netem's `gemodel p r 1-h 1-k`).
    """

    p: float
    r: float
    bad: float = 1.0
    good: float = 0.0


class Shape(Struct, frozen=True, kw_only=True):
    """One direction of a link at one moment, and how it varies.

    `rate_bit_s` counts Ethernet frames (payload + 42 bytes of UDP/IP/Ethernet headers), None is unlimited.
    `delay_s` is one-way; `jitter_s` the standard deviation of what is added to it, `jitter_kind` its distribution; it
    never reorders. `loss` is the probability that a packet is dropped; with `bursts` it is their mean.
    `reorder`: the share of packets that skip the delay and so overtake others; `duplicate`: that arrive twice;
    `corrupt`: with one bit flipped. `queue_bytes` is what waits before the shaper, None = 200 ms; `queue_s` is set
    where it was asked for as time, and follows a varying rate. `vary`: how the rest changes over the run's time.
    """

    rate_bit_s: int | None = None
    delay_s: float = 0.0
    jitter_s: float = 0.0
    jitter_kind: JitterKind = "normal"
    loss: float = 0.0
    bursts: Bursts | None = None
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    queue_bytes: int | None = None
    queue_s: float | None = None
    vary: tuple[Variation, ...] = ()

    @property
    def shaped(self) -> bool:
        return self.rate_bit_s is not None or self.impaired or bool(self.vary)

    @property
    def impaired(self) -> bool:
        """Whether anything but its rate is shaped."""
        parts = (self.delay_s, self.jitter_s, self.loss, self.reorder, self.duplicate, self.corrupt)
        return any(part > 0 for part in parts)


class Link(Struct, frozen=True, kw_only=True):
    """Both directions of one device's link; `name` is the profile it came from or "custom"."""

    name: str
    up: Shape
    down: Shape


class Tolerance(Struct, frozen=True, kw_only=True):
    """What a measured link or quota may be off before the run is invalid (links-and-faults.md, d1)."""

    rate: float = 0.05  # relative
    delay_s: float = 0.002  # absolute, or:
    delay: float = 0.05  # relative; the larger of the two holds
    cpu: float = 0.10  # relative


class DevicePlan(Struct, frozen=True, kw_only=True):
    name: str
    group: str
    index: int
    profile: str
    cpus: float
    cpu_period_us: int = 100_000
    memory_bytes: int
    threads: int = 1
    link: Link
    battery: BatteryPlan | None = None
    availability: AvailabilityPlan | None = None
    address: str = ""  # fixed address on the data network; empty in the process runtime
    uid: int = 0


class NetworkPlan(Struct, frozen=True, kw_only=True):
    """The data network of a run. `broker_port` is TLS."""

    subnet: str = ""
    gateway: str = ""
    broker_host: str = "broker"
    broker_address: str = ""
    broker_port: int = 8883
    congestion: str = ""  # TCP congestion control to pin, empty = the kernel's
    backend: str = "auto"  # who shapes links: netem, nfqueue, none, or the best that works
