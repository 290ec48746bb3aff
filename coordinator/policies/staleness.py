"""How much an update counts that was trained on an older version: s(τ), s(0) = 1, never above 1.

τ is the number of versions between the one an update was trained on and the one it is merged onto, counted *before* the
merge: an update of the newest version has τ = 0. (Counted after it, as NVFlare does, a fresh update gets 0.5.)
s(τ) damps absolutely (`coordinator.merges`): Δ = server_lr · Σ nᵢ·s(τᵢ)·uᵢ / Σ nᵢ. Dividing by Σ nᵢ·s(τᵢ) instead would
cancel it wherever all updates are equally stale. A function of τ alone, so nothing can compound.
"""

from __future__ import annotations

from collections.abc import Callable

from topology.plan import StalenessPlan

Staleness = Callable[[int], float]


def constant(_plan: StalenessPlan) -> Staleness:
    """Every update counts in full (FedAsync, Xie et al., 2019, section 5.2)."""
    return lambda _tau: 1.0


def polynomial(plan: StalenessPlan) -> Staleness:
    """(1 + τ)^-exponent (FedAsync, section 5.2; FedBuff, Nguyen et al., 2022, section 5.1 with exponent 0.5)."""
    return lambda tau: (1.0 + tau) ** -plan.exponent


def hinge(plan: StalenessPlan) -> Staleness:
    """1 up to τ = b, then 1 / (a (τ - b) + 1) (FedAsync, section 5.2)."""
    return lambda tau: 1.0 if tau <= plan.b else 1.0 / (plan.a * (tau - plan.b) + 1.0)


STALENESS: dict[str, Callable[[StalenessPlan], Staleness]] = {
    "constant": constant,
    "polynomial": polynomial,
    "hinge": hinge,
}


def make_staleness(plan: StalenessPlan) -> Staleness:
    """Raises ValueError for a kind that nobody registered."""
    factory = STALENESS.get(plan.kind)
    if factory is None:
        raise ValueError(f"staleness {plan.kind!r} is not known here; known: {', '.join(sorted(STALENESS))}")
    return factory(plan)
