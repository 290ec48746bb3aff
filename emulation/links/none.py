"""No shaping at all: the run says so (`probed` with backend none), and a shape that was asked for is a lapse."""

from __future__ import annotations

from emulation.links.base import Backend, Counters, LinkEnds, Probe, Readback
from topology.plan import Link, Shape


class NoneBackend(Backend):
    name = "none"

    def probe(self) -> Probe:
        return Probe(self.name, True, "always there; links are not shaped")

    def unsupported(self, shape: Shape) -> list[str]:
        asked = {
            "rate": shape.rate_bit_s is not None,
            "delay": shape.delay_s > 0,
            "jitter": shape.jitter_s > 0,
            "loss": shape.loss > 0,
        }
        return [f"{name}: nothing shapes links on this machine" for name, wanted in asked.items() if wanted]

    def start(self) -> str:
        return "nothing runs"

    def alive(self) -> bool:
        return True

    def apply(self, ends: LinkEnds, link: Link) -> None:
        """Nothing is changed."""

    def verify(self, ends: LinkEnds, link: Link) -> Readback:
        asked = [f"{way}: {text}" for way in ("up", "down") for text in self.unsupported(getattr(link, way))]
        return Readback({}, tuple(asked))

    def counters(self, ends: LinkEnds) -> Counters:
        return Counters()

    def clear(self, ends: LinkEnds) -> None:
        """There is nothing to take away."""

    def stop(self) -> None:
        """Nothing runs."""
