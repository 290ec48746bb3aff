"""Groups of a schedule that merges by groups (`coordinator.policies.fedat`): who is in which, what each made."""

from __future__ import annotations

from collections import Counter

import msgspec

from coordinator import actions as a
from coordinator import fleet
from coordinator.policies import FedAT, GroupView
from coordinator.presence import away
from coordinator.state import Agent, Task, Tiers
from coordinator.turn import Turn

TIERS_KEY = "tiers/all"  # of the memo


def group_of(turn: Turn, name: str) -> int:
    """0 before tiers are cut."""
    tiers = turn.state.tiers
    return tiers.of[name] if tiers is not None else 0


def views(turn: Turn, mergeable: list[Task], spare: list[Agent]) -> tuple[GroupView, ...]:
    """Every group that has somebody, in their order."""
    if not turn.policy.grouped:
        return ()
    owing = [task for task in turn.state.under_way if not away(turn, task)]
    waiting = Counter(group_of(turn, task.agent) for task in mergeable)
    expected = Counter(group_of(turn, task.agent) for task in owing)
    free = Counter(group_of(turn, agent.name) for agent in spare)
    groups = sorted({group_of(turn, name) for name in turn.state.agents})
    return tuple(
        GroupView(group=g, mergeable=waiting[g], expected=expected[g], spare=free[g]) for g in groups
    )


def taken(turn: Turn, pool: list[Task], group: int) -> list[Task]:
    return [task for task in pool if group_of(turn, task.agent) == group]


def record(turn: Turn, tiers: Tiers | None) -> None:
    """When they are cut, and by every later life of the coordinator: lines can be lost with its process."""
    if tiers is not None:
        count = max(tiers.of.values(), default=0)
        turn.record(
            "tiers_cut",
            tiers=[sorted(name for name, k in tiers.of.items() if k == tier) for tier in range(1, count + 1)],
        )


def closing(turn: Turn, group: int) -> float:
    """A group makes a version: what its updates count with. Durable in the version's own transaction."""
    policy, tiers = turn.policy, turn.state.tiers
    assert isinstance(policy, FedAT), "only a grouped schedule closes a group"
    if tiers is None:
        of = policy.cut(fleet.views(turn, list(turn.state.agents.values())))
        tiers, share = Tiers(of=of, merges={}), policy.share(group, {})
        record(turn, tiers)
    else:
        merges = tiers.merges | {group: tiers.merges.get(group, 0) + 1}
        tiers = Tiers(of=tiers.of, merges=merges)
        share = policy.share(group, merges)
    turn.state.tiers = tiers
    turn.emit(a.JournalMemo(key=TIERS_KEY, value=msgspec.json.encode(tiers).decode()))
    return share
