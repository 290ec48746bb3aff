"""Hook files of devices: what hostd tells an agent to do wrong, and what the agent says of itself.

`nodes/<device>/faults.json` is made before the run, empty, mode 0600 and owned by the device, and only for a device
that a fault of the plan needs it for. hostd writes it in place: a new file would be another owner's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from emulation.faults.base import FaultProblem
from history.events import Event
from history.reader import Tail
from topology.plan import FaultParams
from topology.plan.agent import HOOK_NAME

CONTENT_BYTES_MAX = 65_536  # some two hundred bytes a fault
EVENTS_KEPT = 4_000  # of one device and kind; a run has some ten reconnects


class HookFiles:
    """`nodes` is the run's folder of that name."""

    def __init__(self, nodes: Path) -> None:
        self._nodes = nodes
        self._tails: dict[str, Tail] = {}
        self._said: dict[str, list[Event]] = {}

    def tell(self, device: str, fault: str, kind: str, params: FaultParams) -> None:
        """Raises FaultProblem for a device that has no hook."""
        wanted = {
            "kind": kind,
            "delay_s": params.delay_s,
            "share": params.share,
            "how": params.how,
            "factor": params.factor,
            "offset_s": params.offset_s,
        }
        self._write(device, {**self._read(device), fault: wanted})

    def untell(self, device: str, fault: str) -> None:
        """What was never told is no error."""
        try:
            told = self._read(device)
        except FaultProblem:
            return
        if told.pop(fault, None) is not None:
            self._write(device, told)

    def says(self, device: str, event: str) -> list[Event]:
        tail = self._tails.setdefault(device, Tail(self._nodes / device / "history.jsonl", device))
        said = self._said.setdefault(device, [])
        # One piece each time: a device that writes without end keeps nobody here, and is looked at again.
        said += [one for one in tail.poll() if one.event in ("misbehaviour", "disconnected")]
        del said[:-EVENTS_KEPT]
        return [one for one in said if one.event == event]

    def _path(self, device: str) -> Path:
        return self._nodes / device / HOOK_NAME

    def _read(self, device: str) -> dict[str, Any]:
        try:
            # The folder is the device's: neither a link nor a pipe that it may have put there is followed.
            handle = os.open(self._path(device), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(handle, "rb") as file:
                content = file.read(CONTENT_BYTES_MAX)
        except OSError as error:
            raise FaultProblem(
                f"{device} has no hook ({error.strerror}): only a plan with such a fault opens one"
            ) from None
        try:
            return dict(msgspec.json.decode(content or b"{}"))
        except (msgspec.DecodeError, ValueError, TypeError):
            return {}  # cut short by a kill while it was written

    def _write(self, device: str, told: dict[str, Any]) -> None:
        content = msgspec.json.encode(told)
        if len(content) > CONTENT_BYTES_MAX:
            raise FaultProblem(f"{device}: more faults than its hook file holds")
        try:
            # Never O_CREAT: the file is there, and its owner is the device.
            handle = os.open(self._path(device), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise FaultProblem(f"{device}: its hook cannot be written: {error.strerror}") from None
        try:
            os.write(handle, content)
            os.fsync(handle)
        finally:
            os.close(handle)
