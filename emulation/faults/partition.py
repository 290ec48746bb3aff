"""partition: nothing passes between the device and the broker, in both directions or in one. Nobody is told: packets
vanish, connections stay open until they time out. Verified by packets that do not arrive.
"""

from __future__ import annotations

from emulation.faults.base import FaultBase, Seen, Tools
from emulation.links.base import DIRECTIONS, Direction


class Partition(FaultBase):
    kind = "partition"
    devices_only = True

    def apply(self, tools: Tools, target: str) -> None:
        tools.links.cut(target, ways_of(tools))

    def verify(self, tools: Tools, target: str) -> Seen:
        ways = ways_of(tools)
        passing = [way for way in ways if tools.links.passes(target, way)]
        return Seen(not passing, f"{' and '.join(passing or ways)} {'still pass' if passing else 'cut'}")

    def heal(self, tools: Tools, target: str) -> None:
        tools.links.mend(target)

    def healed(self, tools: Tools, target: str) -> Seen:
        """Of a device that has died meanwhile there is no link to look at; its next boot gets a whole one."""
        if target not in tools.links.in_force:
            return Seen(True, "the device is away")
        deaf = [way for way in DIRECTIONS if not tools.links.passes(target, way)]
        return Seen(not deaf, f"nothing passes {' and '.join(deaf)}" if deaf else "both ways pass")


def ways_of(tools: Tools) -> tuple[Direction, ...]:
    if tools.params.direction == "both":
        return DIRECTIONS
    return (tools.params.direction,)
