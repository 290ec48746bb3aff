"""What a device keeps for itself from task to task: its optimizer's state, and parameters that never travel (FedBN).

It counts from the moment the update it was trained with counts: the ledger names both in the same instant. So a task
that comes to nothing leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.ledger import OwnState, Residual

if TYPE_CHECKING:
    from learning.trainer import Own

Float32 = NDArray[np.float32]
KIND = "own-"


class Store(Protocol):
    """What is needed of edge_agent.vectors.Vectors."""

    def blocks(self, old: Residual | None, n: int) -> Iterator[tuple[int, Float32]]: ...

    def write(self, kind: str, n: int, parts: Iterator[Float32], norm: float, version: int) -> Residual: ...


def write(store: Store, own: Own, graph_sha256: str) -> OwnState:
    """Raises SpoolError."""
    local = None if own.local is None else store.write(KIND, own.local.size, iter([own.local]), 0.0, 0)
    state = own.optimizer
    if state is None or not state.vectors:
        return OwnState(graph=graph_sha256, local=local)
    size = sum(vector.size for vector in state.vectors)
    written = store.write(KIND, size, iter(state.vectors), 0.0, 0)
    return OwnState(
        graph=graph_sha256,
        local=local,
        optimizer=written,
        kind=state.kind,
        count=state.count,
        vectors=len(state.vectors),
    )


def read(store: Store, kept: OwnState | None, graph_sha256: str) -> Own:
    """Nothing, if what is kept belongs to another graph. Raises SpoolError."""
    from learning.optimizers import OptimizerState
    from learning.trainer import Own

    if kept is None or kept.graph != graph_sha256:
        return Own()
    local = None if kept.local is None else _whole(store, kept.local)
    if kept.optimizer is None:
        return Own(local=local)
    vectors = np.split(_whole(store, kept.optimizer), kept.vectors)
    return Own(local=local, optimizer=OptimizerState(kept.kind, kept.count, tuple(vectors)))


def _whole(store: Store, kept: Residual) -> Float32:
    values = np.empty(kept.n, np.float32)
    for start, block in store.blocks(kept, kept.n):
        values[start : start + block.size] = block
    return values
