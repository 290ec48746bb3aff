"""The few things the spool asks of a disk, so that tests can put one under it that forgets.

After `write` the file has its new content or its old one, whatever happens. Only `sync` makes the *names* durable:
before it, a power cut may undo any of the writes and removals since the last one, in any combination.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

Bytes = bytes | memoryview
BLOCK_BYTES = 1 << 18  # a quarter MiB at a time: no copy of a residual is ever in memory because of the disk
TEMPORARY = ".tmp"


class Disk(Protocol):
    def write(self, name: str, parts: Iterable[Bytes]) -> None:
        """Replace a file as a whole; its content is on the disk afterwards. Raises OSError."""

    def sync(self) -> None:
        """Make every write and removal so far durable. Raises OSError."""

    def read(self, name: str, bytes_max: int) -> bytes:
        """Raises OSError if it is not there or larger."""

    def blocks(self, name: str) -> Iterator[bytes]:
        """Its content in pieces of BLOCK_BYTES (the last may be shorter)."""

    def remove(self, name: str) -> None:
        """A file that is not there is removed already."""

    def names(self) -> list[str]: ...


class FolderDisk:
    """A folder of a file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, parts: Iterable[Bytes]) -> None:
        temporary = self.folder / (name + TEMPORARY)
        try:
            with open(temporary, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, self.folder / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def sync(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self, name: str, bytes_max: int) -> bytes:
        with open(self.folder / name, "rb") as file:
            content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise OSError(f"{self.folder / name} is larger than {bytes_max} bytes")
        return content

    def blocks(self, name: str) -> Iterator[bytes]:
        with open(self.folder / name, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.is_file())
