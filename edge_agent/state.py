"""The phases of a task on its device, and what an agent holds.

Theory of operation
-------------------
An agent works on one task at a time, the one *in hand*; its updates (*items*) live on beside it until they are settled.

A *probe* asks for a loss instead of an update: it ends in hand, with the answer, and never becomes an item.

In hand, a task is first `fetching` what the device lacks: the graph, and the model version, by a delta from the version
held if the coordinator offers one that is smaller, whole otherwise. `training` and `encoding` are work of seconds to
minutes in another thread. Encoding writes the payload and the next residual to new files; `spooling` commits both with
one rename. Until that commit the residual is what it was before the task, so work that is lost is lost whole and the
residual never holds half of it. `stopping` waits for the thread to let go of a task that was cancelled.

From the commit on, the update is an item: `offered`, then `uploading` once there is a grant, then `sent` when the
broker has confirmed all chunks, which proves nothing: only the coordinator's ack makes it `acked`. An update that is
small enough for the room its task came with goes out within its offer, and waits for the ack there. A lost connection
voids grants and that room, so `uploading` and `sent` fall back to `offered`. `settling` means the fate is known and the
disk has to follow: content that was not merged goes back to the residual, unless it was refused. An item may be settled
from every phase, since an outcome can overtake an ack and a cancel can come at any time.

    in hand:  fetching -> training -> encoding -> spooling -> (an item)
              any but spooling -> stopping -> ended;  a survey: training -> ended
    item:     offered -> uploading -> sent -> acked -> settling -> ended
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from edge_agent.paths import Wanted
from wire import messages as m


class Phase(StrEnum):
    FETCHING = "fetching"
    TRAINING = "training"
    ENCODING = "encoding"
    SPOOLING = "spooling"
    STOPPING = "stopping"
    OFFERED = "offered"
    UPLOADING = "uploading"
    SENT = "sent"
    ACKED = "acked"
    SETTLING = "settling"
    ENDED = "ended"


P = Phase
IN_HAND = frozenset({P.FETCHING, P.TRAINING, P.ENCODING, P.SPOOLING, P.STOPPING})
UNACKED = frozenset({P.OFFERED, P.UPLOADING, P.SENT})
# The worker reads the residual or has written the next one: nobody else may change it now.
RESIDUAL_BUSY = frozenset({P.ENCODING, P.SPOOLING})

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    P.FETCHING: frozenset({P.TRAINING, P.STOPPING, P.ENDED}),
    P.TRAINING: frozenset({P.ENCODING, P.STOPPING, P.ENDED}),
    P.ENCODING: frozenset({P.SPOOLING, P.STOPPING, P.ENDED}),
    P.SPOOLING: frozenset({P.OFFERED, P.ENDED}),
    P.STOPPING: frozenset({P.ENDED}),
    P.OFFERED: frozenset({P.UPLOADING, P.ACKED, P.SETTLING}),
    P.UPLOADING: frozenset({P.OFFERED, P.SENT, P.ACKED, P.SETTLING}),
    P.SENT: frozenset({P.OFFERED, P.UPLOADING, P.ACKED, P.SETTLING}),
    P.ACKED: frozenset({P.SETTLING}),
    P.SETTLING: frozenset({P.ENDED}),
    P.ENDED: frozenset(),
}


class IllegalTransition(AssertionError):
    """A bug of ours: the task cannot go there. Tells the agent's story."""

    def __init__(self, task: str, here: Phase, to: Phase, story: deque[str]) -> None:
        lines = "\n  ".join(story)
        super().__init__(f"task {task}: {here} -> {to} is not allowed; the story:\n  {lines}")
        self.task, self.here, self.to = task, here, to


@dataclass(slots=True)
class Hand:
    """The task in hand. Times are of the core's clock (monotonic seconds)."""

    order: m.Task
    phase: Phase
    give_up_at: float
    wanted: list[Wanted] = field(default_factory=list)  # left to fetch, in this order
    tries: int = 0
    fetch_s: float = 0.0
    fetch_bytes: int = 0
    done: int = 0
    total: int = 0
    sha256: str = ""  # once encoded
    bytes: int = 0
    report: m.Report | None = None
    inline_bytes: int = 0  # room that is kept for the update, on this connection
    stopped_in: Phase | None = None  # which work a StopWork was sent to
    fate: m.Cancel | m.Outcome | None = None  # came while spooling: decided as soon as the item is there

    @property
    def task(self) -> str:
        return self.order.task

    @property
    def residual_busy(self) -> bool:
        return self.phase in RESIDUAL_BUSY or (self.phase is P.STOPPING and self.stopped_in in RESIDUAL_BUSY)


@dataclass(slots=True)
class Item:
    """An update on disk that is not settled yet."""

    task: str
    sha256: str
    bytes: int
    report: m.Report
    phase: Phase = P.OFFERED
    grant: m.Grant | None = None  # leave to send that is not used up
    inline: bool = False  # leave to send it with its offer, once
    offer_at: float = 0.0  # when to offer (again)
    offered_times: int = 0  # since it last fell back to `offered`
    done: int = 0
    total: int = 0
    was_acked: bool = False
    outcome: str = ""  # what it is settled as
    give_back: bool = False
    settle_at: float = 0.0
    settle_sent: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a task that is over came to its end; `kind`: settled, cancelled, superseded, failed, probed or surveyed."""

    kind: str
    reason: str
    answer: m.Probed | m.Surveyed | None = None  # of a probe or a survey: said again when it is asked again


@dataclass(slots=True)
class Restored:
    """What the disk still knew when the process started."""

    items: tuple[Item, ...] = ()
    version: int | None = None
    version_sha256: str | None = None
    graph_sha256: str | None = None
    control_sha256: str | None = None
    variate: bool = False  # the device's own


@dataclass(slots=True)
class AgentState:
    boot: str
    samples: int
    version: int | None = None
    version_sha256: str | None = None
    graph_sha256: str | None = None
    control_sha256: str | None = None
    variate: bool = False
    online: bool = False
    hand: Hand | None = None
    waiting: m.Task | None = None  # begins as soon as the worker lets go of the task in hand
    items: dict[str, Item] = field(default_factory=dict)  # oldest first
    ended: dict[str, Ended] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)  # messages that made no sense, by reason
    hello_at: float = 0.0  # when to say hello again if nothing was heard
    hellos: int = 0  # without hearing anything
    ask_at: float = 0.0
    progress_at: float = 0.0
    finished: bool = False
    story: deque[str] = field(default_factory=deque)

    @property
    def uploading(self) -> Item | None:
        return next((item for item in self.items.values() if item.phase is P.UPLOADING), None)

    def go(self, what: Hand | Item, to: Phase, now: float, why: str) -> None:
        """Move to `to`; raises IllegalTransition when the table does not have it."""
        if to not in TRANSITIONS[what.phase]:
            raise IllegalTransition(what.task, what.phase, to, self.story)
        self.story.append(f"{now:.3f} {what.task}: {what.phase} -> {to}: {why}")
        what.phase = to
