"""The table of a run's data: what every device got. Counts only, no sample."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

TABLE_NAME = "data.json"  # in a run's `model/`, which coordinator and report see; and in `shards/`


class Share(Struct, frozen=True, kw_only=True):
    """What one device got. `classes[c]`: training samples of class c; empty where there are no classes."""

    device: str
    samples: int
    test_samples: int = 0
    classes: tuple[int, ...] = ()
    label_mean: float | None = None


class Allotment(Struct, frozen=True, kw_only=True):
    """The table of a run's data, `model/data.json`: counts only, no sample."""

    dataset: str
    origin: str
    partition: str
    test_samples: int
    shares: tuple[Share, ...]
    notes: tuple[str, ...] = ()

    @property
    def samples_max(self) -> int:
        return max(share.samples for share in self.shares)

    def lines(self) -> list[str]:
        """For a terminal: one line per device, then what had to be repaired."""
        width = max(6, *(len(share.device) for share in self.shares))
        columns = len(self.shares[0].classes)
        head = f"{'device':<{width}} {'train':>7} {'test':>6} " + " ".join(f"{c:>5}" for c in range(columns))
        if any(share.label_mean is not None for share in self.shares):
            head += f" {'label mean':>11}"
        lines = [
            f"{self.dataset}: {self.partition}; {self.test_samples} samples for global tests",
            head.rstrip(),
        ]
        for share in self.shares:
            counts = " ".join(f"{count:>5}" for count in share.classes)
            mean = "" if share.label_mean is None else f" {share.label_mean:>11.4g}"
            row = f"{share.device:<{width}} {share.samples:>7} {share.test_samples:>6} {counts}{mean}"
            lines.append(row.rstrip())
        return lines + [f"note: {note}" for note in self.notes]


def write_table(allotment: Allotment, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(allotment), indent=1) + b"\n")


def read_table(path: Path) -> Allotment | None:
    """None where there is none, or none that can be read: then nothing is claimed about the data."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Allotment)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
