"""Whether files on the device's disk are what the ledger says: a damaged disk costs an update, never the run."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable

from edge_agent.disk import Disk
from edge_agent.ledger import OwnState, Residual, own_vectors


class Intact:
    """Reads every file once, in blocks; `problems` gets a line for each that is left out."""

    def __init__(self, disk: Disk, problems: list[str]) -> None:
        self._disk, self._problems = disk, problems

    def content(self, name: str, sha256: str, what: str, size_bytes: int | None = None) -> bool:
        digest, size = hashlib.sha256(), 0

        def take(block: bytes) -> None:
            nonlocal size
            digest.update(block)
            size += len(block)

        return self._passes(
            name, take, lambda: digest.hexdigest() == sha256 and size_bytes in (None, size), what
        )

    def vector(self, residual: Residual | None, what: str) -> Residual | None:
        """The vector, or None if it is damaged."""
        if residual is None:
            return None
        crc, size = 0, 0

        def take(block: bytes) -> None:
            nonlocal crc, size
            crc, size = zlib.crc32(block, crc), size + len(block)

        good = self._passes(
            residual.file, take, lambda: (crc, size) == (residual.crc32, 4 * residual.n), what
        )
        return residual if good else None

    def own(self, own: OwnState | None) -> OwnState | None:
        """All of it or nothing: what is half a state is none."""
        if own is None:
            return None
        for vector in own_vectors(own):
            if vector is not None and self.vector(vector, "what the device keeps for itself") is None:
                return None
        return own

    def _passes(self, name: str, take: Callable[[bytes], None], good: Callable[[], bool], what: str) -> bool:
        try:
            for block in self._disk.blocks(name):
                take(block)
        except OSError as error:
            self._problems.append(f"{what} ({name}) cannot be read and is left out: {error}")
            return False
        if not good():
            self._problems.append(f"{what} ({name}) is damaged and is left out")
            return False
        return True
