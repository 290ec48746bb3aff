"""What this device runs on: its charge, and whether it is plugged in. Read, never decided.

In a testbed hostd drains and charges the battery and writes its state beside the device's gate
(`AgentConfig.power`); on a real device the kernel knows (`/sys/class/power_supply`). A device on mains has neither,
and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from topology.plan import AgentConfig
from wire.messages import Power

STATE_BYTES_MAX = 4096
SUPPLIES = Path("/sys/class/power_supply")

ReadPower = Callable[[], Power | None]


class _State(msgspec.Struct):
    """The file that hostd writes (emulation.power.keeper)."""

    charge: float | None = None
    plugged: bool = True


def reader(config: AgentConfig, supplies: Path = SUPPLIES) -> ReadPower:
    """How this device learns of its power."""
    if config.power:
        file = Path(config.power)
        return lambda: from_file(file)
    return lambda: from_kernel(supplies)


def from_file(file: Path) -> Power | None:
    """None while the file is not there, or not understood."""
    try:
        with open(file, "rb") as handle:
            state = msgspec.json.decode(handle.read(STATE_BYTES_MAX), type=_State)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return _power(state.charge, state.plugged)


def from_kernel(supplies: Path) -> Power | None:
    """The first battery of the machine (Documentation/ABI/testing/sysfs-class-power); None without one."""
    try:
        batteries = [path for path in sorted(supplies.iterdir()) if _text(path / "type") == "Battery"]
    except OSError:
        return None
    for battery in batteries:
        capacity = _text(battery / "capacity")
        if capacity.isdigit():
            return _power(int(capacity) / 100, _text(battery / "status") != "Discharging")
    return None


def _power(charge: float | None, plugged: bool) -> Power | None:
    if charge is None:
        return None
    return Power(charge=min(1.0, max(0.0, charge)), plugged=plugged)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
