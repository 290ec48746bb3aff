"""What an agent wants done: the outputs of `edge_agent.core`, in the order in which they are to be done.

Every action that starts something is answered by exactly one event: `Fetch` by ObjectReady or ObjectFailed, `Train` by
Trained or WorkFailed, `Probe` by Probed or WorkFailed, `Survey` by Surveyed or WorkFailed, `Encode` by Encoded or
WorkFailed, `Commit` by Spooled or SpoolFailed, `Settle` by Settled or SettleFailed. After `StopWork` the running one of
the first five is answered by WorkStopped or by its own event.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from wire import messages as m


class Action(Struct, frozen=True, kw_only=True, tag=True):
    """Base of all actions."""


class Send(Action, frozen=True, kw_only=True):
    """Progress at QoS 0, everything else at QoS 1."""

    message: m.Hello | m.Offer | m.Progress | m.Failed | m.Probed | m.Surveyed | m.Ask


class SendWhole(Action, frozen=True, kw_only=True):
    """The offer with its update in it, as it lies in the spool, and `sent` on record; a mere offer if that cannot be
    read.
    """

    offer: m.Offer


class Fetch(Action, frozen=True, kw_only=True):
    """Get an object and install it: the graph as it is, or (`model` given) the version it leads to.

    `leads_to` is the model's version, or one on the way there along a chain of deltas. `control`: it is the server's
    control variate, of as many parameters as the `model`.
    """

    task: str
    object: m.ObjectRef
    model: m.ModelRef | None
    leads_to: int | None
    control: m.ControlRef | None = None


class Train(Action, frozen=True, kw_only=True):
    """Train on the version held; with `control` against the control variates held."""

    task: str
    spec: m.TrainSpec
    seed: int
    control: m.ControlRef | None = None


class Probe(Action, frozen=True, kw_only=True):
    """Evaluate the loss of the version held on at most `samples` of the shard."""

    task: str
    samples: int
    seed: int


class Survey(Action, frozen=True, kw_only=True):
    """Test the version held on the device's own data; nothing is kept of it."""

    task: str
    spec: m.TrainSpec
    seed: int


class Encode(Action, frozen=True, kw_only=True):
    """Compress what was trained, residual included; write payload and next residual, change nothing that counts."""

    task: str
    version: int
    uplink: m.UplinkSpec
    fetch_s: float
    fetch_bytes: int


class Commit(Action, frozen=True, kw_only=True):
    """Make payload and next residual of an encoded task count, both at once, and durable."""

    task: str
    sha256: str


class Discard(Action, frozen=True, kw_only=True):
    """Forget what was trained or encoded for this task and never committed."""

    task: str


class StopWork(Action, frozen=True, kw_only=True):
    task: str


class StartUpload(Action, frozen=True, kw_only=True):
    """Send chunks of the spooled payload, all or `missing`, within the window. There is at most one upload."""

    task: str
    sha256: str
    chunk_bytes: int
    window_bytes: int
    missing: tuple[int, ...] | None


class StopUpload(Action, frozen=True, kw_only=True):
    task: str


class MarkAcked(Action, frozen=True, kw_only=True):
    """Note on disk that the coordinator has it: it need not be sent again, and its outcome is awaited."""

    task: str


class Settle(Action, frozen=True, kw_only=True):
    """The update of this task is over: add its content back to the residual, or not, and forget it.

    `merged`: a version has it, so the device's control variate moves by what travelled with it.
    """

    task: str
    give_back: bool
    merged: bool = False


class Record(Action, frozen=True, kw_only=True):
    """One line of the history (vocabulary: history.events)."""

    event: str
    fields: dict[str, Any] = field(default_factory=dict)


class Stop(Action, frozen=True, kw_only=True):
    """The run is over: disconnect, exit with 0."""

    reason: str
