"""How a check is written and found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from topology.errors import MISSING, Path
from topology.schema import Topology


class Problem(NamedTuple):
    """An error before it is located in the file; without `value` the file's own value at `path` is shown."""

    path: Path
    message: str
    hint: str = ""
    value: Any = MISSING


Check = Callable[[Topology], Iterator[Problem]]


_CHECKS: list[tuple[frozenset[str], Check]] = []


def check(*sections: str) -> Callable[[Check], Check]:
    def register(found: Check) -> Check:
        _CHECKS.append((frozenset(sections), found))
        return found

    return register


def problems(topology: Topology, broken: Collection[str] = ()) -> Iterator[Problem]:
    """Every problem between sections that are not `broken`."""
    for sections, found in _CHECKS:
        if sections.isdisjoint(broken):
            yield from found(topology)
