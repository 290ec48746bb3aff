"""Defects of a device (simulation.mutants)."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from edge_agent import events as e
from edge_agent import items
from edge_agent.core import AgentCore
from edge_agent.ledger import Prepared
from edge_agent.turn import Turn
from simulation.agent_host import AgentHost
from simulation.books import BookedSpool
from simulation.disk import ForgetfulDisk
from wire import messages as m


class SettlesOnSend(AgentCore):
    """Takes the broker's confirmation for the coordinator's word."""

    def _dispatch(self, turn: Turn, event: e.Event) -> None:
        super()._dispatch(turn, event)
        if isinstance(event, e.UploadDone) and (item := self.state.items.get(event.task)) is not None:
            items.settle(turn, item, "merged", give_back=False, reason="sent")


class SettlesOnSendHost(AgentHost):
    core_type = SettlesOnSend


class TrustsAnySha(AgentCore):
    """Settles its own content by the outcome of another one."""

    def _message(self, turn: Turn, message: m.Down) -> None:
        if isinstance(message, m.Outcome) and message.sha256 is not None and message.task in self.state.items:
            message = msgspec.structs.replace(message, sha256=self.state.items[message.task].sha256)
        super()._message(turn, message)


class TrustsAnyShaHost(AgentHost):
    core_type = TrustsAnySha


class NeverRepeats(AgentCore):
    """Says everything once: a lost message is lost for ever."""

    def _advance(self, turn: Turn) -> None:
        for item in self.state.items.values():
            if item.offered_times:
                item.offer_at = float("inf")
        self.state.hello_at = self.state.ask_at = float("inf")
        super()._advance(turn)


class NeverRepeatsHost(AgentHost):
    core_type = NeverRepeats


class UnsyncedDisk(ForgetfulDisk):
    """Renames, and never makes a name durable."""

    def sync(self) -> None:
        self._operation()

    def after_power_cut(self, rng: Any) -> UnsyncedDisk:
        return UnsyncedDisk(super().after_power_cut(rng)._visible)

    def after_kill(self) -> UnsyncedDisk:
        disk = UnsyncedDisk(self._durable)
        disk._visible, disk._pending = dict(self._visible), list(self._pending)
        return disk


class UnsyncedHost(AgentHost):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.disk = UnsyncedDisk()


class CommitsResidualEarly(BookedSpool):
    """The next residual counts from the moment it is encoded, before its payload does."""

    def prepare(self, *parts: Any, **named: Any) -> Prepared:
        prepared = super().prepare(*parts, **named)
        self._replace(msgspec.structs.replace(self._ledger, residual=prepared.residual))
        return prepared


class CommitsResidualEarlyHost(AgentHost):
    spool_type = CommitsResidualEarly


class ForgetsToGiveBack(BookedSpool):
    """Content that was not merged is gone."""

    def settle(self, task: str, give_back: bool, merged: bool = False) -> float:
        before = self._ledger.residual
        norm = super().settle(task, give_back, merged)
        if give_back and before is not None:
            zeros = iter([np.zeros(before.n, np.float32)])
            blank = self._vectors.write("residual-", before.n, zeros, 0.0, before.version)
            self._replace(msgspec.structs.replace(self._ledger, residual=blank))
        return norm


class ForgetsToGiveBackHost(AgentHost):
    spool_type = ForgetsToGiveBack


class MovesWhateverBecame(BookedSpool):
    """The control variate moves with every outcome."""

    def settle(self, task: str, give_back: bool, merged: bool = False) -> float:
        return super().settle(task, give_back, merged=True)


class MovesWhateverBecameHost(AgentHost):
    spool_type = MovesWhateverBecame


class MovesBeforehand(BookedSpool):
    """The control variate moves in a step of its own, before the update is forgotten: a kill between both doubles
    it.
    """

    def settle(self, task: str, give_back: bool, merged: bool = False) -> float:
        kept = self._item(task)
        if merged and kept.paired:
            self._replace(msgspec.structs.replace(self._ledger, variate=self._moved(kept)))
        return super().settle(task, give_back)


class MovesBeforehandHost(AgentHost):
    spool_type = MovesBeforehand


class ForgetsVariate(BookedSpool):
    """Every boot begins with a control variate of zero."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._ledger = msgspec.structs.replace(self._ledger, variate=None)


class ForgetsVariateHost(AgentHost):
    spool_type = ForgetsVariate


AGENT_MUTANTS: dict[str, type[AgentHost]] = {
    "settles on send": SettlesOnSendHost,
    "trusts any sha256": TrustsAnyShaHost,
    "never repeats itself": NeverRepeatsHost,
    "spools without a sync": UnsyncedHost,
    "commits the residual early": CommitsResidualEarlyHost,
    "forgets to give back": ForgetsToGiveBackHost,
    "moves its variate whatever became": MovesWhateverBecameHost,
    "moves its variate in a step of its own": MovesBeforehandHost,
    "forgets its variate": ForgetsVariateHost,
}
