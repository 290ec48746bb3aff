"""Characters of a text file as windows for next-character prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from learning.datasets.base import Array, Dataset
from learning.shard import DatasetError

FIRST, LAST = 32, 126  # printable ASCII; everything else becomes the newline token
VOCABULARY = LAST - FIRST + 2
TEXT_BYTES_MAX = 64 << 20


def load_text(path: Path, context: int = 64, test_share: float = 0.1) -> Dataset:
    """Windows [n, context] of tokens and the tokens that follow, from the file's last part for testing.

    A line of the form `NAME:` (a speaker, as in plays) starts a new user; without any there is one user.
    """
    try:
        if path.stat().st_size > TEXT_BYTES_MAX:
            raise DatasetError(f"{path}: at most {TEXT_BYTES_MAX} bytes of text are read")
        text = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    tokens, users = encode(text), speakers(text)
    windows = (len(tokens) - 1) // context
    if windows < 2:
        raise DatasetError(f"{path} has {len(tokens)} characters: at least {2 * context + 1} are needed")
    x = tokens[: windows * context].reshape(windows, context)
    y = tokens[1 : windows * context + 1].reshape(windows, context)
    who = users[: windows * context : context]
    cut = max(1, min(windows - 1, round(windows * (1 - test_share))))
    return Dataset(path.stem, str(path), x[:cut], y[:cut], x[cut:], y[cut:], VOCABULARY, who[:cut])


def encode(text: bytes) -> Array:
    """Bytes as tokens: 0 is newline and everything unprintable, the rest ASCII less 31."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64)
    return np.where((codes >= FIRST) & (codes <= LAST), codes - FIRST + 1, 0)


def speakers(text: bytes) -> Array:
    """Which user every byte belongs to, in order of first appearance."""
    known: dict[bytes, int] = {}
    current, marks = 0, []
    for line in text.splitlines(keepends=True):
        name = line.strip()
        if name.endswith(b":") and 1 < len(name) <= 40 and not name.startswith(b" "):
            current = known.setdefault(name, len(known))
        marks.append(np.full(len(line), current, np.int64))
    return np.concatenate(marks) if marks else np.zeros(0, np.int64)
