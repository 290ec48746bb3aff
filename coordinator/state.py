"""The objects of a run and the states a task goes through.

Theory of operation
-------------------
A *task* is one piece of work for one agent: train on version v, offer the update. It is `open` from the moment its row
is in the journal. The first sign of the agent (progress, or a hello with the task in hand) makes it `training`. An
offer makes it `offered`; it waits there while the budget of open grants is used up. `granted` means the coordinator
holds room for its bytes; for a small update that may have been so since the task was sent (`coordinator.inline`). When
all chunks are there and the sha256 is right it is `received`; the service now journals it, and only when that commit
has returned it is `acked`. From `acked` exactly one outcome follows: `merged`, `late` (its round was closed meanwhile),
`surplus` (the round had enough), `stale` or `refused` (the content cannot be merged).

What never came to an ack ends as `failed` (the agent says so, or its bytes are broken again and again), `timed_out`
(the round closed at its deadline), `dropped` (the round went on without an agent that was away) or `cancelled` (the
round, or the run, had what it needed). The agent is told by a `cancel` and gives the content back to its residual.
`refused` before an ack exists for offers that are too large to be let in.

An agent that was killed may come back with nothing: then its task goes back to `open` and is sent again, whatever it
had offered.
`received` has no way back and no way out but `acked`: bytes on their way to the journal are never forgotten.

A *round* is the making of one version: `open`, then `committing` (the service merges and commits the version), then
gone: the version is there. Where the schedule carries (`coordinator.policies.base`), a task outlives its round: what is
`acked` then waits in the common pool for the version that takes it, and the task ends by itself at `expires`.

| from | to | when |
|---|---|---|
| open | training | the first sign of the agent: progress, or a hello with the task in hand |
| open, training | offered | its offer, or a hello with its update spooled |
| training, offered, granted | open | the agent came back with nothing: the same task is sent again |
| offered | granted | there is room for its bytes |
| offered | refused | it is larger than any update can be |
| granted | offered | it lost its spool and offers other bytes |
| granted | received | all chunks are there and the sha256 is right |
| received | acked | the commit that holds the bytes has returned |
| acked | merged | a committed version has it |
| acked | late, surplus | its round, or the run, was over; the round had enough |
| acked | stale | it is more than `max_staleness` versions old |
| acked | refused | its content cannot be merged |
| open, training, offered, granted | failed, timed_out, dropped, cancelled | see above |

A *version* is live while it is the current one or an open task names it: it can be fetched. At most `VERSIONS_LIVE_MAX`
are, so no task is opened that could make the next version one too many.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from coordinator.adaptive import SLOPE_POINTS, UplinkRate
from coordinator.config import BOOTS_KEPT_PER_AGENT, SETTLED_KEPT_PER_AGENT, STORY_LINES
from coordinator.policies.deadlines import Timings
from wire.messages import OutcomeKind, Power, Report, UplinkSpec


class TaskState(StrEnum):
    OPEN = "open"
    TRAINING = "training"
    OFFERED = "offered"
    GRANTED = "granted"
    RECEIVED = "received"
    ACKED = "acked"
    MERGED = "merged"
    LATE = "late"
    SURPLUS = "surplus"
    STALE = "stale"
    REFUSED = "refused"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    DROPPED = "dropped"


S = TaskState
ENDED_WITHOUT_UPDATE = frozenset({S.FAILED, S.TIMED_OUT, S.CANCELLED, S.DROPPED})
LOST = frozenset({S.FAILED, S.TIMED_OUT, S.DROPPED})  # cancelled is no fault of the device
OUTCOME_STATES: dict[TaskState, OutcomeKind] = {
    S.MERGED: "merged",
    S.LATE: "late",
    S.SURPLUS: "surplus",
    S.STALE: "stale",
    S.REFUSED: "refused",
}
FINAL = ENDED_WITHOUT_UPDATE | OUTCOME_STATES.keys()
UNDER_WAY = frozenset({S.OPEN, S.TRAINING, S.OFFERED, S.GRANTED, S.RECEIVED})

TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    S.OPEN: frozenset({S.TRAINING, S.OFFERED}) | ENDED_WITHOUT_UPDATE,
    S.TRAINING: frozenset({S.OPEN, S.OFFERED}) | ENDED_WITHOUT_UPDATE,
    S.OFFERED: frozenset({S.OPEN, S.GRANTED, S.REFUSED}) | ENDED_WITHOUT_UPDATE,
    S.GRANTED: frozenset({S.OPEN, S.OFFERED, S.RECEIVED}) | ENDED_WITHOUT_UPDATE,
    S.RECEIVED: frozenset({S.ACKED}),
    S.ACKED: frozenset(OUTCOME_STATES),
} | {state: frozenset() for state in FINAL}


class IllegalTransition(AssertionError):
    """A bug of ours: the object cannot go there. Tells the object's story."""

    def __init__(self, task: Task, to: TaskState) -> None:
        story = "\n  ".join(task.story)
        super().__init__(
            f"task {task.id} of {task.agent}: {task.state} -> {to} is not allowed; its story:\n  {story}"
        )
        self.task, self.to = task, to


