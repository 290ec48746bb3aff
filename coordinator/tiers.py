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
            since=tiers.since,
            tiers=[sorted(name for name, k in tiers.of.items() if k == tier) for tier in range(1, count + 1)],
        )


def closing(turn: Turn, group: int) -> float:
    """A group makes a version: what its updates count with. Durable in the version's own transaction, and so is a new
    cut, which is in force from the next version on: tasks under way are of their device's new tier then.
    """
    policy, before = turn.policy, turn.state.tiers
    assert isinstance(policy, FedAT), "only a grouped schedule closes a group"
    merges = _counted(before, group)
    of = _cut(turn, policy, merges)
    tiers = Tiers(of=of, merges=merges, since=turn.state.version + 2)
    if before is not None and of == before.of:
        tiers = Tiers(of=of, merges=merges, since=before.since)
    else:
        record(turn, tiers)
    turn.state.tiers = tiers
    turn.emit(a.JournalMemo(key=TIERS_KEY, value=msgspec.json.encode(tiers).decode()))
    return policy.share(group, merges)


def _counted(before: Tiers | None, group: int) -> dict[int, int]:
    return {} if before is None else before.merges | {group: before.merges.get(group, 0) + 1}


def _cut(turn: Turn, policy: FedAT, merges: dict[int, int]) -> dict[str, int]:
    """From what the journal has as well (timings, counts): a restart and a replay cut the same."""
    before = turn.state.tiers
    if before is not None and not policy.due(merges):
        return before.of
    seen = fleet.views(turn, list(turn.state.agents.values()))
    return policy.cut(seen) if before is None else policy.recut(before.of, seen)
