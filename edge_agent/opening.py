"""The ledger as a start finds it: what does not match its checksum is left out, and of another run nothing is kept."""

from __future__ import annotations

import msgspec

from edge_agent.disk import Disk
from edge_agent.intact import Intact
from edge_agent.ledger import LEDGER_SCHEMA, HeldGraph, Ledger

LEDGER = "ledger"
LEDGER_BYTES_MAX = 1 << 20  # four items with their reports are 3 kB


def opened(disk: Disk, run: str, problems: list[str]) -> Ledger:
    """`problems` gets a line for everything that is left out."""
    try:
        ledger = msgspec.msgpack.decode(disk.read(LEDGER, LEDGER_BYTES_MAX), type=Ledger)
    except FileNotFoundError:
        return Ledger(run=run)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        problems.append(f"the ledger cannot be read and is started anew: {error}")
        return Ledger(run=run)
    if ledger.run != run or ledger.schema != LEDGER_SCHEMA:
        problems.append(f"the state is of run {ledger.run!r}, this is {run!r}: started anew")
        return Ledger(run=run)
    return _checked(ledger, Intact(disk, problems))


def _checked(ledger: Ledger, intact: Intact) -> Ledger:
    """A damaged disk costs an update, never the run."""
    model = ledger.model
    if model is not None and not intact.content(model.file, model.sha256, "the held model"):
        model = None
    return msgspec.structs.replace(
        ledger,
        items=tuple(
            item for item in ledger.items if intact.content(item.file, item.sha256, "an update", item.bytes)
        ),
        model=model,
        graph=_held(intact, ledger.graph, "the graph"),
        control=_held(intact, ledger.control, "the server's control variate"),
        residual=intact.vector(ledger.residual, "the residual"),
        velocity=intact.vector(ledger.velocity, "the velocity"),
        variate=intact.vector(ledger.variate, "the control variate"),
        own=intact.own(ledger.own),
    )


def _held(intact: Intact, held: HeldGraph | None, what: str) -> HeldGraph | None:
    return held if held is not None and intact.content(held.file, held.sha256, what) else None
