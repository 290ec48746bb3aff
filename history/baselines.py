"""`baselines.json` of a run: what the same model and data come to without a fleet, without the others, uncompressed."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

BASELINES_NAME = "baselines.json"
BASELINES_SCHEMA = 1
BYTES_MAX = 16 << 20  # 10,000 devices and a few curves are 2 MB


class BaselinePoint(Struct, frozen=True, kw_only=True):
    round: int
    steps: int  # gradient steps until here, of everybody together
    accuracy: float | None
    loss: float


class Baseline(Struct, frozen=True, kw_only=True):
    """One model on the global test data, and how it came there. `rounds` may be fewer than asked for: see `note`."""

    rounds: int
    steps: int
    accuracy: float | None
    loss: float
    metrics: dict[str, float] = {}
    curve: tuple[BaselinePoint, ...] = ()
    uplink_bytes: int = 0  # of float32 updates; 0 where nothing is sent
    own_accuracy: float | None = None  # mean over the devices' own test splits; None where they have none
    wall_s: float
    note: str = ""


class LocalDevice(Struct, frozen=True, kw_only=True):
    device: str
    rounds: int
    steps: int
    accuracy: float | None  # on the global test data
    loss: float
    own_accuracy: float | None = None  # on its own test split


class LocalOnly(Struct, frozen=True, kw_only=True):
    """Every device alone with its own data. Means are over the devices, each counting the same."""

    devices: tuple[LocalDevice, ...]
    accuracy: float | None
    accuracy_min: float | None
    accuracy_max: float | None
    loss: float
    own_accuracy: float | None = None
    steps: int
    wall_s: float
    note: str = ""


class Baselines(Struct, frozen=True, kw_only=True):
    schema: int = BASELINES_SCHEMA
    run: str
    seed: int
    rounds: int  # that were asked for
    centralised: Baseline | None = None
    local_only: LocalOnly | None = None
    fedavg: Baseline | None = None


def load_baselines(path: Path) -> Baselines | None:
    """None where there are none, or none that this version can read: they can be made again."""
    try:
        if path.stat().st_size > BYTES_MAX:
            return None
        found = msgspec.json.decode(path.read_bytes(), type=Baselines)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return found if found.schema == BASELINES_SCHEMA else None
