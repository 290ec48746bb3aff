"""A user's own data sets, partitions and models, by entry point.

A package that declares, say,

    [project.entry-points."edgerig.partitions"]
    by-machine = "my_package:by_machine"

adds `by-machine` to the partitions a topology may name. Groups: `edgerig.datasets` (data_dir → Dataset),
`edgerig.partitions` (labels, devices, samples_per_device, seed, ... → Partition), `edgerig.models` (seed →
ModelProto). A built-in name is never replaced; a plug-in that fails to load is an error that names the
package.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from learning.datasets import DATASETS
from learning.models import MODELS
from learning.partition import PARTITIONS

GROUPS: dict[str, dict[str, Any]] = {
    "edgerig.datasets": DATASETS,
    "edgerig.partitions": PARTITIONS,
    "edgerig.models": MODELS,
}


class PluginError(ValueError):
    """A plug-in that cannot be used. The message names its package."""


def load_plugins(found: Iterable[EntryPoint] | None = None) -> list[str]:
    """Add every installed plug-in to its table; returns `group:name` of those that are new."""
    added = []
    installed = (point for group in GROUPS for point in entry_points(group=group))
    points = list(installed if found is None else found)
    for point in points:
        registry = GROUPS.get(point.group)
        if registry is None:
            continue
        owner = point.dist.name if point.dist else point.value
        try:
            loaded = point.load()
        except Exception as error:
            raise PluginError(f"plug-in {point.name!r} of {owner} does not load: {error}") from error
        if registry.get(point.name, loaded) is not loaded:
            raise PluginError(f"plug-in {point.name!r} of {owner}: {point.group} has that name already")
        if not callable(loaded):
            raise PluginError(f"plug-in {point.name!r} of {owner} is no function")
        if point.name not in registry:
            registry[point.name] = loaded
            added.append(f"{point.group}:{point.name}")
    return added
