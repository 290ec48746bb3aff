"""The ledger of the spool: which files count, and what is known about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from edge_agent.errors import AgentError
from edge_agent.state import Item, Phase
from wire.messages import Report

LEDGER_SCHEMA = 1


class SpoolError(RuntimeError):
    """Nothing was changed. The message names the file system's reason."""


class DiskBroken(AgentError):
    """What is on the disk is not known any more: the process must end and start again from what it finds."""


class KeptItem(Struct, frozen=True, kw_only=True):
    task: str
    sha256: str
    bytes: int
    file: str
    n: int
    report: Report
    acked: bool = False
    feedback: bool = True  # what is given back goes to the residual; without error feedback it is lost
    paired: bool = (
        False  # two vectors (wire.pair): the update, and what the control variate moves by once it is merged
    )


class Residual(Struct, frozen=True, kw_only=True):
    file: str
    n: int
    crc32: int
    norm: float
    version: int = 0  # of the model that it was left over from


class HeldModel(Struct, frozen=True, kw_only=True):
    file: str
    version: int
    sha256: str
    n: int
    dtype: Literal["fp16", "int8", "none"]


class HeldGraph(Struct, frozen=True, kw_only=True):
    """An object that is kept as it came: the graph, the server's control variate."""

    file: str
    sha256: str


class OwnState(Struct, frozen=True, kw_only=True):
    """What a device keeps for itself (edge_agent.own). `optimizer` holds `vectors` of one length, one after another."""

    graph: str
    local: Residual | None = None
    optimizer: Residual | None = None
    kind: str = ""
    count: int = 0
    vectors: Annotated[int, Meta(ge=1, le=8)] = 1
    personal: Residual | None = None


class Ledger(Struct, frozen=True, kw_only=True):
    run: str
    schema: int = LEDGER_SCHEMA
    generation: int = 0  # of the last file that was named
    items: tuple[KeptItem, ...] = ()
    residual: Residual | None = None
    velocity: Residual | None = None  # of deep gradient compression
    variate: Residual | None = None  # SCAFFOLD's ci
    model: HeldModel | None = None
    graph: HeldGraph | None = None
    control: HeldGraph | None = None  # SCAFFOLD's c
    own: OwnState | None = None


class Prepared(Struct, frozen=True):
    """An encoded update whose files are written and named by no ledger yet."""

    item: KeptItem
    residual: Residual | None = None
    velocity: Residual | None = None
    own: OwnState | None = None


class Carried(NamedTuple):
    """What error feedback carried over an update: the norm of what it leaves, the share of the old that came in."""

    residual_norm: float
    residual_share: float


def prepared_files(prepared: Prepared) -> Iterator[str]:
    yield prepared.item.file
    for vector in (prepared.residual, prepared.velocity, *own_vectors(prepared.own)):
        if vector is not None:
            yield vector.file


def own_vectors(own: OwnState | None) -> tuple[Residual | None, ...]:
    return () if own is None else (own.local, own.optimizer, own.personal)


def files(ledger: Ledger) -> Iterator[str]:
    yield from (item.file for item in ledger.items)
    vectors = (ledger.residual, ledger.velocity, ledger.variate, *own_vectors(ledger.own))
    for held in (*vectors, ledger.model, ledger.graph, ledger.control):
        if held is not None:
            yield held.file


def generation(name: str) -> int:
    number = name.partition("-")[2].partition(".")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 16 else 0


def restore_item(kept: KeptItem) -> Item:
    return Item(
        task=kept.task,
        sha256=kept.sha256,
        bytes=kept.bytes,
        report=kept.report,
        phase=Phase.ACKED if kept.acked else Phase.OFFERED,
        was_acked=kept.acked,
    )
