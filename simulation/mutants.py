"""Defects put in on purpose. A check that does not catch its mutant checks nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np

from coordinator import actions as ca
from coordinator import events as ce
from coordinator import merge
from coordinator.core import CoordinatorCore
from coordinator.journal import Committed
from coordinator.merges import FEDAVG, Item
from coordinator.policies import AgentView, FedAT, Policy
from coordinator.service import Service
from coordinator.state import TaskState
from edge_agent import events as e
from edge_agent import items
from edge_agent.core import AgentCore
from edge_agent.ledger import Prepared
from edge_agent.turn import Turn
from simulation.agent_host import AgentHost
from simulation.books import BookedSpool
from simulation.coordinator_host import CoordinatorHost, CuttingJournal
from simulation.disk import ForgetfulDisk
from simulation.world import World
from wire import messages as m

LATER_S = 0.2  # how long the disk of `ack before fsync` takes after the ack


# --- the coordinator's ---------------------------------------------------------------------------------------------


class AcksFirst(Service):
    """Acknowledges what is only about to be written."""

    owed: dict[str, tuple[ca.JournalUpdate, bytes]]
    after: Callable[[float, Callable[[], None]], None]

    def _commit(self, actions: list[ca.Action], results: deque[ce.Event]) -> bool:
        updates = [x for x in actions if isinstance(x, ca.JournalUpdate)]
        rest = [x for x in actions if not isinstance(x, ca.JournalUpdate)]
        if any(isinstance(x, ca.CommitVersion | ca.JournalClose | ca.JournalFinish) for x in rest):
            self.write_owed()
        if not super()._commit(rest, results):
            return False
        for update in updates:
            self.owed[update.task] = (update, self._payloads[update.agent, update.task])
            self.after(LATER_S, self.write_owed)
            results.append(ce.UpdateJournalled(agent=update.agent, task=update.task, sha256=update.sha256))
        return True

    def write_owed(self) -> None:
        owed, self.owed = self.owed, {}
        with self._journal.transaction():
            for update, payload in owed.values():
                self._journal.apply(update, payload)


class AcksFirstHost(CoordinatorHost):
    service_type = AcksFirst

    def _assemble(self, model: Any) -> Service:
        service = super()._assemble(model)
        assert isinstance(service, AcksFirst)
        service.owed, life = {}, self.life

        def after(delay_s: float, action: Callable[[], None]) -> None:
            self.clock.later(delay_s, lambda: self._guarded(action) if self.life == life else None)

        service.after = after
        return service


class RemembersRedeliveries(CoordinatorCore):
    """Notes what is offered again after its ack, for the journal below."""

    redelivered: ClassVar[set[str]] = set()

    def handle(self, event: ce.Event, now: float) -> list[ca.Action]:
        if isinstance(event, ce.MessageArrived) and isinstance(event.message, m.Offer):
            task = self.state.tasks.get(event.message.task)
            if task is not None and task.state is TaskState.ACKED:
                self.redelivered.add(task.id)
        return super().handle(event, now)


class MergesTwice(CuttingJournal):
    """Merges a redelivered update once more."""

    redelivered: set[str]

    def commit_version(self, action: ca.CommitVersion, master: Any, dtype: Any, *rest: Any) -> Committed:
        made = super().commit_version(action, master, dtype, *rest)
        again = [x for x in action.updates if x.task in self.redelivered]
        spec = msgspec.structs.replace(FEDAVG, server_lr=action.server_lr)
        items = (Item(self.payload(x.task), x.samples, x.factor) for x in again)
        twice = merge.apply(made.master, items, spec)
        return msgspec.structs.replace(made, master=twice.master)


class MergesTwiceHost(CoordinatorHost):
    core_type = RemembersRedeliveries
    journal_type = MergesTwice

    def _assemble(self, model: Any) -> Service:
        service = super()._assemble(model)
        assert isinstance(self.core, RemembersRedeliveries)
        assert isinstance(self.journal, MergesTwice)
        RemembersRedeliveries.redelivered = self.journal.redelivered = set()
        return service


class CompoundingHost(CoordinatorHost):
    """Multiplies the step by every staleness weight it computes, in place."""

    def make_policy(self) -> Policy:
        policy = super().make_policy()
        factor = policy.factor

        def compounding(staleness: int) -> float | None:
            found = factor(staleness)
            policy.merge_lr *= found if found is not None else 1.0
            return found

        policy.factor = compounding  # type: ignore[method-assign]
        return policy


class CountsAfterHost(CoordinatorHost):
    """Counts the staleness after the merge: a fresh update is one version old."""

    def make_policy(self) -> Policy:
        policy = super().make_policy()
        factor = policy.factor
        policy.factor = lambda staleness: factor(staleness + 1)  # type: ignore[method-assign]
        return policy


class FavoursTheFastHost(CoordinatorHost):
    """FedAT's tiers count with their own share of the versions instead of their mirror's."""

    def make_policy(self) -> Policy:
        policy = super().make_policy()
        if isinstance(policy, FedAT):
            mirrored, tiers = policy.share, policy.tiers

            def own(group: int, merges: Mapping[int, int]) -> float:
                return mirrored(tiers + 1 - group if group else group, merges)

            policy.share = own  # type: ignore[method-assign]
        return policy


class StarvingHost(CoordinatorHost):
    """Never gives the first device a task while there is another."""

    def make_policy(self) -> Policy:
        policy = super().make_policy()
        choose, refill = policy.choose, policy.refill

        def others(seen: Sequence[AgentView]) -> Sequence[AgentView]:
            return [view for view in seen if view.name != "d-0"] or seen

        policy.choose = lambda seen, *rest: choose(others(seen), *rest)  # type: ignore[method-assign]
        policy.refill = lambda seen, *rest: refill(others(seen), *rest)  # type: ignore[method-assign]
        return policy


class NormalisesAway(CuttingJournal):
    """Divides by the damped samples: staleness that is the same for all of a version cancels."""

    def commit_version(self, action: ca.CommitVersion, master: Any, dtype: Any, *rest: Any) -> Committed:
        made = super().commit_version(action, master, dtype, *rest)
        damped = sum(x.samples * x.factor for x in action.updates)
        undo = sum(x.samples for x in action.updates) / damped
        return msgspec.structs.replace(made, master=master + (made.master - master) * np.float32(undo))


class NormalisesAwayHost(CoordinatorHost):
    journal_type = NormalisesAway


class ForgetsVersions(CoordinatorCore):
    """Withdraws a version as soon as there is a newer one, whoever still needs it."""

    def handle(self, event: ce.Event, now: float) -> list[ca.Action]:
        return [
            msgspec.structs.replace(x, keep=()) if isinstance(x, ca.PublishVersion) else x
            for x in super().handle(event, now)
        ]


class ForgetsVersionsHost(CoordinatorHost):
    core_type = ForgetsVersions


class LosesCarried(CoordinatorCore):
    """A new round begins with an empty pool: what was late for the last one never counts."""

    def handle(self, event: ce.Event, now: float) -> list[ca.Action]:
        round_ = self.state.round
        if round_ is not None:
            for task in self.state.unended.values():
                if task.state is TaskState.ACKED and task.round < round_.number:
                    task.defect = "lost"
        return super().handle(event, now)


class LosesCarriedHost(CoordinatorHost):
    core_type = LosesCarried


# --- the agent's ---------------------------------------------------------------------------------------------------


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


class PublishesLate(Service):
    """Publishes the control variate of the version before."""

    def _adopt(self, made: Committed) -> ce.VersionCommitted:
        before = self._control
        event = super()._adopt(made)
        self._control = before
        return event


class PublishesLateHost(CoordinatorHost):
    service_type = PublishesLate


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
COORDINATOR_MUTANTS: dict[str, type[CoordinatorHost]] = {
    "acks before the fsync": AcksFirstHost,
    "merges twice on redelivery": MergesTwiceHost,
    "loses what is carried over": LosesCarriedHost,
    "compounds staleness": CompoundingHost,
    "counts staleness after the merge": CountsAfterHost,
    "normalises staleness away": NormalisesAwayHost,
    "favours the fast tier": FavoursTheFastHost,
    "starves an agent": StarvingHost,
    "forgets versions that are needed": ForgetsVersionsHost,
    "publishes an older c": PublishesLateHost,
}
OF_VARIATES = {
    "moves its variate whatever became",
    "moves its variate in a step of its own",
    "forgets its variate",
    "publishes an older c",
}
MUTANTS = [*COORDINATOR_MUTANTS, *AGENT_MUTANTS]


def mutated(name: str, seed: int) -> World:
    """A world with this defect in it."""
    agent = AGENT_MUTANTS.get(name, AgentHost)
    return World(
        seed,
        schedule="scaffold" if name in OF_VARIATES else "",  # the others have no control variates
        agent_type=agent,
        coordinator_type=COORDINATOR_MUTANTS.get(name, CoordinatorHost),
    )
