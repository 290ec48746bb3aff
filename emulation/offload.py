"""Turn segmentation offloads off through SIOCETHTOOL, without the ethtool program.

A veth carries super-packets by default (measured: 42 kB on average); then "2 % loss" drops 42 kB at a time
and a queue of bytes holds one packet. With offloads off packets are what the wire would carry.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

SIOCETHTOOL = 0x8946
# linux/ethtool.h: (get, set) commands of the legacy interface, which every kernel in use still answers.
FEATURES = {"tso": (0x1E, 0x1F), "gso": (0x23, 0x24), "gro": (0x2B, 0x2C)}


def _ethtool(interface: str, command: int, value: int) -> int:
    buffer = array.array("B", struct.pack("=II", command, value))
    address, _ = buffer.buffer_info()
    request = struct.pack("16sP", interface.encode(), address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as handle:
        fcntl.ioctl(handle.fileno(), SIOCETHTOOL, request)
    return int(struct.unpack("=II", buffer.tobytes())[1])


def disable_offloads(interface: str) -> None:
    """In the namespace of the calling thread. Raises OSError, or RuntimeError when one stays on."""
    for _, switch in FEATURES.values():
        _ethtool(interface, switch, 0)
    left = offloads_on(interface)
    if left:
        raise RuntimeError(
            f"{interface}: {', '.join(left)} stayed on; packets would be larger than the wire carries"
        )


def offloads_on(interface: str) -> list[str]:
    """Which of tso, gso and gro are on, in the namespace of the calling thread."""
    return [name for name, (query, _) in FEATURES.items() if _ethtool(interface, query, 0)]
