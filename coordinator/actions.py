"""What the coordinator wants done: the outputs of `coordinator.core`.

The contract of the service that executes a list of actions:

1. Everything that is a `JournalAction` is applied in order and committed *before* anything else of the list is done.
   Nothing may leave for the network, the history or another thread before that commit has returned.
2. The rest is done in order.
3. Results come back as events: `JournalUpdate` -> `UpdateJournalled`, `CommitVersion` -> `VersionCommitted`,
   `Evaluate` -> `Evaluated` or `EvaluationFailed`.

`id` counts actions, `cause` is the id of the event that led to it.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from wire import messages as m


class Action(Struct, frozen=True, kw_only=True, tag=True):
    id: int = 0
    cause: int = 0


# --- journal: committed before anything else ----------------------------------------------------------------------


class JournalAction(Action, frozen=True, kw_only=True):
    """Base of everything that must be durable first."""


class JournalRound(JournalAction, frozen=True, kw_only=True):
    """A round opened, or changed (an extension); the same number overwrites."""

    round: int
    version: int
    cohort: tuple[str, ...]
    target: int
    quorum: int
    deadline_s: float
    extensions: int


class JournalTask(JournalAction, frozen=True, kw_only=True):
    task: str
    agent: str
    round: int
    version: int
    seed: int
    deadline_s: float


class JournalUpdate(JournalAction, frozen=True, kw_only=True):
    """Keep the assembled bytes of this update. `position` is the order of arrival: the order of accumulation."""

    task: str
    agent: str
    sha256: str
    bytes: int
    samples: int
    position: int
    report: m.Report | None
    defect: str


class JournalClose(JournalAction, frozen=True, kw_only=True):
    """A task came to its end; `outcome` is set when an acked update is settled by it."""

    task: str
    state: str
    reason: str
    outcome: str | None = None


class MergeItem(Struct, frozen=True):
    """One update of a version, in the order of accumulation; neither number changes after this.

    `samples`: n, capped by what the task declared. `factor`: s, the damping by staleness, 1 when fresh.
    """

    task: str
    agent: str
    sha256: str
    samples: int
    factor: float = 1.0


class CommitVersion(JournalAction, frozen=True, kw_only=True):
    """Merge `updates` in order onto the master of version-1; version, merges and outcomes in one transaction."""

    version: int
    round: int
    server_lr: float
    updates: tuple[MergeItem, ...]


class JournalEvaluation(JournalAction, frozen=True, kw_only=True):
    version: int
    accuracy: float | None
    loss: float


class JournalMemo(JournalAction, frozen=True, kw_only=True):
    """What a policy has learned, by key (`timings/<agent>`): JSON, the last one counts."""

    key: str
    value: str


class JournalFinish(JournalAction, frozen=True, kw_only=True):
    """The run has an end: a restart after this only says goodbye again."""

    reason: str


# --- network, threads, history ------------------------------------------------------------------------------------


class Send(Action, frozen=True, kw_only=True):
    agent: str
    message: m.Ack | m.Outcome | m.Cancel | m.Resync | m.Finish


class SendTask(Action, frozen=True, kw_only=True):
    """The service adds the references to model and graph; `deadline_s` is what is left from now. `inline_bytes`: room
    that is kept for its update.
    """

    agent: str
    task: str
    round: int
    version: int
    seed: int
    deadline_s: float
    uplink: m.UplinkSpec
    inline_bytes: int = 0
    probe: int = 0  # only a loss is wanted, on so many samples at most; 0: an update
    survey: bool = False


class SendGrant(Action, frozen=True, kw_only=True):
    """Make room for `bytes` and let them come. With some chunks of this content there, only the missing are asked."""

    agent: str
    task: str
    sha256: str
    bytes: int
    chunk_bytes: int
    window_bytes: int


class DropAssembly(Action, frozen=True, kw_only=True):
    """Chunks of this task are no longer wanted."""

    agent: str
    task: str


class PublishVersion(Action, frozen=True, kw_only=True):
    """Make the version the current one: publish it and its delta, withdraw what no task can need any more.

    `keep`: older versions that open tasks name; they stay, or are published again after a restart.
    """

    version: int
    round: int
    keep: tuple[int, ...] = ()


class WithdrawVersion(Action, frozen=True, kw_only=True):
    """No open task names this older version any more."""

    version: int


class Republish(Action, frozen=True, kw_only=True):
    """Publish every live object again: the broker may have forgotten them."""


class Evaluate(Action, frozen=True, kw_only=True):
    version: int
    round: int


class Refused(Action, frozen=True, kw_only=True):
    """A message that made no sense, with its sender; the service counts and records it at a bounded rate."""

    agent: str
    kind: str
    reason: str


class Record(Action, frozen=True, kw_only=True):
    """One line of the history (vocabulary: history.events)."""

    event: str
    fields: dict[str, Any] = field(default_factory=dict)


class Stop(Action, frozen=True, kw_only=True):
    """Everything is said. Exit with 0 when the run reached its end (`ok`), 1 otherwise."""

    ok: bool
    reason: str