@dataclass(slots=True)
class Task:
    """Times are of the core's clock (monotonic seconds)."""

    id: str
    agent: str
    round: int
    version: int
    seed: int
    deadline: float  # until then it is expected
    deadline_s: float = 0.0  # of which it is made, anew after a restart
    expires: float = float("inf")  # it ends by itself; a task that does not outlive its round has no need to
    opened: float | None = None  # None: in another life of ours, whose clock is gone
    uplink: UplinkSpec | None = None  # None after a restart: chosen anew when it is sent again
    state: TaskState = S.OPEN
    since: float = 0.0  # when it entered its state
    phase: str = "sent"  # what the agent last said it does
    phase_since: float = 0.0
    heard: float = 0.0  # last sign of the agent about this task, or our last attempt to get one
    sha256: str = ""
    bytes: int = 0
    report: Report | None = None
    position: int = -1  # order of arrival, once received
    samples: int = 0  # what counts: claimed, capped by the shard
    defect: str = ""  # why its content cannot be merged
    broken: int = 0
    version_merged: int | None = None
    reason: str = ""
    story: deque[str] = field(default_factory=lambda: deque(maxlen=STORY_LINES))

    @property
    def ended(self) -> bool:
        return self.state in FINAL

    @property
    def outcome(self) -> OutcomeKind | None:
        return OUTCOME_STATES.get(self.state)

    @property
    def mergeable(self) -> bool:
        return self.state is S.ACKED and not self.defect

    def go(self, to: TaskState, now: float, why: str) -> None:
        """Move to `to`; raises IllegalTransition when the table does not have it."""
        if to not in TRANSITIONS[self.state]:
            raise IllegalTransition(self, to)
        self.story.append(f"{now:.3f} {self.state} -> {to}: {why}")
        self.state, self.since, self.heard = to, now, now

    def enter_phase(self, phase: str, now: float) -> bool:
        """Returns whether it is another phase than before."""
        self.heard = now
        if phase == self.phase:
            return False
        self.phase, self.phase_since = phase, now
        return True


class Tiers(Struct, frozen=True):
    """Who is in which tier, from 1, the fastest, and how many versions each has made; see `coordinator.tiers`.

    `since`: the first version that is made by these tiers.
    """

    of: dict[str, int]
    merges: dict[int, int]
    since: int = 2


class ProbedLoss(NamedTuple):
    version: int
    loss: float


@dataclass(slots=True)
class Probe:
    """Losses that are asked for before a round; see `coordinator.probing`."""

    task: str
    round: int
    version: int
    since: float
    deadline: float
    owing: dict[str, float]  # who has not answered: its last sign, or our last attempt to get one
    candidates: list[str]


@dataclass(slots=True)
class Agent:
    """`online` only after a hello on this connection: what the broker retained proves nothing."""

    name: str
    boot: str = ""
    online: bool = False
    away_since: float = 0.0  # when it went, or when we began to wait for it
    announced: bool = False  # the history says it is online
    version: int | None = None
    settled: deque[str] = field(default_factory=lambda: deque(maxlen=SETTLED_KEPT_PER_AGENT))
    task: str = ""  # the one it works for us on; empty when it is free
    last_task: int = 0  # the number of its last task among all; for fairness
    merged: int = 0  # updates of it that a version has
    delivered: int = 0  # updates of it that the journal has
    lost: int = 0  # its tasks in one of LOST
    boots: deque[str] = field(default_factory=lambda: deque(maxlen=BOOTS_KEPT_PER_AGENT))  # heard of
    variate_lost: int = 0  # updates merged of it when it had lost its control variate, as was told
    utility: float | None = None  # of the last update that the journal has; for selection
    used_round: int = 0  # the round of that update
    timings: Timings = field(default_factory=Timings)
    update_bytes: int = 0  # of its last update in this life of ours
    power: Power | None = None  # as it last said; None on mains
    uplink: UplinkRate | None = None  # as `compression: auto` measured it
    share: float = 0.0  # of an update, as it was last chosen
    samples: int = 0  # of its own data, as it last said, within what a device can have
    probed: ProbedLoss | None = None  # as its last probe had it


