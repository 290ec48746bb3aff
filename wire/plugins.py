"""A user's own pieces by entry point: a package that is installed beside EdgeRig adds names to its tables.

    [project.entry-points."edgerig.partitions"]
    by-machine = "my_package:by_machine"

adds `by-machine` to the partitions a topology may name. docs/plugins.md lists the groups and shows one of each. A
built-in name is never replaced; a plug-in that fails to load is an error that names its package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any


class PluginError(ValueError):
    """A plug-in that cannot be used. The message names its package."""


def names(group: str) -> list[str]:
    """What is installed under a group; nothing is imported."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: str, found: Iterable[EntryPoint] | None = None) -> Iterator[tuple[str, Any, str]]:
    """(name, object, package) of every plug-in of a group. Raises PluginError."""
    points = entry_points(group=group) if found is None else (p for p in found if p.group == group)
    for point in points:
        owner = point.dist.name if point.dist else point.value
        try:
            loaded = point.load()
        except Exception as error:
            raise PluginError(f"plug-in {point.name!r} of {owner} does not load: {error}") from error
        if not callable(loaded):
            raise PluginError(f"plug-in {point.name!r} of {owner} is neither function nor class")
        yield point.name, loaded, owner


def load_into(table: dict[str, Any], group: str, found: Iterable[EntryPoint] | None = None) -> list[str]:
    """Add the plug-ins of a group to its table; returns the names that are new. Raises PluginError."""
    added = []
    for name, loaded, owner in load(group, found):
        if table.get(name, loaded) is not loaded:
            raise PluginError(f"plug-in {name!r} of {owner}: {group} has that name already")
        if name not in table:
            table[name] = loaded
            added.append(name)
    return added
