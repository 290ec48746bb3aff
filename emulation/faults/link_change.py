"""link_change: another shape on a live link, one direction or both: the bus goes into a tunnel, Wi-Fi falls to 3G."""

from __future__ import annotations

import msgspec

from emulation.faults.base import FaultBase, FaultProblem, Seen, Tools
from topology.plan import Link


class LinkChange(FaultBase):
    kind = "link_change"
    devices_only = True

    def __init__(self) -> None:
        self._wrong: dict[str, list[str]] = {}

    def apply(self, tools: Tools, target: str) -> None:
        now = tools.links.link(target)
        self._wrong[target] = tools.links.change(target, self._changed(tools, target, now))

    @staticmethod
    def _changed(tools: Tools, target: str, now: Link) -> Link:
        """The target's own new link, or shapes that hold for all targets."""
        params = tools.params
        if target in params.links:
            return msgspec.structs.replace(params.links[target], name=f"{now.name}, changed")
        if params.up is None and params.down is None:
            raise FaultProblem("link_change: neither up nor down is given, nothing would change")
        return Link(name=f"{now.name}, changed", up=params.up or now.up, down=params.down or now.down)

    def verify(self, tools: Tools, target: str) -> Seen:
        """What was read back after the change: every parameter as the kernel has it."""
        wrong = self._wrong.get(target, ["was not applied"])
        return Seen(not wrong, "; ".join(wrong) or f"read back: {tools.links.link(target).name}")

    def heal(self, tools: Tools, target: str) -> None:
        self._wrong[target] = tools.links.change(target, tools.links.planned(target))

    def healed(self, tools: Tools, target: str) -> Seen:
        wrong = self._wrong.pop(target, [])
        return Seen(not wrong, "; ".join(wrong) or "read back as planned")
