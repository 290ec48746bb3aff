"""packet_corruption: a share of the packets has one bit flipped. The device's own link with that on top; how a bit is
flipped is the backend's business (`Shape.corrupt`), and one that cannot is refused before the run.
"""

from __future__ import annotations

from emulation.faults.base import Seen, Tools
from emulation.faults.link_change import LinkChange


class PacketCorruption(LinkChange):
    kind = "packet_corruption"

    def verify(self, tools: Tools, target: str) -> Seen:
        seen, link = super().verify(tools, target), tools.links.link(target)
        return Seen(
            seen.ok and link.up.corrupt > 0, f"{seen.detail}; {link.up.corrupt:.3g} of the packets up"
        )
