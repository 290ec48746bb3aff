"""No shaping at all: the run says so (`probed` with backend none), and a shape that was asked for is a lapse."""

from __future__ import annotations

from emulation.links.base import Backend, Counters, LinkEnds, Probe, Readback
from topology.link_features import unsupported_link
from topology.plan import Link


class NoneBackend(Backend):
    name = "none"

    def probe(self) -> Probe:
        return Probe(self.name, True, "always there; links are not shaped")

    def start(self) -> str:
        return "nothing runs"

    def alive(self) -> bool:
        return True

    def apply(self, ends: LinkEnds, link: Link) -> None:
        """Nothing is changed."""

    def change(self, ends: LinkEnds, link: Link) -> None:
        """Nothing is changed."""

    def verify(self, ends: LinkEnds, link: Link) -> Readback:
        return Readback({}, tuple(unsupported_link(self.name, link)))

    def counters(self, ends: LinkEnds) -> Counters:
        return Counters()

    def clear(self, ends: LinkEnds) -> None:
        """There is nothing to take away."""

    def stop(self) -> None:
        """Nothing runs."""
