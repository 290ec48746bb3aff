"""What a device keeps for itself from task to task: its optimizer's state, parameters that never travel (FedBN, local
heads), and a personal model (Ditto).

It counts from the moment the update it was trained with counts: the ledger names both in the same instant. So a task
that comes to nothing leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from edge_agent.ledger import OwnState, Residual, SpoolError

if TYPE_CHECKING:
    from learning.trainer import Own

Float32 = NDArray[np.float32]
KIND = "own-"


class Store(Protocol):
    """What is needed of edge_agent.vectors.Vectors."""

    def blocks(self, old: Residual | None, n: int) -> Iterator[tuple[int, Float32]]: ...

    def write(self, kind: str, n: int, parts: Iterator[Float32], norm: float, version: int) -> Residual: ...

    def forget(self, written: Residual) -> None: ...


def has_own(own: Own) -> bool:
    return any(part is not None for part in (own.local, own.optimizer, own.personal))


def write(store: Store, own: Own, graph_sha256: str) -> OwnState:
    """All of it or nothing. Raises SpoolError."""
    written: list[Residual] = []

    def vector(*values: Float32 | None) -> Residual | None:
        parts = [part for part in values if part is not None]
        if parts:
            written.append(store.write(KIND, sum(part.size for part in parts), iter(parts), 0.0, 0))
        return written[-1] if parts else None

    state = own.optimizer
    try:
        kept = OwnState(graph=graph_sha256, local=vector(own.local), personal=vector(own.personal))
        if state is None or not state.vectors:
            return kept
        mine: dict[str, Any] = {"kind": state.kind, "count": state.count, "vectors": len(state.vectors)}
        return structs.replace(kept, optimizer=vector(*state.vectors), **mine)
    except SpoolError:
        for residual in written:
            store.forget(residual)
        raise


def read(store: Store, kept: OwnState | None, graph_sha256: str) -> Own:
    """Nothing, if what is kept belongs to another graph. Raises SpoolError."""
    from learning.optimizers import OptimizerState
    from learning.trainer import Own

    if kept is None or kept.graph != graph_sha256:
        return Own()
    local, personal = (None if v is None else _whole(store, v) for v in (kept.local, kept.personal))
    if kept.optimizer is None:
        return Own(local=local, personal=personal)
    vectors = np.split(_whole(store, kept.optimizer), kept.vectors)
    state = OptimizerState(kept.kind, kept.count, tuple(vectors))
    return Own(local=local, optimizer=state, personal=personal)


def _whole(store: Store, kept: Residual) -> Float32:
    values = np.empty(kept.n, np.float32)
    for start, block in store.blocks(kept, kept.n):
        values[start : start + block.size] = block
    return values