@dataclass(slots=True)
class Round:
    number: int
    version: int  # what its tasks train on; its merge makes version + 1
    target: int  # updates that make it complete
    quorum: int  # updates that make it valid
    opened: float
    deadline_s: float
    deadline: float
    cohort: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)  # tasks of one agent that led to no update
    extensions: int = 0
    quiet_since: float = 0.0  # the last update, or the opening
    committing: bool = False
    taken: list[str] = field(default_factory=list)  # what the commit under way has, in its order
    share: float = 1.0  # what its updates count with, beside their age, where the schedule has groups
    close_reason: str = ""
    missing: tuple[str, ...] = ()


@dataclass(slots=True)
class Survey:
    """Tests of the last version on the devices (`coordinator.survey`). `asked`: who has not answered, and when it was
    last asked.
    """

    task: str
    deadline: float
    asked: dict[str, float]


class RunPhase(StrEnum):
    GATHERING = "gathering"  # waiting for agents before the next round
    PROBING = "probing"  # waiting for the losses that its selection goes by
    COLLECTING = "collecting"  # a round is open
    EVALUATING = "evaluating"  # with a target: the next round waits for the evaluation
    SURVEYING = "surveying"  # nothing is trained any more; devices test the last version on their own data
    FINISHING = "finishing"  # everything is said, agents go
    DONE = "done"


@dataclass(slots=True)
class CoordinatorState:
    agents: dict[str, Agent]
    epoch: int = 1
    version: int = 0
    version_sha256: str = ""
    phase: RunPhase = RunPhase.GATHERING
    phase_since: float = 0.0
    started: bool = False
    round: Round | None = None
    rounds_done: int = 0
    tiers: Tiers | None = None  # where the schedule has some, once they are cut
    probe: Probe | None = None
    probed_round: int = 0  # the last round that losses were asked for
    tasks: dict[str, Task] = field(default_factory=dict)
    unended: dict[str, Task] = field(default_factory=dict)  # those of `tasks` that are under way or acked
    live: list[int] = field(default_factory=list)  # versions that can be fetched, oldest first
    reachable: frozenset[int] | None = None  # after a restart: versions that there is still a copy of
    evaluating: int | None = None  # the version whose evaluation is under way
    offers: deque[str] = field(default_factory=deque)  # tasks that wait for a grant, first come first served
    grants: dict[str, int] = field(default_factory=dict)  # task -> bytes there is room for
    granted_bytes: int = 0  # their sum
    reserved: dict[str, int] = field(default_factory=dict)  # task -> bytes, see `coordinator.inline`
    reserved_bytes: int = 0  # their sum
    tasks_made: int = 0
    gains: list[float] = field(default_factory=list)  # summed utility of every version's updates, from 1
    positions_made: int = 0
    accuracy: float | None = None
    evaluated_version: int = -1
    first_accuracy: float | None = None
    accuracies: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=SLOPE_POINTS))
    target_met: bool = False
    waiting_recorded: float = float("-inf")
    wait_until: float = float("inf")  # when the policy wants to be asked again
    finish_reason: str = ""
    survey: Survey | None = None
    goodbye_from: float = float("-inf")  # after a restart: nobody has had the time to say hello before

    @property
    def accuracy_gained(self) -> float:
        """Since the first evaluation of this life of ours, at the best of the last ones."""
        best = max((accuracy for _, accuracy in self.accuracies), default=0.0)
        return best - self.first_accuracy if self.first_accuracy is not None else 0.0

    @property
    def under_way(self) -> list[Task]:
        return [task for task in self.unended.values() if task.state in UNDER_WAY]

    @property
    def pool(self) -> list[Task]:
        """Acked updates that can be merged, in the order of their arrival."""
        return sorted((t for t in self.unended.values() if t.mergeable), key=lambda task: task.position)
