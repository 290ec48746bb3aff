"""What one device, its link and the data network are, in numbers."""

from __future__ import annotations

from msgspec import Struct

from topology.plan.power import AvailabilityPlan, BatteryPlan


class Shape(Struct, frozen=True, kw_only=True):
    """One direction of a link.

    `rate_bit_s` counts Ethernet frames (payload + 42 bytes of UDP/IP/Ethernet headers), None is unlimited.
    `delay_s` is one-way; `jitter_s` the standard deviation of a normal distribution that never reorders;
    `loss` the probability that a packet is dropped; `queue_bytes` what waits before the shaper, None = 200 ms.
    """

    rate_bit_s: int | None = None
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    queue_bytes: int | None = None

    @property
    def shaped(self) -> bool:
        return self.rate_bit_s is not None or self.delay_s > 0 or self.jitter_s > 0 or self.loss > 0


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
