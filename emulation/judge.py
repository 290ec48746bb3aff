"""What was measured of a link, held against what was asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from topology.link_random import MEDIANS, loss_variance
from topology.plan import Bursts, Shape, Tolerance

# z of the 99.99 % interval: over 20 directions one in 500 runs would be refused by chance.
BINOMIAL_Z = 3.89


@dataclass(frozen=True)
class Effective:
    """What was measured; None where nothing was to be measured. Units as in `topology.plan.Shape`."""

    rate_bit_s: float | None = None
    delay_s: float | None = None
    jitter_s: float | None = None
    loss: float | None = None
    offered_bit_s: float | None = None
    queue_s: float | None = None  # what packets waited before the shaper under overload
    delay_p99_s: float | None = None
    probes: int = 0
    packets: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class Verified:
    """One direction: requested against effective. `problems` are sentences; none means within tolerance."""

    requested: Shape
    effective: Effective
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def record(self) -> dict[str, Any]:
        """The fields of `link_verified.directions.<way>` (history.events)."""
        asked, got = self.requested, self.effective
        rate_error = _ratio(got.rate_bit_s, asked.rate_bit_s)
        return {
            "requested": {
                "rate_bit_s": asked.rate_bit_s,
                "delay_s": asked.delay_s,
                "jitter_s": asked.jitter_s,
                "loss": asked.loss,
            },
            "effective": {
                "rate_bit_s": None if got.rate_bit_s is None else round(got.rate_bit_s),
                "delay_s": _rounded(got.delay_s),
                "delay_p99_s": _rounded(got.delay_p99_s),
                "jitter_s": _rounded(got.jitter_s),
                "queue_s": _rounded(got.queue_s),
                "loss": _rounded(got.loss),
                "packets": got.packets,
                "dropped": got.dropped,
            },
            "error": {
                "rate": _rounded(rate_error),
                "delay_s": _rounded(None if got.delay_s is None else got.delay_s - asked.delay_s),
                "loss": _rounded(None if got.loss is None else got.loss - asked.loss),
            },
            "ok": self.ok,
            "problems": list(self.problems),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _ratio(got: float | None, asked: float | None) -> float | None:
    return None if got is None or not asked else got / asked - 1


def loss_plausible(dropped: int, packets: int, loss: float, bursts: Bursts | None = None) -> bool:
    """Whether so many drops lie in the 99.99 % interval of a binomial of this probability (normal
    approximation); bursts make it as much wider as they scatter more.
    """
    spread = BINOMIAL_Z * math.sqrt(packets * loss_variance(loss, bursts)) + 1
    if bursts is not None:
        spread += 2 / bursts.r  # few packets may fall into one burst, or into none
    return abs(dropped - packets * loss) <= spread


def lost_share(shape: Shape) -> float:
    """Share of packets that does not arrive whole: lost, or refused by a checksum."""
    return 1 - (1 - shape.loss) * (1 - shape.corrupt)


def judge(
    asked: Shape, got: Effective, tolerance: Tolerance, probes_lost: tuple[int, int], *, rates: bool = True
) -> Verified:
    """Compare one direction. `probes_lost` is (lost, sent)."""
    problems = []
    if asked.rate_bit_s is not None and rates:
        if got.rate_bit_s is None:
            problems.append("rate: nothing arrived")
        elif abs(got.rate_bit_s / asked.rate_bit_s - 1) > tolerance.rate:
            offered = f"; {got.offered_bit_s:.0f} offered" if got.offered_bit_s else ""
            problems.append(f"rate: {got.rate_bit_s:.0f} bit/s, {asked.rate_bit_s} asked{offered}")
    # The median of n normal deviates scatters by 1.25 sigma / sqrt(n); three of those are no fault of the
    # link.
    scatter_s = 3 * 1.2533 * asked.jitter_s / math.sqrt(max(1, got.probes))
    allowed_s = max(tolerance.delay_s, tolerance.delay * asked.delay_s) + scatter_s
    median_s = asked.delay_s + MEDIANS[asked.jitter_kind] * asked.jitter_s
    if got.delay_s is None:
        problems.append("delay: no probe arrived")
    elif abs(got.delay_s - median_s) > allowed_s:
        problems.append(f"delay: {got.delay_s * 1e3:.2f} ms in the median, {median_s * 1e3:.2f} ms asked")
    if asked.loss > 0 and got.packets == 0:
        problems.append("loss: the backend counted no packet")
    if got.packets and not loss_plausible(got.dropped, got.packets, asked.loss, asked.bursts):
        problems.append(f"loss: {got.dropped} of {got.packets} packets, {asked.loss:.4%} asked")
    lost, sent = probes_lost
    if sent and not loss_plausible(lost, sent, lost_share(asked), asked.bursts):
        problems.append(f"loss: {lost} of {sent} probes did not arrive, {asked.loss:.4%} asked")
    return Verified(asked, got, tuple(problems))
