"""How a device gets from the version it holds to the one it needs: whole, or along deltas. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from wire.messages import ModelRef, ObjectRef

DELTA_NAME = re.compile(r"^v(\d{1,12})-v(\d{1,12})$")  # wire.topics.model: `v6-v7`


class Wanted(NamedTuple):
    """An object to fetch and the version it leads to; None for what is no model: the graph, or `control`."""

    ref: ObjectRef
    leads_to: int | None
    control: bool = False


def whole(model: ModelRef) -> Wanted:
    return Wanted(model.full, model.version)


def cheapest(model: ModelRef, held: int | None) -> list[Wanted]:
    """The fewest bytes that lead to the version, from the one held. Deltas may skip versions or form chains."""
    best: dict[int, tuple[int, list[Wanted]]] = {} if held is None else {held: (0, [])}
    # Every delta leads forward, so one pass in the order of their bases sees each base at its final cost.
    for base, wanted in sorted(_edges(model), key=lambda edge: edge[0]):
        if base not in best or wanted.leads_to is None:
            continue
        cost = best[base][0] + wanted.ref.bytes
        if wanted.leads_to not in best or cost < best[wanted.leads_to][0]:
            best[wanted.leads_to] = (cost, [*best[base][1], wanted])
    found = best.get(model.version)
    if found is None or not found[1] or found[0] >= model.full.bytes:
        return [whole(model)]
    return found[1]


def _edges(model: ModelRef) -> list[tuple[int, Wanted]]:
    edges = []
    for ref in model.deltas:
        named = DELTA_NAME.match(ref.name)
        to = int(named[2]) if named else model.version
        if ref.base_version is not None and ref.base_version < to <= model.version:
            edges.append((ref.base_version, Wanted(ref, to)))
    return edges
