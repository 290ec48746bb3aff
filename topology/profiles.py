"""Device and link profiles: named defaults, each with its source. A file may override every number.

**Devices.** `cpus` is a share of one core of the *host*, and a default, not a measurement: how a board
compares to a host core depends on the work (a Pi 5 against a Pi 4: 1.9 with sysbench, 2.5 with HPL, 2.8 with
Geekbench). The ratios between boards follow sysbench on one core (leoncode.co.uk) and HPL (top500-benchmark
of J. Geerling); all up to a Pi 4 get 0.15, below which the 100 ms periods of the CFS quota would dominate
what is measured. `memory_bytes` is what one process can have beside the system of such a board, not its RAM.

**Links.** Sources define delay in different ways, and here it is always one-way and per direction: ATC
(Facebook's Augmented Traffic Control) gives one-way delay per direction, taken as it is; WebPageTest and
sitespeed.io give the round trip, halved; browsers' developer tools add their latency once per request,
halved.
"""

from __future__ import annotations

from typing import NamedTuple

from topology.plan import Shape

MIB = 1024 * 1024


class DeviceProfile(NamedTuple):
    """Defaults of a class of devices: share of a host core, memory limit, threads of the training session."""

    cpus: float
    memory_bytes: int
    threads: int
    description: str


class LinkProfile(NamedTuple):
    """Both directions of a link, without queue (200 ms of its rate by default), and where the numbers are
    from.
    """

    up: Shape
    down: Shape
    source: str


DEVICES: dict[str, DeviceProfile] = {
    "raspberry-pi-zero-2w": DeviceProfile(0.15, 256 * MIB, 1, "4 × Cortex-A53 at 1.0 GHz, 512 MB"),
    "raspberry-pi-3b": DeviceProfile(0.15, 384 * MIB, 1, "4 × Cortex-A53 at 1.4 GHz (3B+), 1 GB"),
    "raspberry-pi-4": DeviceProfile(
        0.15, 512 * MIB, 1, "4 × Cortex-A72 at 1.8 GHz, 1 to 8 GB; the unit of this table"
    ),
    "raspberry-pi-5": DeviceProfile(
        0.30, 1024 * MIB, 1, "4 × Cortex-A76 at 2.4 GHz; 1.85 × a Pi 4 (sysbench, one core)"
    ),
    "jetson-nano-like": DeviceProfile(
        0.15, 1024 * MIB, 1, "4 × Cortex-A57 at 1.4 GHz, 4 GB; its GPU is not emulated"
    ),
    "phone": DeviceProfile(0.30, 512 * MIB, 1, "a mid-range phone, taken as a Pi 5"),
    "laptop": DeviceProfile(1.00, 2048 * MIB, 1, "one whole core of the host"),
    "gateway": DeviceProfile(0.20, 512 * MIB, 1, "an industrial gateway on a low-power x86 or A72 core"),
}


def _link(
    source: str,
    *,
    down_kbit_s: int,
    up_kbit_s: int,
    down_ms: float,
    up_ms: float,
    jitter_ms: float = 0.0,
    loss: float = 0.0,
) -> LinkProfile:
    def shape(rate_kbit_s: int, delay_ms: float) -> Shape:
        return Shape(
            rate_bit_s=rate_kbit_s * 1000, delay_s=delay_ms / 1000, jitter_s=jitter_ms / 1000, loss=loss
        )

    return LinkProfile(up=shape(up_kbit_s, up_ms), down=shape(down_kbit_s, down_ms), source=source)


LINKS: dict[str, LinkProfile] = {
    "2g-rural": _link("ATC 2G dev-rural", down_kbit_s=20, up_kbit_s=18, down_ms=650, up_ms=650, loss=0.02),
    "2g": _link(
        "ATC 2G dev-urban (WebPageTest: round trip 1300)",
        down_kbit_s=35,
        up_kbit_s=32,
        down_ms=650,
        up_ms=650,
    ),
    "edge-lossy": _link("ATC EDGE lossy", down_kbit_s=240, up_kbit_s=200, down_ms=400, up_ms=440, loss=0.01),
    "edge": _link("ATC EDGE average", down_kbit_s=240, up_kbit_s=200, down_ms=400, up_ms=440),
    "3g-slow": _link("ATC 3G average", down_kbit_s=780, up_kbit_s=330, down_ms=100, up_ms=100),
    "3g": _link("WebPageTest 3G, round trip 300", down_kbit_s=1600, up_kbit_s=768, down_ms=150, up_ms=150),
    "3g-fast": _link(
        "WebPageTest 3G fast, round trip 150", down_kbit_s=1600, up_kbit_s=768, down_ms=75, up_ms=75
    ),
    "4g": _link("WebPageTest 4G, round trip 170", down_kbit_s=9000, up_kbit_s=9000, down_ms=85, up_ms=85),
    "lte": _link(
        "WebPageTest LTE, round trip 70", down_kbit_s=12_000, up_kbit_s=12_000, down_ms=35, up_ms=35
    ),
    "dsl": _link("WebPageTest DSL, round trip 50", down_kbit_s=1500, up_kbit_s=384, down_ms=25, up_ms=25),
    "cable": _link(
        "WebPageTest Cable, round trip 28", down_kbit_s=5000, up_kbit_s=1000, down_ms=14, up_ms=14
    ),
    "fios": _link("WebPageTest FIOS, round trip 4", down_kbit_s=20_000, up_kbit_s=5000, down_ms=2, up_ms=2),
    "home-wifi": _link(
        "Firefox responsive design mode Wi-Fi, request latency 2",
        down_kbit_s=30_000,
        up_kbit_s=15_000,
        down_ms=1,
        up_ms=1,
    ),
    # Round trip 50 ms, quartiles 40 and 60 (APNIC, 2022-11-28): a standard deviation of 15 ms there and back,
    # 10 one way. The rates are a user's usual share of "up to 300 Mbit/s".
    "starlink": _link(
        "APNIC 2022, round trip 50",
        down_kbit_s=50_000,
        up_kbit_s=10_000,
        down_ms=25,
        up_ms=25,
        jitter_ms=10,
        loss=0.01,
    ),
    "geo": _link(
        "Loadero satellite, round trip 600",
        down_kbit_s=1000,
        up_kbit_s=256,
        down_ms=300,
        up_ms=300,
        loss=0.008,
    ),
    "ethernet": _link(
        "100BASE-TX, as on a Raspberry Pi 3B", down_kbit_s=100_000, up_kbit_s=100_000, down_ms=0, up_ms=0
    ),
    "unshaped": LinkProfile(up=Shape(), down=Shape(), source="what the host gives"),
}
