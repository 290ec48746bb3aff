"""What a schedule sees and what it can say.

A *round* is the making of one version: it is open from the version before to its own. A schedule says how many tasks to
open in it and when its updates are enough. Whether tasks end with their round is the schedule's `carries`:

* without it (synchronous, tiered) a round's tasks end with it, and an update after that is late;
* with it tasks outlive the version they were opened for; their updates wait in a common pool for whichever round is
  open, count with s(τ) for their age, and end by their own deadline, by `max_staleness`, or with the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, Protocol

from msgspec import Struct

from coordinator.policies.deadlines import Deadline, Timings
from coordinator.policies.selection import AgentView, Selection, make_selection
from coordinator.policies.selection.floor import ProbingFloor
from coordinator.policies.staleness import make_staleness
from topology.plan import PolicyPlan


class RoundView(Struct, frozen=True, kw_only=True):
    """One open round, counted. `mergeable` updates are acked and fit to merge; `expected` tasks of this round are
    under way, in time, and their agents are here (or away for less than the grace); `carried` ones are the same of
    rounds before; `away` tasks are under way at agents that are gone. `spare`: free online agents that could be given
    a task of this round now.
    """

    target: int
    quorum: int
    mergeable: int
    expected: int
    away: int
    receiving: int  # of those expected: bytes are complete, only the journal's commit is missing
    spare: int
    deadline: float
    deadline_s: float
    extensions: int
    carried: int = 0
    quiet_since: float = 0.0  # the last update of the pool, or the opening
    groups: tuple[GroupView, ...] = ()  # where the schedule is `grouped`


class GroupView(Struct, frozen=True, kw_only=True):
    """The part of a round's view that is of one group of devices; here `expected` is whoever still may give one."""

    group: int
    mergeable: int = 0
    expected: int = 0
    spare: int = 0


class Wait(Struct, frozen=True):
    """Nothing to do before `until` unless something happens."""

    until: float


class Close(Struct, frozen=True):
    """Merge what is here, or all of one group of it. reason: complete, absent, deadline, profiled, tier k."""

    reason: str
    group: int | None = None


class Replace(Struct, frozen=True):
    """Give `count` more agents a task of this round; only those of `group` where the schedule has groups."""

    count: int
    group: int | None = None


class Extend(Struct, frozen=True):
    """Past the deadline without quorum: another one."""

    deadline: float


class Fail(Struct, frozen=True):
    reason: str


Decision = Wait | Close | Replace | Extend | Fail


class Size(NamedTuple):
    """Of one round: updates that make it complete, and valid."""

    target: int
    quorum: int


class Policy(Protocol):
    carries: bool  # tasks and updates outlive the version they were opened for
    streams: bool  # a round opens at once, with whoever is free, and never waits for an evaluation
    grouped: bool  # versions are made by groups of devices: it is told of each
    merge_lr: float  # server_lr of the merge, mixing included
    quorum: int  # agents that have to be there for a round to open
    carry_s: float  # how long a task goes on after its deadline when it is carried
    probe_samples: int  # of each candidate's own, for its loss

    def wanted(self, agents: int) -> int:
        """How many agents the first round starts with when all of `agents` are online."""

    def candidates(self, seen: Sequence[AgentView], fleet: int, rng: Random) -> list[str]:
        """Whose losses to ask for before `choose`: nobody's, but for selections that go by them."""

    def probe_deadline_s(self, candidates: Sequence[Timings]) -> float:
        """How long their answers are waited for."""

    def choose(self, seen: Sequence[AgentView], fleet: int, rng: Random) -> list[str]:
        """The cohort of a new round, from those that could be given a task now, in the order of their tasks."""

    def refill(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        """`count` more for an open round (or all, when fewer are there)."""

    def size(self, cohort: int) -> Size:
        """Of a round with that many tasks."""

    def task_deadline_s(self, timings: Timings) -> float:
        """What a device with these timings is given for a task."""

    def round_deadline_s(self, cohort: Sequence[Timings]) -> float:
        """From the opening of a round with this cohort to its deadline."""

    def factor(self, staleness: int) -> float | None:
        """s(τ); None: too stale to be merged."""

    def decide(self, view: RoundView, now: float) -> Decision:
        """What to do with an open round. Must not return Replace when `spare` is 0, nor anything unbounded."""


class Common:
    """What schedules have in common: deadlines, staleness, selection."""

    carries = False
    streams = False
    grouped = False
    carry_s = 0.0
    probe_samples = 0

    def __init__(self, plan: PolicyPlan, deadline: Deadline, selection: Selection | None = None) -> None:
        self._deadline, self._ceiling_s = deadline, plan.deadline_s
        self._staleness, self._max_staleness = make_staleness(plan.staleness), plan.max_staleness
        self.selection = selection or make_selection(plan.selection)
        self.merge_lr = plan.server_lr
        if isinstance(self.selection, ProbingFloor):
            self.probe_samples = self.selection.probe_samples

    def candidates(self, seen: Sequence[AgentView], fleet: int, rng: Random) -> list[str]:
        return []

    def probe_deadline_s(self, candidates: Sequence[Timings]) -> float:
        """Fetching the version is most of it, so the selection gives them a task's time unless it is told."""
        given_s = self.selection.probe_deadline_s if isinstance(self.selection, ProbingFloor) else None
        return self.round_deadline_s(candidates) if given_s is None else given_s

    def refill(self, seen: Sequence[AgentView], count: int, fleet: int, rng: Random) -> list[str]:
        return self.selection.choose(seen, count, fleet, rng)

    def task_deadline_s(self, timings: Timings) -> float:
        return self._deadline(timings)

    def round_deadline_s(self, cohort: Sequence[Timings]) -> float:
        return max(map(self._deadline, cohort), default=self._ceiling_s)

    def factor(self, staleness: int) -> float | None:
        if self._max_staleness is not None and staleness > self._max_staleness:
            return None
        return self._staleness(staleness)
