"""Data sets, partitions and models of installed plug-ins (docs/plugins.md)."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint
from typing import Any

from learning.datasets import DATASETS
from learning.models import MODELS
from learning.partition import PARTITIONS
from wire.plugins import PluginError, load_into

__all__ = ["GROUPS", "PluginError", "load_plugins"]

GROUPS: dict[str, dict[str, Any]] = {
    "edgerig.datasets": DATASETS,
    "edgerig.partitions": PARTITIONS,
    "edgerig.models": MODELS,
}


def load_plugins(found: Iterable[EntryPoint] | None = None) -> list[str]:
    """Add every installed plug-in to its table; returns `group:name` of those that are new. Raises PluginError."""
    points = None if found is None else list(found)
    return [f"{group}:{name}" for group, table in GROUPS.items() for name in load_into(table, group, points)]
