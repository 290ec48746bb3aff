"""The IDX format of MNIST: a big-endian header (type, rank, sizes) and raw values, gzip-compressed or plain.

The header is checked against what is expected before anything of its claimed size is allocated.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from learning.shard import DatasetError

UINT8 = 0x08
BYTES_MAX = 256 << 20  # five times MNIST's training images


def read_idx(path: Path, rank: int) -> npt.NDArray[np.uint8]:
    """A uint8 array of `rank` axes. Raises DatasetError, naming the file, whatever is in it, and OSError
    if it cannot be read."""
    raw = path.read_bytes()
    try:
        data = _unpack(raw) if path.suffix == ".gz" else raw
    except (EOFError, zlib.error) as error:
        raise DatasetError(f"cannot read {path}: {error}. Fetch the file again") from error
    header = 4 + 4 * rank
    if len(data) < header or data[:2] != b"\0\0" or data[2] != UINT8 or data[3] != rank:
        raise DatasetError(f"{path} is no IDX file of {rank} axes of bytes. Fetch the file again")
    shape = struct.unpack(f">{rank}I", data[4:header])
    expected = 1
    for size in shape:
        expected *= size
    if expected != len(data) - header:
        raise DatasetError(
            f"{path} claims {shape} but holds {len(data) - header} bytes: truncated? Fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _unpack(raw: bytes) -> bytes:
    """Decompress at most BYTES_MAX bytes, and check that the stream is whole."""
    unpacker = zlib.decompressobj(wbits=31)
    data = unpacker.decompress(raw, BYTES_MAX)
    if not unpacker.eof:
        raise EOFError("incomplete, or larger than any data set this reads")
    return data
