"""What a device keeps on its disk: unsettled updates, the residual, the version held. Old state or new, never between.

How that is done is `edge_agent.shelf`; what lies there:

    ledger              msgpack: the run, the items, the names of the files below
    residual-<g>.f32    little-endian float32[n]
    velocity-<g>.f32    the same: the momentum of deep gradient compression, where it is asked for
    variate-<g>.f32     the same: SCAFFOLD's ci, which moves in the instant that an update is settled as merged
    own-<g>.f32         the optimizer's state, parameters that never travel: where they are kept from task to task
    update-<g>.bin      payload of an update, kept until its outcome: decoding it gives back what was sent
    model-<g>.bin       bit patterns of the version held
    graph-<g>.bin       the training artifact
    control-<g>.bin     the server's control variate, as it was published

Disk use is bounded: four payloads, and two each of the others while one replaces the other. Memory: residuals are read
and written in blocks; only encoding holds one float32 vector, the caller's own, and deep gradient compression a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent import own as own_state
from edge_agent.disk import Disk
from edge_agent.layout import Layout
from edge_agent.ledger import (
    Carried,
    HeldGraph,
    HeldModel,
    KeptItem,
    Prepared,
    Residual,
    SpoolError,
    prepared_files,
    restore_item,
)
from edge_agent.limits import PENDING_MAX, Limits
from edge_agent.shelf import Shelf
from edge_agent.state import Restored
from edge_agent.vectors import Vectors, bytes_of, share_of
from wire import pair
from wire.codecs.arrays import Bytes, require_finite
from wire.codecs.chain import Chain, make_chain
from wire.codecs.decode import decode
from wire.codecs.decoded import Decoded
from wire.codecs.errors import CodecError
from wire.codecs.feedback import MAGNITUDE_MAX
from wire.codecs.model import WIDTHS
from wire.messages import Report, UplinkSpec

if TYPE_CHECKING:
    from learning.trainer import Own

LIMITS = Limits()
NO_LAYOUT = Layout()

Float32 = NDArray[np.float32]

# (payload, n, chain, seed) -> what is sent in its place
Spoil = Callable[[bytes, int, Chain, bytes | int], bytes]


class Spool(Shelf):
    """Calls may come from the worker and from the main loop. Who may change the residual when is the core's matter."""

    def __init__(self, disk: Disk, run: str) -> None:
        super().__init__(disk, run)
        self._prepared: dict[str, Prepared] = {}
        self._vectors = Vectors(disk, self._name)
        self._inherited = True  # until an update of this life is committed

    # --- start -----------------------------------------------------------------------------------------------

    def restored(self) -> Restored:
        ledger = self._ledger
        return Restored(
            items=tuple(restore_item(kept) for kept in ledger.items),
            version=ledger.model.version if ledger.model else None,
            version_sha256=ledger.model.sha256 if ledger.model else None,
            graph_sha256=ledger.graph.sha256 if ledger.graph else None,
            control_sha256=ledger.control.sha256 if ledger.control else None,
            variate=self.variate,
        )

    # --- the version held ------------------------------------------------------------------------------------

    @property
    def model(self) -> HeldModel | None:
        return self._ledger.model

    def patterns(self) -> NDArray[np.unsignedinteger]:
        """Bit patterns of the version held, for training and as the base of a delta."""
        model = self._ledger.model
        if model is None:
            raise SpoolError("no version is held")
        content = self._read(model.file, model.n * WIDTHS[model.dtype], "the held model")
        return np.frombuffer(content, np.dtype(f"<u{WIDTHS[model.dtype]}"))

    def hold(
        self, version: int, sha256: str, dtype: Literal["fp16", "int8", "none"], patterns: NDArray[np.generic]
    ) -> None:
        """Replace the version held. Raises SpoolError."""
        with self._lock:
            name = self._name("model-")
            model = HeldModel(file=name, version=version, sha256=sha256, n=patterns.size, dtype=dtype)
            self._write(name, iter([bytes_of(patterns)]))
            self._replace(msgspec.structs.replace(self._ledger, model=model))

    def hold_graph(self, sha256: str, content: bytes) -> None:
        with self._lock:
            held = self._held("graph-", sha256, content)
            self._replace(msgspec.structs.replace(self._ledger, graph=held))

    def hold_control(self, sha256: str, content: bytes) -> None:
        """The server's control variate, checked before and kept as it was published."""
        with self._lock:
            held = self._held("control-", sha256, content)
            self._replace(msgspec.structs.replace(self._ledger, control=held))

    def _held(self, kind: str, sha256: str, content: bytes) -> HeldGraph:
        name = self._name(kind)
        self._write(name, iter([content]))
        return HeldGraph(file=name, sha256=sha256)

    def graph(self) -> bytes:
        return self._object(self._ledger.graph, "the graph", LIMITS.graph_bytes_max)

    def control(self) -> bytes:
        largest = LIMITS.parameters_max * 4 + LIMITS.object_spare_bytes
        return self._object(self._ledger.control, "the server's control variate", largest)

    def _object(self, held: HeldGraph | None, what: str, bytes_max: int) -> bytes:
        if held is None:
            raise SpoolError(f"{what} is not held")
        return self._read(held.file, bytes_max, what)

    # --- updates ---------------------------------------------------------------------------------------------

    def prepare(
        self,
        task: str,
        delta: Float32,
        uplink: UplinkSpec,
        *,
        seed: int,
        version: int,
        layout: Layout = NO_LAYOUT,
        report: Callable[[Carried], Report],
        spoil: Spoil | None = None,
        own: Own | None = None,
        change: bytes | None = None,
    ) -> Prepared:
        """Encode delta + residual and write the files; nothing counts before `commit`.

        `delta` is used up: afterwards it holds the next residual. `version` is what it is relative to; `report` is
        made from what came in and what is left. `spoil` is of a device that does wrong on purpose
        (edge_agent.misbehaviour). `own` is what the device keeps for itself once this update counts; `change`, encoded,
        what its control variate moves by once it is merged: it travels with the update. Raises SpoolError, and
        CodecError for a delta that is not finite or a chain that cannot be.
        """
        feedback, chain = uplink.feedback, make_chain(uplink.chain, feedback=uplink.feedback.kind != "off")
        require_finite(delta, MAGNITUDE_MAX)
        ledger, disk = self._ledger, self._vectors
        share = share_of(ledger.residual, feedback, version, inherited=self._inherited)
        velocity = None
        if feedback.kind == "dgc":
            # u = m u + delta is what goes into the residual, and a copy of it makes the next u.
            disk.add(ledger.velocity, delta, feedback.momentum * share)
            velocity = delta.copy()
        disk.add(ledger.residual, delta, share, layout.exact)
        payload = chain.encode(
            delta, seed=seed, layers=layout.layers, bypass=layout.bypass, exact=layout.exact
        )
        sent = decode(payload, n=delta.size)
        if spoil is not None:
            payload = spoil(payload, delta.size, chain, seed)
        paired = change is not None
        if change is not None:
            payload = pair.join(payload, change)
        if feedback.kind == "off":
            return self._written(task, payload, delta.size, report(Carried(0.0, 0.0)), [], own, paired)
        sent.take_out_of(delta)
        norm = Decoded(delta.size, None, delta).norm()
        written = [disk.write("residual-", delta.size, iter([delta]), norm, version)]
        if velocity is not None:
            velocity[slice(None) if sent.positions is None else sent.positions] = 0
            written.append(disk.write("velocity-", delta.size, iter([velocity]), 0.0, version))
        return self._written(task, payload, delta.size, report(Carried(norm, share)), written, own, paired)

    def _written(
        self,
        task: str,
        payload: bytes,
        n: int,
        report: Report,
        written: Sequence[Residual],
        own: Own | None,
        paired: bool,
    ) -> Prepared:
        """The payload's file too, and the device's own; if one cannot be written, none of them is left."""
        item = KeptItem(
            task=task,
            sha256=hashlib.sha256(payload).hexdigest(),
            bytes=len(payload),
            file=self._name("update-"),
            n=n,
            report=report,
            feedback=bool(written),
            paired=paired,
        )
        residual, velocity = (*written, None, None)[:2]
        prepared = Prepared(item, residual, velocity)
        with self._lock:
            self.discard(task)
        try:
            self._write(item.file, iter([payload]))
            if own is not None:
                graph = self._ledger.graph.sha256 if self._ledger.graph else ""
                prepared = msgspec.structs.replace(prepared, own=own_state.write(self._vectors, own, graph))
        except SpoolError:
            self._remove(set(prepared_files(prepared)))
            raise
        self._prepared[task] = prepared
        return prepared

    def commit(self, task: str) -> None:
        """Make a prepared update and its residual count, in one step. Raises SpoolError."""
        with self._lock:
            prepared, ledger = self._prepared[task], self._ledger
            if len(ledger.items) >= PENDING_MAX:
                raise SpoolError(f"{PENDING_MAX} updates wait for their outcome already")
            items = (*ledger.items, prepared.item)
            self._replace(
                msgspec.structs.replace(
                    ledger,
                    items=items,
                    residual=prepared.residual,
                    velocity=prepared.velocity,
                    own=prepared.own if prepared.own is not None else ledger.own,
                )
            )
            del self._prepared[task]
            self._inherited = False

    def discard(self, task: str) -> None:
        """Forget a prepared update; the residual is what it was before."""
        with self._lock:
            prepared = self._prepared.pop(task, None)
            if prepared is not None:
                self._remove(set(prepared_files(prepared)))

    def own(self) -> Own:
        """What the device has kept for itself under the graph it holds. Raises SpoolError."""
        graph = self._ledger.graph
        return own_state.read(self._vectors, self._ledger.own, graph.sha256 if graph else "")

    def payload(self, task: str) -> bytes:
        kept = self._item(task)
        return self._read(kept.file, kept.bytes, f"the update of {task}")

    def acked(self, task: str) -> None:
        """Note that it need not be sent again."""
        with self._lock:
            kept = self._item(task)
            items = tuple(
                msgspec.structs.replace(item, acked=True) if item is kept else item
                for item in self._ledger.items
            )
            self._replace(msgspec.structs.replace(self._ledger, items=items))

    def settle(self, task: str, give_back: bool, merged: bool = False) -> float:
        """Forget an update, its content added back to the residual or not; if it is `merged`, the control variate moves
        by what was sent with it. All of it in one step. Returns the residual's norm.
        """
        with self._lock:
            kept, ledger = self._item(task), self._ledger
            residual = self._given_back(kept) if give_back and kept.feedback else ledger.residual
            variate = self._moved(kept) if merged and kept.paired else ledger.variate
            items = tuple(item for item in ledger.items if item is not kept)
            self._replace(msgspec.structs.replace(ledger, items=items, residual=residual, variate=variate))
            return residual.norm if residual else 0.0

    def take_variate_from(self, vector: Float32) -> None:
        """vector -= the device's control variate, in blocks; what is merged meanwhile waits. Raises SpoolError."""
        with self._lock:
            self._vectors.add(self._ledger.variate, vector, -1.0)

    @property
    def variate(self) -> bool:
        """Whether anything that was merged has moved it on this disk."""
        return self._ledger.variate is not None

    def residual(self, n: int) -> Float32:
        """A copy of the residual, zeros if there is none. For checks; the agent itself reads it in blocks."""
        whole = np.zeros(n, np.float32)
        self._vectors.add(self._ledger.residual, whole, 1.0)
        return whole

    # --- parts -----------------------------------------------------------------------------------------------

    def _item(self, task: str) -> KeptItem:
        for item in self._ledger.items:
            if item.task == task:
                return item
        raise SpoolError(f"no update of {task} is kept")

    def _given_back(self, kept: KeptItem) -> Residual | None:
        old = self._ledger.residual
        if old is not None and old.n != kept.n:
            return old  # of another model: there is nothing it could be added to
        return self._vectors.with_content(old, self._sent(kept, 0))

    def _moved(self, kept: KeptItem) -> Residual:
        return self._vectors.with_content(self._ledger.variate, self._sent(kept, 1), "variate-")

    def _sent(self, kept: KeptItem, part: int) -> Decoded:
        """What the kept payload says: the update (0), or what travels with it (1)."""
        payload: Bytes = self.payload(kept.task)
        try:
            if kept.paired:
                payload = pair.split(payload)[part]
            return decode(payload, n=kept.n)
        except CodecError as error:
            raise SpoolError(f"the kept update of {kept.task} is damaged: {error}") from error

    def _prepared_files(self) -> set[str]:
        """`discard` removes these, or they count once they are committed."""
        return {name for prepared in self._prepared.values() for name in prepared_files(prepared)}
