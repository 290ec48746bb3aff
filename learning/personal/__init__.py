"""What devices make of a shared model for themselves, by the `kind` of the topology's `personalization` section.

A kind is one class in one file (`learning.personal.base.Kind`); docs/personalization.md says how to add one.
"""

from __future__ import annotations

from learning.personal.base import Kind, LocalTask
from learning.personal.ditto import Ditto
from learning.personal.fedper import FedPer
from learning.personal.fedrep import FedRep
from learning.personal.fine_tune import FineTune
from learning.personal.run import survey, train

KINDS: dict[str, Kind] = {
    "fedper": FedPer(),
    "fedrep": FedRep(),
    "ditto": Ditto(),
    "fine_tune": FineTune(),
}

__all__ = ["KINDS", "Kind", "LocalTask", "survey", "train"]
