"""Device and link profiles: named defaults, each with its source. A file may override every number.

**Devices.** `cpus` is a share of one core of the *host*, and a default, not a measurement: how a board
compares to a host core depends on the work (a Pi 5 against a Pi 4: 1.9 with sysbench, 2.5 with HPL, 2.8 with
Geekbench). The ratios between boards follow sysbench on one core (leoncode.co.uk) and HPL (top500-benchmark
of J. Geerling); all up to a Pi 4 get 0.15, below which the 100 ms periods of the CFS quota would dominate
what is measured. `memory_bytes` is what one process can have beside the system of such a board, not its RAM.

**Links.** Sources define delay in different ways, and here it is always one-way and per direction: ATC
(Facebook's Augmented Traffic Control) gives one-way delay per direction, taken as it is; WebPageTest and Lighthouse
give the round trip, and measurements of ping too: halved; browsers' developer tools add their latency once per request
and response: halved as well; Loadero sets its latency on each direction's interface, taken as it is. What a source
does not say (most give no jitter and no loss) is zero here, not guessed.
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
    """Both directions of a link, without queue (200 ms of its rate by default), where the numbers are from, and how
    the source's delay became a one-way delay.
    """

    up: Shape
    down: Shape
    source: str
    converted: str = ""


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


ONE_WAY = "one-way, as it is"
ROUND_TRIP = "round trip, halved"
REQUEST = "latency of a request, halved"
ATC = "ATC, utils/profiles"
WEBPAGETEST = "WebPageTest, connectivity.ini"
LOADERO = "Loadero, network conditions"
FIREFOX = "Firefox, network throttling"
LIGHTHOUSE = "Lighthouse, core/config/constants.js"
DEVTOOLS = "Chrome DevTools, NetworkManager.ts, before its own factors"


def _link(
    source: str,
    converted: str,
    *,
    down_kbit_s: float,
    up_kbit_s: float,
    down_ms: float,
    up_ms: float | None = None,
    jitter_ms: float | tuple[float, float] = 0.0,
    loss: float = 0.0,
) -> LinkProfile:
    """`up_ms` is `down_ms` unless given; `jitter_ms` of both, or of (down, up)."""
    down_jitter, up_jitter = jitter_ms if isinstance(jitter_ms, tuple) else (jitter_ms, jitter_ms)

    def shape(rate_kbit_s: float, delay_ms: float, jitter: float) -> Shape:
        return Shape(
            rate_bit_s=round(rate_kbit_s * 1000), delay_s=delay_ms / 1000, jitter_s=jitter / 1000, loss=loss
        )

    return LinkProfile(
        up=shape(up_kbit_s, down_ms if up_ms is None else up_ms, up_jitter),
        down=shape(down_kbit_s, down_ms, down_jitter),
        source=source,
        converted=converted,
    )


LINKS: dict[str, LinkProfile] = {
    # --- 2G
    "2g-rural": _link(f"{ATC}, 2G dev-rural", ONE_WAY, down_kbit_s=20, up_kbit_s=18, down_ms=650, loss=0.02),
    "2g": _link(f"{ATC}, 2G dev-urban; {WEBPAGETEST}", ONE_WAY, down_kbit_s=35, up_kbit_s=32, down_ms=650),
    "gprs": _link(
        f"{LOADERO}, GPRS", ONE_WAY, down_kbit_s=80, up_kbit_s=20, down_ms=650, jitter_ms=100, loss=0.01
    ),
    "edge-lossy": _link(
        f"{ATC}, EDGE lossy", ONE_WAY, down_kbit_s=240, up_kbit_s=200, down_ms=400, up_ms=440, loss=0.01
    ),
    "edge": _link(f"{ATC}, EDGE average", ONE_WAY, down_kbit_s=240, up_kbit_s=200, down_ms=400, up_ms=440),
    "edge-good": _link(f"{ATC}, EDGE good", ONE_WAY, down_kbit_s=250, up_kbit_s=200, down_ms=350, up_ms=370),
    # --- 3G
    "3g-slow": _link(f"{ATC}, 3G average", ONE_WAY, down_kbit_s=780, up_kbit_s=330, down_ms=100),
    "3g-good": _link(f"{ATC}, 3G good", ONE_WAY, down_kbit_s=850, up_kbit_s=420, down_ms=90, up_ms=100),
    "3g": _link(f"{WEBPAGETEST}, 3G: 300 ms", ROUND_TRIP, down_kbit_s=1600, up_kbit_s=768, down_ms=150),
    "3g-fast": _link(
        f"{WEBPAGETEST}, 3G fast: 150 ms", ROUND_TRIP, down_kbit_s=1600, up_kbit_s=768, down_ms=75
    ),
    "3g-devtools": _link(
        f"{DEVTOOLS}, Slow 3G: 400 ms", REQUEST, down_kbit_s=500, up_kbit_s=500, down_ms=200
    ),
    "hspa": _link(
        f"{LOADERO}, 3.5G/HSPDA",
        ONE_WAY,
        down_kbit_s=20_000,
        up_kbit_s=10_000,
        down_ms=150,
        jitter_ms=10,
        loss=0.005,
    ),
    # --- 4G and 5G
    "4g": _link(f"{WEBPAGETEST}, 4G: 170 ms", ROUND_TRIP, down_kbit_s=9000, up_kbit_s=9000, down_ms=85),
    "4g-slow": _link(
        f"{LIGHTHOUSE}, slow 4G: 150 ms; its upload {DEVTOOLS}",
        ROUND_TRIP,
        down_kbit_s=1638.4,
        up_kbit_s=750,
        down_ms=75,
    ),
    "4g-good": _link(
        f"{LOADERO}, 4G",
        ONE_WAY,
        down_kbit_s=100_000,
        up_kbit_s=50_000,
        down_ms=45,
        jitter_ms=(5, 15),
        loss=0.002,
    ),
    "lte": _link(f"{WEBPAGETEST}, LTE: 70 ms", ROUND_TRIP, down_kbit_s=12_000, up_kbit_s=12_000, down_ms=35),
    # Averages over the United Kingdom; response times of the four operators are 16.3 to 21.4 ms.
    "5g": _link(
        "Ofcom, Mobile Matters 2023 (rates) and 2024 (19 ms)",
        ROUND_TRIP,
        down_kbit_s=129_900,
        up_kbit_s=14_700,
        down_ms=9.5,
    ),
    # --- wired
    "dial-up": _link(f"{WEBPAGETEST}, Dial: 120 ms", ROUND_TRIP, down_kbit_s=49, up_kbit_s=30, down_ms=60),
    "dsl": _link(f"{WEBPAGETEST}, DSL: 50 ms", ROUND_TRIP, down_kbit_s=1500, up_kbit_s=384, down_ms=25),
    "dsl-atc": _link(f"{ATC}, DSL", ONE_WAY, down_kbit_s=2000, up_kbit_s=256, down_ms=5),
    "cable": _link(f"{WEBPAGETEST}, Cable: 28 ms", ROUND_TRIP, down_kbit_s=5000, up_kbit_s=1000, down_ms=14),
    "cable-atc": _link(f"{ATC}, Cable", ONE_WAY, down_kbit_s=6000, up_kbit_s=1000, down_ms=2),
    "fios": _link(f"{WEBPAGETEST}, FIOS: 4 ms", ROUND_TRIP, down_kbit_s=20_000, up_kbit_s=5000, down_ms=2),
    "ethernet": _link(
        "IEEE 802.3 100BASE-TX, as on a Raspberry Pi 3B",
        "none",
        down_kbit_s=100_000,
        up_kbit_s=100_000,
        down_ms=0,
    ),
    # --- wireless at home
    "home-wifi": _link(f"{FIREFOX}, Wi-Fi: 2 ms", REQUEST, down_kbit_s=30_000, up_kbit_s=15_000, down_ms=1),
    # Comcast (the tool) sets delay and loss on one interface, egress.
    "wifi-bad": _link(
        "Comcast, README, Wi-Fi: 40 ms",
        ONE_WAY,
        down_kbit_s=40_000,
        up_kbit_s=40_000,
        down_ms=40,
        loss=0.002,
    ),
    # --- satellite
    # Round trip 50 ms, quartiles 40 and 60 (APNIC, 2022-11-28): a standard deviation of 15 ms there and back,
    # 10 one way. The rates are a user's usual share of "up to 300 Mbit/s".
    "starlink": _link(
        "APNIC, 2022-05-02 and 2022-11-28: 50 ms",
        ROUND_TRIP,
        down_kbit_s=50_000,
        up_kbit_s=10_000,
        down_ms=25,
        jitter_ms=10,
        loss=0.01,
    ),
    # APNIC gives a round trip of at least 477 ms and 600 as typical, like Loadero's 600; its loss is 0.8 %.
    "geo": _link(
        f"{LOADERO}, Satellite phone (rates); APNIC (600 ms, loss)",
        ROUND_TRIP,
        down_kbit_s=1000,
        up_kbit_s=256,
        down_ms=300,
        loss=0.008,
    ),
    "unshaped": LinkProfile(up=Shape(), down=Shape(), source="what the host gives"),
}

_LORA = (
    "LoRaWAN carries no model updates: its fastest EU868 rate is 5.5 kbit/s at a duty cycle of 1 %, 55 bit/s on "
    "average in payloads of at most 250 bytes, so a megabyte takes 40 hours"
)
# Names that people try, and why there is no such profile.
REFUSED_LINKS: dict[str, str] = dict.fromkeys(("lorawan", "lora", "lorawan-sf7", "lorawan-sf12"), _LORA)
