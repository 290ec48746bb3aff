"""The objects of a run and the states a task goes through.

Theory of operation
-------------------
A *task* is one piece of work for one agent: train on version v, offer the update. It is `open` from the moment its row
is in the journal. The first sign of the agent (progress, or a hello with the task in hand) makes it `training`. An
offer makes it `offered`; it waits there while the budget of open grants is used up. `granted` means the coordinator
holds room for its bytes. When all chunks are there and the sha256 is right it is `received`; the service now journals
it, and only when that commit has returned it is `acked`. From `acked` exactly one outcome follows: `merged`, `late`
(its round was closed meanwhile), `surplus` (the round had enough), `stale` or `refused` (the content cannot be merged).

What never came to an ack ends as `failed` (the agent says so, or its bytes are broken again and again), `timed_out`
(the round closed at its deadline), `dropped` (the round went on without an agent that was away) or `cancelled` (the
round, or the run, had what it needed). The agent is told by a `cancel` and gives the content back to its residual.
`refused` before an ack exists for offers that are too large to be let in.

An agent that was killed may come back with nothing: then its task goes back to `open` and is sent again, whatever it
had offered.
`received` has no way back and no way out but `acked`: bytes on their way to the journal are never forgotten.

A *round* is `open`, then `committing` (the service merges and commits the version), then gone: the version is there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from coordinator.config import SETTLED_KEPT_PER_AGENT, STORY_LINES
from wire.messages import OutcomeKind, Report


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
    deadline: float
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
    attempts: dict[str, int] = field(default_factory=dict)
    extensions: int = 0
    committing: bool = False
    close_reason: str = ""
    missing: tuple[str, ...] = ()


class RunPhase(StrEnum):
    GATHERING = "gathering"  # waiting for agents before the next round
    COLLECTING = "collecting"  # a round is open
    EVALUATING = "evaluating"  # with a target: the next round waits for the evaluation
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
    tasks: dict[str, Task] = field(default_factory=dict)
    offers: deque[str] = field(default_factory=deque)  # tasks that wait for a grant, first come first served
    grants: dict[str, int] = field(default_factory=dict)  # task -> bytes there is room for
    tasks_made: int = 0
    positions_made: int = 0
    accuracy: float | None = None
    evaluated_version: int = -1
    target_met: bool = False
    waiting_recorded: float = float("-inf")
    finish_reason: str = ""
    goodbye_from: float = float("-inf")  # after a restart: nobody has had the time to say hello before

    @property
    def granted_bytes(self) -> int:
        return sum(self.grants.values())
