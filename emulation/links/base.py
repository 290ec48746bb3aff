"""What every link backend does, and what it is told.

A link is shaped per direction: `up` from the device to the broker, `down` the other way. A backend can: say whether
this machine can do it (`probe`), put a link in force (`apply`, idempotent, writes everything), give a live link
another shape (`change`, writes what differs from the last), tell whether it is in force still (`verify`, a read-back
of everything written), and take it away (`clear`). What a backend cannot do at all is a table
(`topology.link_features`), so that a topology is refused before anything starts. Measuring is apart
(`emulation.measure`), because what is measured must not depend on who shaped it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from emulation.commands import NOT_INSTALLED
from emulation.netns import NamespaceError, Netns
from topology.plan import Link

Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, Direction] = ("up", "down")


@dataclass(frozen=True)
class Probe:
    """Whether a backend works here; `reason` says why or why not, in words for the record and for `doctor`.

    Not `sure`: it could not be tried, for want of rights or of a program that hostd's image has.
    """

    backend: str
    ok: bool
    reason: str
    sure: bool = True

    @classmethod
    def failed(cls, backend: str, error: Exception) -> Probe:
        untried = isinstance(error, NamespaceError) or getattr(error, "returncode", None) == NOT_INSTALLED
        return cls(backend, False, str(error), sure=not untried)


@dataclass(frozen=True)
class LinkEnds:
    """Where one device's link is. `queue` is its NFQUEUE number; `seed` names its random sequences.

    The device's own interface and the broker's are named as seen inside; `host_interface` is the other end of
    the device's veth, in the host's namespace `host`.
    """

    device: str
    address: str
    queue: int
    seed: str
    device_boot: str
    broker_boot: str
    device_ns: Netns
    device_interface: str
    host: Netns
    host_interface: str
    broker_ns: Netns
    broker_interface: str
    broker_address: str


@dataclass(frozen=True)
class Readback:
    """What is in force according to the kernel. `mismatches` are sentences; none means all that was asked is
    there.
    """

    values: dict[str, object]
    mismatches: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counters:
    """Since the link was applied. `late_s_max`: worst delay beyond the one due, of a packet let go."""

    packets: dict[Direction, int] = field(default_factory=dict)
    dropped: dict[Direction, int] = field(default_factory=dict)
    overflowed: dict[Direction, int] = field(default_factory=dict)
    late_s_max: dict[Direction, float] = field(default_factory=dict)


Ends = TypeVar("Ends", contravariant=True)


class LinkBackend(Protocol[Ends]):
    """`Ends` is where a link is: namespaces and interfaces (`LinkEnds`), or the ports of a relay."""

    name: str
    loses_after_rate: bool = True  # whether packets are lost behind the shaper, or before it

    def probe(self) -> Probe: ...

    def start(self) -> str:
        """Start whatever runs for all links (a process); before the first `apply`. What it is, for the record."""
        ...

    def alive(self) -> bool:
        """Whether what runs for all links still runs; `start` and `apply` for every link put it right."""
        ...

    def apply(self, ends: Ends, link: Link) -> None: ...

    def change(self, ends: Ends, link: Link) -> None:
        """Another shape on a link that is in force; packets under way keep theirs. Cheap: it may come every second."""
        ...

    def verify(self, ends: Ends, link: Link) -> Readback: ...

    def counters(self, ends: Ends) -> Counters: ...

    def clear(self, ends: Ends) -> None:
        """Take the shaping away; what is gone already is no error."""
        ...

    def stop(self) -> None: ...


Backend = LinkBackend[LinkEnds]  # what hostd chooses from
