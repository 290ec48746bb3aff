"""Files that a topology names: read in one way, with a bound."""

from __future__ import annotations

import errno
from pathlib import Path


def read_text_file(path: Path, bytes_max: int, *, errors: str = "strict") -> str:
    """A regular file of at most `bytes_max` bytes; a byte order mark, as spreadsheets write it, is left out.

    Raises OSError, also for what is longer: its size is not asked for beforehand, since a device says that it has none
    and then never ends. A pipe would be waited for.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    with open(path, "rb") as stream:
        content = stream.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise OSError(errno.EFBIG, f"larger than {bytes_max >> 20} MiB")
    return content.decode("utf-8-sig", errors=errors)
