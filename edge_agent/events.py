"""What happens to an agent: the inputs of `edge_agent.core`. Results of work, disk and network come back as events."""

from __future__ import annotations

from msgspec import Struct

from wire import messages as m


class Event(Struct, frozen=True, kw_only=True, tag=True):
    """Base of all events."""


class Connected(Event, frozen=True, kw_only=True):
    """A (re)connection to the broker; what the broker remembers is not trusted."""

    session_present: bool = False


class Disconnected(Event, frozen=True, kw_only=True):
    reason: str = ""


class MessageArrived(Event, frozen=True, kw_only=True):
    """A message that decoded; bytes that did not are counted by the service."""

    message: m.Down


class ObjectReady(Event, frozen=True, kw_only=True):
    """An object was fetched, checked by its sha256 and installed. A model (not a graph) names its version.

    `control`: it is the server's control variate.
    """

    task: str
    name: str
    bytes: int
    wall_s: float
    version: int | None = None
    sha256: str = ""  # of the object; of the version's bits if it is a model
    control: bool = False


class ObjectFailed(Event, frozen=True, kw_only=True):
    task: str
    name: str
    reason: str


class Trained(Event, frozen=True, kw_only=True):
    """The worker holds the delta of this task."""

    task: str
    samples: int
    steps: int
    loss: float
    train_s: float
    step_s: float
    peak_rss_bytes: int


class Probed(Event, frozen=True, kw_only=True):
    """The loss that was asked for."""

    task: str
    loss: float
    samples: int
    wall_s: float


class Surveyed(Event, frozen=True, kw_only=True):
    """What the version came to on the device's own data."""

    task: str
    figures: m.LocalFigures


class Encoded(Event, frozen=True, kw_only=True):
    """Payload and next residual are on disk, named by nothing yet: only a commit makes them count."""

    task: str
    sha256: str
    bytes: int
    report: m.Report


class WorkFailed(Event, frozen=True, kw_only=True):
    """Training or encoding came to nothing; the residual is what it was before the task."""

    task: str
    reason: str


class WorkStopped(Event, frozen=True, kw_only=True):
    """The answer to StopWork, unless the work ended by itself just before."""

    task: str


class Spooled(Event, frozen=True, kw_only=True):
    """The commit that makes payload and residual count is on disk."""

    task: str
    sha256: str


class SpoolFailed(Event, frozen=True, kw_only=True):
    """Nothing changed on disk (it is full, or cannot be written)."""

    task: str
    reason: str


class WorkProgressed(Event, frozen=True, kw_only=True):
    """Fetching (bytes) or training (steps) went on."""

    task: str
    done: int
    total: int


class UploadProgressed(Event, frozen=True, kw_only=True):
    task: str
    sha256: str
    done: int
    total: int


class UploadDone(Event, frozen=True, kw_only=True):
    """The broker has confirmed every chunk that was granted. That is no ack."""

    task: str
    sha256: str
    payload_bytes: int
    chunks: int
    resent: int


class Settled(Event, frozen=True, kw_only=True):
    """The residual on disk is settled and the item is gone from it. `variate`: the disk holds a control variate."""

    task: str
    residual_norm: float
    variate: bool = False


class SettleFailed(Event, frozen=True, kw_only=True):
    """Nothing changed on disk."""

    task: str
    reason: str


class Tick(Event, frozen=True, kw_only=True):
    """Time passed."""
