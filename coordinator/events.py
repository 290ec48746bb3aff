"""What happens to the coordinator: the inputs of `coordinator.core`.

Every event is frozen and carries an id, given by the service in the order it feeds the core, so that a list of
(event, now) replays a run. Results of input and output (a commit that returned, an evaluation) come back as events too.
"""

from __future__ import annotations

from msgspec import Struct, field

from wire import messages as m


class Event(Struct, frozen=True, kw_only=True, tag=True):
    """`more`: another event follows at once, so there is no need to look at the whole run after this one."""

    id: int = 0
    more: bool = False


class Started(Event, frozen=True, kw_only=True):
    """The service is up; `resumed` when the journal already held a run."""

    resumed: bool = False


class Connected(Event, frozen=True, kw_only=True):
    """A (re)connection to the broker. What it remembers is not trusted: agents confirm themselves by a hello."""

    session_present: bool = False


class Disconnected(Event, frozen=True, kw_only=True):
    reason: str = ""


class MessageArrived(Event, frozen=True, kw_only=True):
    """A decoded control message. `agent` is taken from the topic, which the broker's ACL guards."""

    agent: str
    message: m.Up


class StatusRefused(Event, frozen=True, kw_only=True):
    """A status of an agent that makes no sense. It may be its last will, and no other will come."""

    agent: str


class ChunksHeard(Event, frozen=True, kw_only=True):
    """Chunks of a granted update are arriving (at most one event a second and task)."""

    agent: str
    task: str


class UpdateReceived(Event, frozen=True, kw_only=True):
    """All chunks are there and the sha256 matches. `defect` says why the content can not be merged, empty if it can.
    `chunks` 0: it came with its offer.
    """

    agent: str
    task: str
    sha256: str
    bytes: int
    payload_bytes: int
    chunks: int
    defect: str = ""


class OfferedWhole(Event, frozen=True, kw_only=True):
    """An offer that had its update with it. The bytes are whole and match; the `offer` here is without them."""

    offer: m.Offer
    received: UpdateReceived

    @property
    def agent(self) -> str:
        return self.received.agent


class UpdateBroken(Event, frozen=True, kw_only=True):
    """All chunks are there, but together they are not what was offered; they have been thrown away."""

    agent: str
    task: str
    reason: str


class UpdateJournalled(Event, frozen=True, kw_only=True):
    """The commit that holds this update has returned."""

    agent: str
    task: str
    sha256: str


class VersionCommitted(Event, frozen=True, kw_only=True):
    """The version, its ordered merges and their outcomes are committed. `refused`: (task, reason) left out of it."""

    version: int
    sha256: str
    refused: tuple[tuple[str, str], ...] = ()


class Evaluated(Event, frozen=True, kw_only=True):
    """`accuracy` None: a regression has none. `metrics`: f1, mse, perplexity, as far as they have a meaning.
    `confusion[true][predicted]` counts, empty for more classes than a record keeps.
    """

    version: int
    accuracy: float | None
    loss: float
    samples: int
    per_class: tuple[float | None, ...] = ()  # None: no sample of that class
    metrics: dict[str, float] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()


class EvaluationFailed(Event, frozen=True, kw_only=True):
    version: int
    reason: str


class Tick(Event, frozen=True, kw_only=True):
    """Time passed: the moment of `next_wakeup` is there, or just now."""
