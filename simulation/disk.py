"""A disk that forgets what was not made durable, for `edge_agent.spool`; full, or without power, when told to."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from random import Random

from edge_agent.disk import BLOCK_BYTES, Bytes


class PowerCut(BaseException):
    """The machine is gone in the middle of an operation. Not an Exception: nobody may catch and survive it."""


class ForgetfulDisk:
    """`edge_agent.disk.Disk` in memory. `cut_at`: the power goes at that operation; `full_at`: it and all later ones
    fail with ENOSPC until `full_at` is None again. Operations count from 0.
    """

    def __init__(self, durable: dict[str, bytes] | None = None) -> None:
        self._durable = dict(durable or {})
        self._visible = dict(self._durable)
        self._pending: list[tuple[str, bytes | None]] = []  # since the last sync: a new content, or removed
        self.operations = 0
        self.cut_at: int | None = None
        self.full_at: int | None = None

    def _operation(self, *, writes: bool = False) -> None:
        number = self.operations
        self.operations += 1
        if self.cut_at is not None and number >= self.cut_at:
            raise PowerCut
        if writes and self.full_at is not None and number >= self.full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, name: str, parts: Iterable[Bytes]) -> None:
        content = b"".join(bytes(part) for part in parts)
        self._operation(writes=True)
        self._visible[name] = content
        self._pending.append((name, content))

    def sync(self) -> None:
        self._operation()
        self._durable = dict(self._visible)
        self._pending.clear()

    def read(self, name: str, bytes_max: int) -> bytes:
        content = self._content(name)
        if len(content) > bytes_max:
            raise OSError(f"{name} is larger than {bytes_max} bytes")
        return content

    def blocks(self, name: str) -> Iterator[bytes]:
        content = self._content(name)
        for start in range(0, len(content), BLOCK_BYTES):
            yield content[start : start + BLOCK_BYTES]

    def remove(self, name: str) -> None:
        self._operation()
        if self._visible.pop(name, None) is not None:
            self._pending.append((name, None))

    def names(self) -> list[str]:
        return sorted(self._visible)

    def _content(self, name: str) -> bytes:
        if name not in self._visible:
            raise FileNotFoundError(errno.ENOENT, "No such file", name)
        return self._visible[name]

    def after_power_cut(self, rng: Random) -> ForgetfulDisk:
        """What the next boot finds: of the changes since the last sync any that luck wrote, others not."""
        survived = dict(self._durable)
        for name, content in self._pending:
            if rng.random() < 0.5:
                if content is None:
                    survived.pop(name, None)
                else:
                    survived[name] = content
        return ForgetfulDisk(survived)

    def after_kill(self) -> ForgetfulDisk:
        """What the next process finds when only the process died: the kernel forgets nothing."""
        return ForgetfulDisk(self._visible)

    @property
    def bytes_held(self) -> int:
        return sum(map(len, self._visible.values()))
