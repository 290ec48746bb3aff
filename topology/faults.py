"""Faults as written, resolved to those of a plan: targets picked, churn and random plans drawn.

Same seed, same plan.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from msgspec import structs

from topology.plan import FaultPlan, Trigger
from topology.plan.faults import HOSTD, contradict
from topology.schema import Topology
from topology.schema.faults import FAULTS, Churn, Fault, Member, Random, members

GENERATED_MAX = 2_000  # faults of one entry; a run has some hundred rounds
REDRAWS_MAX = 100  # of a random fault that contradicts another before it is left out
DOWN_S_MIN = 0.5  # hostd needs a turn to apply and one to heal


def plans_of(topology: Topology, index: int) -> list[FaultPlan]:
    """The faults of one entry. Each draws from a generator of its own, so that adding one does not move the others."""
    fault, fleet = topology.faults[index], members(topology.devices)
    rng = random.Random(f"edgerig/{topology.seed}/fault/{index + 1}")
    spec = fault.spec
    if isinstance(spec, Churn):
        return _churn(spec, fault, index, fleet, rng)
    if isinstance(spec, Random):
        own = rng if spec.seed is None else random.Random(f"edgerig/{spec.seed}/random")
        return _random(spec, fault, index, fleet, own)
    targets = tuple(spec.targets(fleet, rng))
    return [
        FaultPlan(
            id=f"{fault.kind}-{index + 1}",
            kind=fault.kind,
            trigger=fault.when or Trigger(at_s=fault.at),
            targets=targets,
            heal_after_s=fault.heal_after,
            params=spec.params(targets, topology.devices),
            entry=index,
        )
    ]


def _churn(
    spec: Churn, fault: Fault, index: int, fleet: Sequence[Member], rng: random.Random
) -> list[FaultPlan]:
    """Per device: up for an exponential time, down for another one, and so on."""
    found: list[FaultPlan] = []
    for device in spec.targets(fleet, rng):
        now = rng.expovariate(1 / spec.every)
        while now < spec.during and len(found) < GENERATED_MAX:
            down_s = max(DOWN_S_MIN, rng.expovariate(1 / spec.down))
            found.append(_drawn(spec.fault, device, (fault.at or 0.0) + now, down_s))
            now += down_s + rng.expovariate(1 / spec.every)
    return _numbered(found, "churn", index)


def _random(
    spec: Random, fault: Fault, index: int, fleet: Sequence[Member], rng: random.Random
) -> list[FaultPlan]:
    """So many faults; one that contradicts an earlier one is drawn again, and left out when that does not help."""
    found: list[FaultPlan] = []
    for _ in range(spec.count):
        for _ in range(REDRAWS_MAX):
            at_s = (fault.at or 0.0) + rng.uniform(0, spec.during)
            lasts_s = max(DOWN_S_MIN, rng.expovariate(1 / spec.heal_after))
            drawn = _drawn(rng.choice(spec.kinds), rng.choice(fleet).name, at_s, lasts_s)
            if not any(clash(drawn, other) for other in found):
                found.append(drawn)
                break
    return _numbered(found, "random", index)


def _drawn(kind: str, device: str, at_s: float, lasts_s: float) -> FaultPlan:
    params = FAULTS[kind].model_validate({"device": device}).params([device], {})
    heal = None if kind == "restart" else round(lasts_s, 3)
    trigger = Trigger(at_s=round(at_s, 3))
    return FaultPlan(id="", kind=kind, trigger=trigger, targets=(device,), heal_after_s=heal, params=params)


def _numbered(found: list[FaultPlan], name: str, index: int) -> list[FaultPlan]:
    found.sort(key=lambda plan: cast(float, plan.trigger.at_s))
    return [
        structs.replace(plan, id=f"{name}-{index + 1}-{number:03d}", entry=index)
        for number, plan in enumerate(found, start=1)
    ]


# --- contradictions -----------------------------------------------------------------------------------------


def clash(one: FaultPlan, other: FaultPlan) -> str:
    """A target on which the two would surely be in force at once and cannot be, or an empty string.

    Known are times from times, and faults that wait for the same event; the rest shows only when it happens, and the
    executor refuses it then.
    """
    if not (_strikes_into(one, other) or _strikes_into(other, one)):
        return ""
    return next((target for target in one.targets if target in other.targets), "")


def _strikes_into(new: FaultPlan, in_force: FaultPlan) -> bool:
    begin, since = new.trigger.at_s, in_force.trigger.at_s
    if begin is None or since is None:
        together = new.trigger == in_force.trigger or _comes_later(new.trigger, in_force)
    else:
        together = since <= begin < _end(in_force, since)
    return together and contradict(new.kind, in_force.kind)


def _comes_later(trigger: Trigger, in_force: FaultPlan) -> bool:
    """Of versions and of updates merged a larger number comes later; what is never healed is in force then."""
    if _end(in_force, 0.0) < float("inf"):
        return False
    before = in_force.trigger
    pairs = ((trigger.version, before.version), (trigger.updates_merged, before.updates_merged))
    return any(later > earlier for later, earlier in pairs if later is not None and earlier is not None)


def _end(plan: FaultPlan, begin: float) -> float:
    if plan.kind == "restart" or HOSTD in plan.targets:  # which Docker starts again
        return begin + DOWN_S_MIN
    return begin + plan.heal_after_s if plan.heal_after_s is not None else float("inf")


def contradictions(
    topology: Topology, whole: Callable[[Fault], bool]
) -> Iterator[tuple[FaultPlan, FaultPlan, str]]:
    """Every pair that contradicts, the later one first, among the entries that are `whole`."""
    seen: list[FaultPlan] = []
    for index, fault in enumerate(topology.faults):
        if not whole(fault):
            continue
        for plan in plans_of(topology, index):
            yield from ((plan, other, target) for other in seen if (target := clash(plan, other)))
            seen.append(plan)
