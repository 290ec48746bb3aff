"""The coordinator's real service, core, journal, inbound and outbound, on a virtual clock and network.

Simulated are the MQTT link, the evaluation, and the end of the process: at any operation (a commit begun, a commit
returned, a message handed to the link) it may be gone. The journal is real SQLite in memory: a transaction that
returned is durable, one that did not is rolled back.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from coordinator import actions as a
from coordinator import events as e
from coordinator import merge
from coordinator.config import CoordinatorConfig
from coordinator.core import CoordinatorCore
from coordinator.decisions import digest_of, pack_state
from coordinator.inbound import Inbound
from coordinator.inbox import Delivery
from coordinator.journal import Journal, Transaction
from coordinator.live import DELTAS_MAX, LiveModels
from coordinator.merges import FEDAVG, MergeSpec
from coordinator.outbound import Outbound
from coordinator.policies import Policy, make_policy
from coordinator.recovery import Model, named_versions, restore_model, restore_state
from coordinator.refusals import RefusalLog
from coordinator.service import Service
from simulation.broker import RECONNECT_S, Broker, Connection, Packet, Peer
from simulation.clock import Clock
from simulation.disk import PowerCut
from simulation.habits import Habits
from wire import messages as m
from wire import topics
from wire.codecs import model as versions

GRAPH = b"a training graph" * 50
MODEL_CHUNK_BYTES = 512
EVALUATION_S = 0.3
HEAL_S = (0.5, 6.0)
FAR_AHEAD_S = 1e7  # the monotonic clock of a machine that has been up for months
BORN_S = 1.7e9  # Unix time; from here the wall clock runs backwards, an hour a second: nothing may go by it
OPERATIONS_TO_CUT = 12  # how far ahead a death may be aimed: the longest turns have some dozen operations


class _CuttingTransaction(Transaction):
    def __init__(self, db: sqlite3.Connection, host: CoordinatorHost) -> None:
        super().__init__(db)
        self._host = host

    def __enter__(self) -> None:
        self._host.operation()
        super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        super().__exit__(kind, error, trace)
        if error is None:
            self._host.operation()


class CuttingJournal(Journal):
    """The real journal; the process may die before a commit or right after it."""

    host: CoordinatorHost

    def transaction(self) -> Transaction:
        return _CuttingTransaction(self.db, self.host)


class SimulatedLink(Peer):
    """`coordinator.mqtt.BrokerLink` on the simulated broker."""

    def __init__(self, host: CoordinatorHost) -> None:
        self._host = host
        self._closed = False
        self.connection: Connection | None = None

    def connect(self) -> None:
        if self._closed:
            return
        will = Packet(
            topics.status(self._host.config.run, topics.COORDINATOR),
            m.encode(m.Status(online=False, boot="c")),
        )
        self.connection = self._host.broker.connect(topics.COORDINATOR, self, will)

    def connected(self, session_present: bool) -> None:
        if self._closed or self.connection is None:
            return
        root = topics.root(self._host.config.run)
        self.connection.subscribe([f"{root}/up/#", f"{root}/status/#"])
        self._host.turn([e.Connected(session_present=session_present)])

    def disconnected(self) -> None:
        if self._closed:
            return
        self.connection = None
        self._host.turn([e.Disconnected(reason="the connection broke")])
        self._host.clock.later(self._host.rng.uniform(*RECONNECT_S), self.connect)

    def arrived(self, packet: Packet) -> None:
        if not self._closed:
            self._host.deliver(Delivery(packet.topic, packet.payload, False))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        self._host.operation()
        return self.connection is not None and self.connection.publish(topic, payload, retain) is not None

    def say_online(self) -> None:
        self.publish(
            topics.status(self._host.config.run, topics.COORDINATOR),
            m.encode(m.Status(online=True, boot="c")),
            retain=True,
        )

    def vanish(self) -> None:
        self._closed = True
        if self.connection is not None:
            self._host.broker.drop(self.connection, tell=False)


class SimulatedEvaluation:
    def __init__(self, host: CoordinatorHost) -> None:
        self._host, self._life = host, host.life

    def submit(self, version: int, _parameters: Any) -> None:
        done = e.Evaluated(version=version, accuracy=min(0.9, version / 10), loss=1.0, samples=10)
        self._host.clock.later(
            EVALUATION_S, lambda: self._host.turn([done]) if self._host.life == self._life else None
        )

    def stop(self) -> None:
        return


class SimulatedChronicle:
    def __init__(self, host: CoordinatorHost) -> None:
        self._host = host

    def append(self, event: str, fields: dict[str, Any]) -> None:
        self._host.records.append((self._host.clock.now, event, fields))
        self._host.on_record(event, fields)

    def lapse(self, what: str, requested: str, effective: str, detail: str = "") -> None:
        self.append("lapse", {"what": what, "requested": requested, "effective": effective, "detail": detail})

    def sync(self) -> None:
        return

    def close(self) -> None:
        return


class Life:
    """What the core was told between two deaths and what it decided, for a replay."""

    def __init__(self, core: CoordinatorCore) -> None:
        self.began = pack_state(core.state)
        self.told: list[tuple[e.Event, float, str]] = []
        handle = core.handle

        def remembering(event: e.Event, now: float) -> list[a.Action]:
            actions = handle(event, now)
            self.told.append((event, now, digest_of(actions)))
            return actions

        core.handle = remembering  # type: ignore[method-assign]


class LifeClock:
    """A life's own monotonic clock. A machine that was started again begins at 0, another one is anywhere: times of
    one life mean nothing in the next.
    """

    def __init__(self, clock: Clock, number: int) -> None:
        self._clock, self._ahead_s = clock, (0.0, -clock.now, FAR_AHEAD_S)[number % 3]

    def __call__(self) -> float:
        return self._clock.now + self._ahead_s

    def moment(self, due: float) -> float:
        """When it is `due` by this clock, in virtual time; not a rounding error earlier."""
        moment = due - self._ahead_s
        return moment if moment + self._ahead_s >= due else moment + math.ulp(max(due, moment))


class CoordinatorHost:
    service_type: type[Service] = Service
    core_type: type[CoordinatorCore] = CoordinatorCore
    journal_type: type[CuttingJournal] = CuttingJournal

    def __init__(
        self,
        config: CoordinatorConfig,
        clock: Clock,
        broker: Broker,
        rng: Random,
        habits: Habits,
        merging: MergeSpec = FEDAVG,
    ) -> None:
        self.config, self.clock, self.broker, self.rng, self.habits = config, clock, broker, rng, habits
        self.merging = merging
        self.calm = False
        self.life = 0
        self.crashes = 0
        self.records: list[tuple[float, str, dict[str, Any]]] = []
        self.lives: list[Life] = []
        self.service: Service | None = None
        self.finished = False
        self.last_master: Any = None
        self.on_record: Callable[[str, dict[str, Any]], None] = lambda _event, _fields: None
        self._cut_in: int | None = None
        self.operations = 0
        self.link = SimulatedLink(self)
        self._due = float("inf")
        self.mono = LifeClock(clock, 0)
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.execute("PRAGMA foreign_keys = ON")
        self.journal = self.journal_type(Path(":memory:"), db, wall=lambda: BORN_S - 3_600 * clock.now)
        self.journal.host = self
        self.journal._prepare(config.run, "0" * 64)
        self.initial = np.zeros(config.parameters, np.float32)
        with self.journal.transaction():
            self.journal.begin_model(self.initial, versions.to_patterns(self.initial))
        self.operations = 0  # what comes before the first boot is none of its life

    def make_policy(self) -> Policy:
        return make_policy(self.config.policy)

    # --- life ------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.life += 1
        self._due = float("inf")
        self.mono = LifeClock(self.clock, self.crashes)
        self._guarded(self._start)

    def _start(self) -> None:
        self.journal.next_epoch()
        model = restore_model(
            self.journal, "fp16", DELTAS_MAX + 1, self.merging, named_versions(self.journal)
        )
        assert model is not None, "version 0 is journalled before anything else"
        self.link = SimulatedLink(self)
        self.service = self._assemble(model)
        self._turn([e.Started(resumed=self.life > 1)])
        self.link.connect()

    def _assemble(self, model: Model) -> Service:
        config = self.config
        made: list[Service] = []
        inbound = Inbound(
            config.run,
            bytes_max=max(config.open_grant_bytes_max, config.update_bytes_max),
            objects_max=len(config.agents) + 1,
            refuse=lambda agent, topic, reason, size: made[0].refuse(agent, topic, reason, size),
            defect_of=lambda payload: merge.defect_of(payload, config.parameters, self.merging.rule.kind),
        )
        live = LiveModels(GRAPH, "fp16", MODEL_CHUNK_BYTES)
        outbound = Outbound(config, self.link, inbound, live, full=lambda topic: made[0].outbox_full(topic))
        reachable = frozenset(version for version, _ in model.recent)
        state = restore_state(self.journal, config, reachable)
        self.core = self.core_type(config, state, self.make_policy())
        self.lives.append(Life(self.core))
        parts: dict[str, Any] = {
            "link": self.link,
            "evaluation": SimulatedEvaluation(self),
            "chronicle": SimulatedChronicle(self),
        }
        made.append(
            self.service_type(
                core=self.core,
                journal=self.journal,
                model=model,
                merging=self.merging,
                rounding=versions.Rounding(),
                inbox=None,  # type: ignore[arg-type]  # its loop is ours
                inbound=inbound,
                outbound=outbound,
                refusals=RefusalLog(),
                alive=None,
                mono=self.mono,
                **parts,
            )
        )
        return made[0]

    def turn(self, events: list[e.Event]) -> None:
        """What the service's loop does with what is in its inbox."""
        if self.service is not None:
            if not self.calm and self.rng.random() < self.habits.crash:
                self.cut_after(self.rng.randrange(OPERATIONS_TO_CUT))
            self._guarded(lambda: self._turn([*events, e.Tick()]))

    def deliver(self, delivery: Delivery) -> None:
        if self.service is None:
            return
        event = self.service._event_of(delivery)
        if event is not None:
            self.turn([event])

    def _turn(self, events: list[e.Event]) -> None:
        service = self.service
        assert service is not None
        service._turn(events)
        self.core.validate()
        self.last_master = service._master
        if service._result is not None:
            self.finished, self.service = True, None
            self.link.vanish()
            return
        self._sleep()

    def _sleep(self) -> None:
        due = self.mono.moment(self.core.next_wakeup(self.mono()))
        if due < self._due:
            self._due, life = due, self.life
            self.clock.at(due, lambda: self._wake(life, due))

    def _wake(self, life: int, due: float) -> None:
        if self.life == life and self._due == due:
            self._due = float("inf")
            self.turn([])

    # --- death -----------------------------------------------------------------------------------------------

    def cut_after(self, operations: int) -> None:
        """Die at the operation after so many more of them."""
        self._cut_in = operations

    def operation(self) -> None:
        """Called before everything that leaves a trace outside of the process."""
        self.operations += 1
        if self._cut_in is None:
            return
        self._cut_in -= 1
        if self._cut_in < 0:
            raise PowerCut

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except PowerCut:
            self._die()

    def _die(self) -> None:
        self.crashes += 1
        self.life += 1
        self._cut_in, self.service = None, None
        self.link.vanish()
        self.clock.later(self.rng.uniform(*HEAL_S), self.boot)

    def calm_down(self) -> None:
        self.calm, self._cut_in = True, None

    def dispose(self) -> None:
        self.journal.close()
