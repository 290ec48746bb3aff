"""What a private run (merge: dp_fedavg) gave away of each device: ε for the topology's δ.

Every version is a Gaussian mechanism on the sum of clipped updates. Neighbours differ in all data of one device
(replaced by another's): one device moves the sum by up to twice the bound, so the mechanism's multiplier is z/2. Two
bounds hold, and the smaller one counts:

* composed over the versions that the device most often merged had a part in, whoever chose them;
* with random cohorts of K out of N in synchronous rounds, amplified by sampling without replacement (Wang, Balle,
  Kasiviswanathan, AISTATS 2019), over all versions.

Rényi accounting is Google's `dp-accounting` (extra `[privacy]`, host only); without it there is no figure, and an
expectation of one does not hold.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from history.record import Record


def epsilon(record: Record) -> float | None:
    """None for a run without noise, one without a version, and where the accountant is not installed."""
    rule = record.plan.merge
    versions = [version for version in record.versions if version.updates]
    if rule.kind != "dp_fedavg" or not versions:
        return None
    taken = Counter(update.agent for version in versions for update in version.updates)
    bounds = [composed(rule.noise_multiplier, max(taken.values()), rule.delta)]
    cohort = max((len(round_.cohort) for round_ in record.rounds.values()), default=0)
    if record.plan.policy.kind == "synchronous" and 0 < cohort < len(record.plan.devices):
        bounds.append(
            sampled(rule.noise_multiplier, len(record.plan.devices), cohort, len(versions), rule.delta)
        )
    known = [bound for bound in bounds if bound is not None]
    return min(known, default=None)


def composed(noise_multiplier: float, times: int, delta: float) -> float | None:
    """ε of `times` versions with a device in each of them."""
    library = _library()
    if library is None:
        return None
    return _epsilon(library, library.event.GaussianDpEvent(noise_multiplier / 2), times, delta)


def sampled(noise_multiplier: float, devices: int, cohort: int, times: int, delta: float) -> float | None:
    """ε of `times` versions, each of `cohort` devices drawn from `devices`."""
    library = _library()
    if library is None:
        return None
    event = library.event
    gaussian = event.GaussianDpEvent(noise_multiplier / 2)
    drawn = event.SampledWithoutReplacementDpEvent(devices, cohort, gaussian)
    return _epsilon(library, drawn, times, delta)


class _Library:
    def __init__(self) -> None:
        from dp_accounting import dp_event, privacy_accountant
        from dp_accounting.rdp import RdpAccountant

        self.event: Any = dp_event
        self.relation: Any = privacy_accountant.NeighboringRelation.REPLACE_ONE
        self.accountant: Any = RdpAccountant


def _library() -> _Library | None:
    try:
        return _Library()
    except ImportError:
        return None


def _epsilon(library: _Library, event: Any, times: int, delta: float) -> float:
    accountant = library.accountant(neighboring_relation=library.relation)
    accountant.compose(event, times)
    return float(accountant.get_epsilon(delta))
