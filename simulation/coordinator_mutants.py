"""Defects of the coordinator (simulation.mutants)."""

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
from simulation.coordinator_host import CoordinatorHost, CuttingJournal
from wire import messages as m

LATER_S = 0.2  # how long the disk of `ack before fsync` takes after the ack


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
            self.owed[update.task] = (update, self._payloads[update.sha256])
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


class PublishesLate(Service):
    """Publishes the control variate of the version before."""

    def _adopt(self, made: Committed) -> ce.VersionCommitted:
        before = self._control
        event = super()._adopt(made)
        self._control = before
        return event


class PublishesLateHost(CoordinatorHost):
    service_type = PublishesLate


class KeepsRoom(CoordinatorCore):
    """Forgets to give back the room that was kept for an update which came without one."""

    def handle(self, event: ce.Event, now: float) -> list[ca.Action]:
        before = dict(self.state.reserved)
        actions = super().handle(event, now)
        for task, size in before.items():
            if task not in self.state.reserved and task in self.state.tasks:
                self.state.reserved[task] = size
                self.state.reserved_bytes += size
        return actions


class KeepsRoomHost(CoordinatorHost):
    core_type = KeepsRoom


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
    "keeps room that nobody uses": KeepsRoomHost,
}
