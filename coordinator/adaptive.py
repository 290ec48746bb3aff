"""`compression: auto`: how much of an update a device sends, and in how many bits. A pure decision.

Two questions, in this order:
1. What does learning want? The share of an update begins at 1 %. While the accuracy rises steeply, updates are worth
   their bytes and twice the last share is sent; where it hardly rises any more, half of it is enough (Accordion,
   Agarwal et al., MLSys 2021: little compression in critical regimes, much elsewhere). Where it has not risen yet, it
   is the compression that may be in the way: twice as much, too.
2. What does the link take? The upload may last its share of the deadline, and never longer than what the device's own
   training leaves of it. Of the shares up to the wanted one, the largest whose update fits in; int8 where it does, else
   ternary, which loses less than halving the share (STC, Sattler et al. 2019, figure 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from topology.plan.compression import AdaptivePlan
from wire.codecs.spec import CodecSpec, Sparsify

FIRST_SHARE = 0.01
STEEP, FLAT = 0.005, 0.001  # accuracy per version: half a point is learning, a tenth is hardly any
# Accuracy gained since the first evaluation: then a plateau is one of learning, not of compression.
RISEN = 0.2
SLOPE_POINTS = 5  # the last evaluations; fewer than three say nothing
SLOPE_POINTS_MIN = 3
SPARE = 0.9  # of the deadline: what a busy machine delays must not make a task late
LEAST_TIME = 0.05  # of the deadline, for a device whose training fills it
RATE_GAIN = 0.3
MEASURE_S_MIN = 0.5  # a shorter upload is all round-trip times: it says that the link is at least that fast
OVERHEAD_BYTES = 600  # headers, and the scales and tables of codes
BITS: tuple[tuple[Literal["int8", "ternary"], int], ...] = (("int8", 8), ("ternary", 1))


class UplinkRate(Struct, frozen=True):
    """What is known of a device's way up. `count` 0: only what its link was asked to be."""

    rate_bit_s: float
    count: int = 0

    def measured(self, size_bytes: int, seconds: float) -> UplinkRate:
        """An update took so long from its grant to its last chunk."""
        rate = size_bytes * 8 / max(seconds, 1e-3)
        if seconds < MEASURE_S_MIN:
            return UplinkRate(max(self.rate_bit_s, rate), self.count)
        if self.count:
            rate = self.rate_bit_s + RATE_GAIN * (rate - self.rate_bit_s)
        return UplinkRate(rate, self.count + 1)


class Known(NamedTuple):
    """What a choice depends on. `train_s`: of this device, 0 if unknown; `share`: its last one, 0 if none;
    `slope`: accuracy per version lately, None if unknown; `gained`: accuracy since the first evaluation;
    `beside_bytes`: what travels beside the chain.
    """

    rate: UplinkRate
    deadline_s: float
    train_s: float
    parameters: int
    slope: float | None
    share: float
    gained: float = 0.0
    beside_bytes: int = 0


class Choice(NamedTuple):
    chain: CodecSpec
    share: float
    bits: int
    budget_bytes: int
    reason: str


def choose(plan: AdaptivePlan, known: Known) -> Choice:
    wanted, why = _wanted(plan, known)
    time_s, whose = _upload_s(plan, known)
    budget = int(known.rate.rate_bit_s / 8 * time_s)
    source = "measured" if known.rate.count else "as its link was asked to be"
    link = f"{known.rate.rate_bit_s / 1e6:.3g} Mbit/s {source}, {time_s:.3g} s {whose}: {budget} bytes"
    for share in _shares(plan, wanted):
        for quantize, bits in BITS:
            if update_bytes(known.parameters, share, bits) + known.beside_bytes <= budget:
                fits = "" if share == wanted and bits == 8 else f", of which {share:.3g} at {bits} bits fits"
                return _choice(share, quantize, bits, budget, f"{why}{fits}; {link}")
    least = min(plan.fraction_min, wanted)
    return _choice(least, "ternary", 1, budget, f"{why}, but not even the least share fits; {link}")


def _choice(share: float, quantize: str, bits: int, budget: int, reason: str) -> Choice:
    chain = CodecSpec(sparsify=Sparsify(kind="top_k", fraction=share), quantize=quantize, entropy="smallest")
    return Choice(chain, share, bits, budget, reason)


def _wanted(plan: AdaptivePlan, known: Known) -> tuple[float, str]:
    share = known.share or FIRST_SHARE
    if known.slope is None or not known.share:
        why = "accuracy not known yet"
    elif known.slope >= STEEP:
        share, why = share * 2, f"accuracy rises by {100 * known.slope:.2g} points a version"
    elif known.slope <= FLAT and known.gained < RISEN:
        share, why = share * 2, f"accuracy has not risen yet ({100 * known.gained:.2g} points in all)"
    elif known.slope <= FLAT:
        share, why = share / 2, f"accuracy hardly rises any more ({100 * known.slope:.2g} points a version)"
    else:
        why = f"accuracy rises slowly ({100 * known.slope:.2g} points a version)"
    share = min(max(share, plan.fraction_min), plan.fraction_max)
    return share, f"{why}: {share:.3g} of an update"


def _upload_s(plan: AdaptivePlan, known: Known) -> tuple[float, str]:
    share_s = plan.upload_share * known.deadline_s
    left_s = SPARE * known.deadline_s - known.train_s
    if left_s >= share_s:
        return share_s, "of the deadline"
    return max(left_s, LEAST_TIME * known.deadline_s), f"left by {known.train_s:.3g} s of training"


def _shares(plan: AdaptivePlan, wanted: float) -> Iterator[float]:
    """The wanted share, and halves of it down to the least."""
    share = wanted
    while share > plan.fraction_min:
        yield share
        share /= 2
    yield min(plan.fraction_min, wanted)


def update_bytes(parameters: int, share: float, bits: int) -> int:
    """At most, about: positions cost no more than uniform ones, log2 C(n, k)."""
    share = min(share, 1.0)
    kept = max(1.0, share * parameters)
    position_bits = math.log2(1 / share) + 1.45 if share < 1 else 0.0
    return int(kept * (position_bits + bits) / 8) + OVERHEAD_BYTES


def slope_of(accuracies: Sequence[tuple[int, float]]) -> float | None:
    """Least squares over the last evaluations, per version; None for too few."""
    points = list(accuracies)[-SLOPE_POINTS:]
    if len(points) < SLOPE_POINTS_MIN:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else None
