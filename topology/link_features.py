"""What each link backend can do of a link's shape, and why not where it cannot: the table behind validation, behind
`Backend.unsupported` and behind docs/links.md. The contract tests hold every backend to its row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from topology.plan import Link, Shape

# What a shape asks for, by the key of the file.
FEATURES: Mapping[str, Callable[[Shape], bool]] = {
    "rate": lambda shape: shape.rate_bit_s is not None,
    "queue": lambda shape: shape.rate_bit_s is not None and shape.queue_bytes is not None,
    "delay": lambda shape: shape.delay_s > 0,
    "jitter": lambda shape: shape.jitter_s > 0,
    "loss": lambda shape: shape.loss > 0 and shape.bursts is None,
    "loss in bursts": lambda shape: shape.bursts is not None,
    "reorder": lambda shape: shape.reorder > 0,
    "duplicate": lambda shape: shape.duplicate > 0,
    "corrupt": lambda shape: shape.corrupt > 0,
    "vary": lambda shape: bool(shape.vary),
}

_NO_PACKETS = "a TCP relay sees a stream, there is no packet to {}"
_NOTHING = "nothing shapes links with this backend"
CANNOT: Mapping[str, Mapping[str, str]] = {
    "netem": {},
    "nfqueue": {"duplicate": "a verdict lets a packet pass once or not at all"},
    "relay": {
        "loss": _NO_PACKETS.format("lose"),
        "loss in bursts": _NO_PACKETS.format("lose"),
        "reorder": _NO_PACKETS.format("overtake another"),
        "duplicate": _NO_PACKETS.format("send twice"),
        "corrupt": _NO_PACKETS.format("corrupt; changed bytes would reach the application"),
    },
    "none": dict.fromkeys(FEATURES, _NOTHING),
}
CHOICES = ("auto", "netem", "nfqueue", "none")  # of `network.backend`; the relay is the process runtime's


def unsupported_shape(backend: str, shape: Shape) -> list[str]:
    """`name: reason` of each thing asked that the backend cannot do; empty when it can do all."""
    cannot = CANNOT[backend]
    return [f"{name}: {cannot[name]}" for name, asked in FEATURES.items() if name in cannot and asked(shape)]


def unsupported_link(backend: str, link: Link) -> list[str]:
    return [
        f"{way}: {text}"
        for way, shape in (("up", link.up), ("down", link.down))
        for text in unsupported_shape(backend, shape)
    ]
