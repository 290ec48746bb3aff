"""How long a device is given for a task: the same for all, or its own, learned from its history.

A device's time has two parts that vary for different reasons, its compute and its transfers; each is estimated like
a round-trip time (Jacobson and Karels; RFC 6298, section 2): a smoothed mean m and a smoothed deviation d,

    d ← 3/4 d + 1/4 |m − x|,   m ← 7/8 m + 1/8 x,   allowed = m + 4 d,

and what it is given is the sum of both, between a floor and a ceiling. A task that ran out of time doubles what its
device is given next (RFC 6298, section 5.5) until one comes in again: the time it needed is not known, only that it
was longer. A device without a history is given the ceiling. `Timings` is durable (`JournalMemo`).
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from topology.plan import PolicyPlan

MEAN_GAIN, DEVIATION_GAIN, DEVIATIONS = 1 / 8, 1 / 4, 4.0
BACKOFF_MAX = 16  # doublings of a device that never makes it; the ceiling is there long before


class Estimate(Struct, frozen=True):
    """Smoothed seconds. `count` 0: nothing is known."""

    mean_s: float = 0.0
    deviation_s: float = 0.0
    count: int = 0

    def add(self, x_s: float) -> Estimate:
        if self.count == 0:
            return Estimate(x_s, x_s / 2, 1)
        deviation = self.deviation_s + DEVIATION_GAIN * (abs(self.mean_s - x_s) - self.deviation_s)
        return Estimate(self.mean_s + MEAN_GAIN * (x_s - self.mean_s), deviation, self.count + 1)

    @property
    def allowed_s(self) -> float:
        return self.mean_s + DEVIATIONS * self.deviation_s


class Timings(Struct, frozen=True):
    """What is known of one device's speed."""

    compute: Estimate = Estimate()
    transfer: Estimate = Estimate()
    timeouts: int = 0  # in a row

    @property
    def known(self) -> bool:
        return self.compute.count > 0 or self.timeouts > 0

    @property
    def expected_s(self) -> float:
        """Of a whole task, as far as we know; 0 without a history."""
        return (self.compute.mean_s + self.transfer.mean_s) * 2.0**self.timeouts

    def finished(self, total_s: float, train_s: float) -> Timings:
        """A task took `total_s` from sent to received; the device says it trained for `train_s` of them."""
        compute_s = min(max(train_s, 0.0), total_s)
        return Timings(self.compute.add(compute_s), self.transfer.add(total_s - compute_s))

    def timed_out(self) -> Timings:
        return Timings(self.compute, self.transfer, min(self.timeouts + 1, BACKOFF_MAX))


Deadline = Callable[[Timings], float]


def make_deadline(plan: PolicyPlan) -> Deadline:
    """Seconds for one task of a device with these timings."""
    if not plan.deadline_auto:
        return lambda _timings: plan.deadline_s
    floor_s, ceiling_s = plan.deadline_floor_s, plan.deadline_s

    def learned(timings: Timings) -> float:
        if timings.compute.count == 0:
            return ceiling_s
        allowed_s = (timings.compute.allowed_s + timings.transfer.allowed_s) * 2.0**timings.timeouts
        return min(max(allowed_s, floor_s), ceiling_s)

    return learned
