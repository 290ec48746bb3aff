"""A small model of agents, network, journal and disk around the core, in virtual time. Not a test itself.

Every agent follows the protocol (hello, task, progress, offer, grant, chunks, ack, outcome); the network delays,
duplicates and loses what a dying connection loses; the journal is real SQLite in memory, and the coordinator may die
between any two actions. The world keeps its own books, so that it can say afterwards whether anything was lost or
counted twice.
"""

from __future__ import annotations

import hashlib
import heapq
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from coordinator import actions as a
from coordinator import events as e
from coordinator.config import CoordinatorConfig, LinkBudget
from coordinator.core import CoordinatorCore
from coordinator.journal import Committed, Journal
from coordinator.merges import EMPTY, FEDAVG, MergeSpec
from coordinator.recovery import restore_model, restore_state
from coordinator.state import FINAL, RunPhase
from topology.plan import PolicyPlan, UplinkPlan
from wire import messages as m
from wire import pair
from wire.codecs import make_chain, uplink_spec
from wire.codecs import model as versions

PARAMETERS = 200
UPDATE_BYTES = 3_500  # as told: with an eighth more it fits into a chunk

REPORT = m.Report(
    samples=100, steps=7, loss=1.0, train_s=1.0, step_s=0.1, fetch_s=0.1, fetch_bytes=10,
    peak_rss_bytes=1, residual_norm=0.0, raw_bytes=40_000,
)  # fmt: skip


def make_config(agents: int = 4, **changes: Any) -> CoordinatorConfig:
    policy = changes.pop("policy", {})
    values: dict[str, Any] = {
        "run": "r",
        "seed": 7,
        "agents": {f"d-{i}": LinkBudget(chunk_bytes=4_000, window_bytes=16_000) for i in range(agents)},
        "rounds": 3,
        "samples_max": 100,
        "parameters": PARAMETERS,
        "train": m.TrainSpec(local_epochs=1, batch_size=16, lr=0.1),
        "uplink": UplinkPlan(),
        "policy": PolicyPlan(**{"cohort": agents, "deadline_s": 30.0, "quorum": 0.5, **policy}),
        "start_timeout_s": 60.0,
    }
    return CoordinatorConfig(**{**values, **changes})


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


PAYLOADS: dict[str, bytes] = {}
_CHAIN = make_chain(uplink_spec(0.1, "int8"))


def content_of(name: str, paired: bool = False) -> str:
    """The sha256 of an update made for `name`, or of a pair; its bytes are in PAYLOADS."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    vector = np.random.default_rng(seed).standard_normal(PARAMETERS).astype(np.float32) * 0.01
    payload = _CHAIN.encode(vector, seed=seed)
    if paired:
        payload = pair.join(payload, _CHAIN.encode(vector[::-1] * np.float32(2.0), seed=seed))
    digest = hashlib.sha256(payload).hexdigest()
    PAYLOADS[digest] = payload
    return digest


def memory_journal(run: str) -> Journal:
    """The real journal without a disk: thousands of commits in a second."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("PRAGMA foreign_keys = ON")
    journal = Journal(Path(":memory:"), db, wall=lambda: 0.0)
    journal._prepare(run, "0" * 64)
    return journal


class _Dead(CoordinatorCore):
    """A process that is not there: takes nothing, wants nothing."""

    def handle(self, event: e.Event, now: float) -> list[a.Action]:
        return []

    def next_wakeup(self, now: float) -> float:
        return now + 3600.0

    def validate(self) -> None:
        return


@dataclass
class Habits:
    """How bad the world is. Probabilities per occasion, durations in seconds."""

    train_s: tuple[float, float] = (1.0, 12.0)
    delay_s: tuple[float, float] = (0.01, 0.5)
    kill: float = 0.0  # while it trains or uploads
    heal_s: tuple[float, float] = (0.5, 40.0)
    loses_disk: float = 0.0  # at a kill
    duplicate: float = 0.0  # of a message
    lose: float = 0.0  # of a message (a broker that died with it)
    fail: float = 0.0  # the agent gives a task up
    defect: float = 0.0  # content that cannot be merged
    forget_broker: float = 0.0  # per task: the broker dies and everybody reconnects
    crash: float = 0.0  # of the coordinator, per turn: before the commit or anywhere after it


@dataclass
class ModelAgent:
    """What one agent remembers. `spool` and `unsettled` are on its disk."""

    name: str
    boots: int = 0
    up: bool = False
    in_hand: m.Down | None = None
    spool: dict[str, str] = field(default_factory=dict)  # task -> sha256
    unsettled: dict[str, str] = field(default_factory=dict)
    settled: dict[str, str] = field(default_factory=dict)  # task -> outcome, for the books
    done: set[str] = field(default_factory=set)
    finished: bool = False

    @property
    def boot(self) -> str:
        return f"{self.name}.{self.boots}"


class World:
    """Runs a core against model agents until it stops. Raises AssertionError with the seed when something is off."""

    core_type: type[CoordinatorCore] = CoordinatorCore
    rounding = versions.Rounding()

    def __init__(
        self,
        config: CoordinatorConfig,
        seed: int,
        habits: Habits | None = None,
        merging: MergeSpec = FEDAVG,
    ) -> None:
        self.config, self.seed, self.habits = config, seed, habits or Habits()
        self.merging, self.server_state = merging, EMPTY
        self.rng = Random(seed)
        self.now = 0.0
        self.journal = memory_journal(config.run)
        self.master = np.zeros(PARAMETERS, np.float32)
        with self.journal.transaction():
            self.patterns = self.rounding.patterns(0, self.master, None)
            self.journal.begin_model(self.master, self.patterns)
        self.journal.next_epoch()
        self.core = self.core_type(config, restore_state(self.journal, config))
        self.crashes = 0
        self.agents = {name: ModelAgent(name) for name in config.agents}
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.stopped: a.Stop | None = None
        self.records: list[tuple[float, str, dict[str, Any]]] = []
        self.acked: dict[tuple[str, str], str] = {}  # (agent, task) -> sha256, as the agents saw it

    # --- time ------------------------------------------------------------------------------------------------

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.queue, (self.now + delay_s, self.count, action))

    def run(self, until_s: float = 5_000.0) -> a.Stop:
        self.feed(e.Started())
        self.feed(e.Connected())
        for agent in self.agents.values():
            self.later(self.rng.uniform(0, 3), lambda agent=agent: self.boot(agent))
        while self.stopped is None:
            assert self.now < until_s, f"seed {self.seed}: the run hangs in {self.core.state.phase}"
            wake = self.core.next_wakeup(self.now)
            if self.queue and self.queue[0][0] <= wake:
                self.now, _, action = heapq.heappop(self.queue)
                action()
            else:
                self.now = wake
                self.feed(e.Tick())
        return self.stopped

    def uniform(self, bounds: tuple[float, float]) -> float:
        return self.rng.uniform(*bounds)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    # --- the service's part ----------------------------------------------------------------------------------

    def feed(self, event: e.Event) -> None:
        if self.stopped is not None:
            return
        actions = self.core.handle(event, self.now)
        self.core.validate()
        if self.chance(self.habits.crash):
            self.crash(actions)
            return
        results = self.commit(actions)
        for action in actions:
            if not isinstance(action, a.JournalAction):
                self.execute(action)
        for result in results:
            self.feed(result)

    def commit(self, actions: list[a.Action]) -> list[e.Event]:
        writes = [action for action in actions if isinstance(action, a.JournalAction)]
        if not writes:
            return []
        with self.journal.transaction():
            return [event for write in writes if (event := self.write(write)) is not None]

    def write(self, action: a.JournalAction) -> e.Event | None:
        match action:
            case a.JournalUpdate():
                self.journal.apply(action, PAYLOADS[action.sha256])
                return e.UpdateJournalled(agent=action.agent, task=action.task, sha256=action.sha256)
            case a.CommitVersion():
                made: Committed = self.journal.commit_version(
                    action, self.master, self.rounding, self.merging, self.server_state, self.patterns
                )
                self.master, self.server_state, self.patterns = made.master, made.state, made.patterns
                return e.VersionCommitted(version=made.version, sha256=made.sha256, refused=made.refused)
        self.journal.apply(action)
        return None

    def crash(self, actions: list[a.Action]) -> None:
        """Die before the commit, or after it with only the first of the other actions done. Then start again."""
        self.crashes += 1
        if self.chance(0.5):
            self.commit(actions)
            rest = [action for action in actions if not isinstance(action, a.JournalAction)]
            for action in rest[: self.rng.randint(0, len(rest))]:
                if not isinstance(action, a.Stop | a.Evaluate):
                    self.execute(action)
        self.later(self.uniform((0.5, 5.0)), self.restart)
        self.core = _Dead(self.config, self.core.state)

    def restart(self) -> None:
        self.journal.next_epoch()
        model = restore_model(self.journal, self.rounding, keep=8, spec=self.merging)
        assert model is not None
        self.master, self.server_state = model.master, model.state
        self.patterns = model.recent[-1][1]
        self.core = self.core_type(self.config, restore_state(self.journal, self.config))
        self.feed(e.Started(resumed=True))
        self.feed(e.Connected())

    def execute(self, action: a.Action) -> None:
        match action:
            case a.Send():
                self.to_agent(action.agent, action.message)
            case a.SendTask():
                self.to_agent(action.agent, action)
            case a.SendGrant():
                self.to_agent(action.agent, action)
            case a.Record():
                self.records.append((self.now, action.event, action.fields))
            case a.Evaluate():
                version = action.version
                done = e.Evaluated(version=version, accuracy=min(0.99, version / 10), loss=1.0, samples=10)
                life = self.crashes
                # A worker thread dies with its process.
                self.later(0.3, lambda: self.feed(done) if self.crashes == life else None)
            case a.Stop():
                self.stopped = action

    # --- the network -----------------------------------------------------------------------------------------

    def to_agent(self, name: str, message: Any) -> None:
        if self.chance(self.habits.lose):
            return
        for _ in range(2 if self.chance(self.habits.duplicate) else 1):
            self.later(self.uniform(self.habits.delay_s), lambda: self.arrive(self.agents[name], message))

    def from_agent(self, agent: ModelAgent, message: m.Up | e.Event) -> None:
        if self.chance(self.habits.lose):
            return
        event = (
            message if isinstance(message, e.Event) else e.MessageArrived(agent=agent.name, message=message)
        )
        for _ in range(2 if self.chance(self.habits.duplicate) else 1):
            self.later(self.uniform(self.habits.delay_s), lambda: self.feed(event))

    # --- agents ----------------------------------------------------------------------------------------------

    def boot(self, agent: ModelAgent) -> None:
        agent.boots += 1
        agent.up, agent.in_hand = True, None
        self.from_agent(agent, m.Status(online=True, boot=agent.boot))
        self.hello(agent)
        self.ask_later(agent)

    def hello(self, agent: ModelAgent) -> None:
        spool = tuple(m.SpoolItem(task=t, sha256=s, bytes=5_000) for t, s in agent.spool.items())
        in_hand = agent.in_hand.task if isinstance(agent.in_hand, a.SendTask) else None
        unsettled = tuple(agent.unsettled)[:8]
        self.from_agent(
            agent, m.Hello(boot=agent.boot, task=in_hand, spool=spool[:8], unsettled=unsettled, samples=100)
        )
        for task, content in agent.spool.items():
            self.from_agent(agent, m.Offer(task=task, sha256=content, bytes=5_000, report=REPORT))

    def ask_later(self, agent: ModelAgent) -> None:
        boot = agent.boot

        def ask() -> None:
            if agent.up and agent.boot == boot and not agent.finished:
                if agent.unsettled:
                    self.from_agent(agent, m.Ask(tasks=tuple(agent.unsettled)[:8]))
                elif agent.spool:
                    self.hello(agent)  # it waits for a grant or an ack for too long
                self.later(15.0, ask)

        self.later(15.0, ask)

    def kill(self, agent: ModelAgent) -> None:
        if not agent.up:
            return
        agent.up, agent.in_hand = False, None
        if self.chance(self.habits.loses_disk):
            agent.spool.clear()
            agent.done.clear()
        # The will is not lost with a message: the broker has it.
        boot = agent.boot
        will = e.MessageArrived(agent=agent.name, message=m.Status(online=False, boot=boot))
        self.later(self.uniform(self.habits.delay_s), lambda: self.feed(will))
        self.later(self.uniform(self.habits.heal_s), lambda: self.boot(agent))

    def arrive(self, agent: ModelAgent, message: Any) -> None:
        if not agent.up:
            # The broker's session keeps it until the agent is back, or loses it as above.
            if not agent.finished:
                self.later(5.0, lambda: self.arrive(agent, message))
            return
        match message:
            case a.SendTask():
                self.take_task(agent, message)
            case a.SendGrant():
                self.send_update(agent, message)
            case m.Ack():
                self.take_ack(agent, message)
            case m.Outcome():
                self.settle(agent, message)
            case m.Cancel():
                agent.spool.pop(message.task, None)
                agent.done.add(message.task)
                if isinstance(agent.in_hand, a.SendTask) and agent.in_hand.task == message.task:
                    agent.in_hand = None
            case m.Resync():
                self.hello(agent)
            case m.Finish():
                self.leave(agent)

    def take_task(self, agent: ModelAgent, task: a.SendTask) -> None:
        known = agent.done | agent.spool.keys() | agent.unsettled.keys() | agent.settled.keys()
        if agent.in_hand is not None or task.task in known:
            return
        agent.in_hand = task
        boot = agent.boot
        self.from_agent(agent, m.Progress(task=task.task, phase="training", done=0, total=10))
        if task.survey:
            self.later(self.uniform(self.habits.train_s), lambda: self.tested(agent, task, boot))
            return
        duration = self.uniform(self.habits.train_s)
        if self.chance(self.habits.kill):
            self.later(self.rng.uniform(0, duration), lambda: self.kill(agent))
        if self.chance(self.habits.forget_broker):
            self.later(self.rng.uniform(0, duration), self.reconnect)
        self.later(duration, lambda: self.trained(agent, task, boot))

    def tested(self, agent: ModelAgent, task: a.SendTask, boot: str) -> None:
        if not agent.up or agent.boot != boot or agent.in_hand is not task:
            return
        agent.in_hand = None
        if self.chance(self.habits.fail):
            self.from_agent(agent, m.Failed(task=task.task, reason="no memory"))
            return
        figures = m.LocalFigures(version=task.version, received=m.Measured(samples=10, loss=1.0, answers=10))
        self.from_agent(agent, m.Surveyed(task=task.task, figures=figures))

    def trained(self, agent: ModelAgent, task: a.SendTask, boot: str) -> None:
        if not agent.up or agent.boot != boot or agent.in_hand is not task:
            return
        agent.in_hand = None
        if self.chance(self.habits.fail):
            agent.done.add(task.task)
            self.from_agent(agent, m.Failed(task=task.task, reason="no memory"))
            return
        if task.probe:
            loss = self.rng.uniform(0.1, 3.0)
            self.from_agent(agent, m.Probed(task=task.task, loss=loss, samples=min(100, task.probe)))
            return
        # Another boot trains to other bytes.
        content = content_of(f"{task.task}/{boot}", self.merging.rule.paired)
        agent.spool[task.task] = content
        offer = m.Offer(task=task.task, sha256=content, bytes=UPDATE_BYTES, report=REPORT)
        # Without room, too, now and then: whoever was told of it may have been told of its end meanwhile.
        if task.inline_bytes >= UPDATE_BYTES or self.chance(self.habits.lose):
            received = e.UpdateReceived(
                agent=agent.name, task=task.task, sha256=content, bytes=UPDATE_BYTES, payload_bytes=5_300, chunks=0,
                defect="NaN" if self.chance(self.habits.defect) else "",
            )  # fmt: skip
            self.from_agent(agent, e.OfferedWhole(offer=offer, received=received))
        else:
            self.from_agent(agent, offer)

    def send_update(self, agent: ModelAgent, grant: a.SendGrant) -> None:
        if agent.spool.get(grant.task) != grant.sha256:
            return
        if self.chance(self.habits.kill):
            self.later(self.rng.uniform(0, 1), lambda: self.kill(agent))
        defect = "NaN" if self.chance(self.habits.defect) else ""
        received = e.UpdateReceived(
            agent=agent.name, task=grant.task, sha256=grant.sha256, bytes=UPDATE_BYTES, payload_bytes=5_100,
            chunks=2, defect=defect,
        )  # fmt: skip
        boot = agent.boot
        self.later(
            self.rng.uniform(0.1, 2.0),
            lambda: self.from_agent(agent, received) if agent.up and agent.boot == boot else None,
        )

    def take_ack(self, agent: ModelAgent, ack: m.Ack) -> None:
        rows = self.journal.db.execute("SELECT sha256 FROM updates WHERE task = ?", (ack.task,)).fetchall()
        assert rows == [(ack.sha256,)], f"seed {self.seed}: {ack.task} acked, the journal has {rows}"
        self.acked[agent.name, ack.task] = ack.sha256
        if agent.spool.pop(ack.task, None) is not None and ack.task not in agent.settled:
            agent.unsettled[ack.task] = ack.sha256

    def settle(self, agent: ModelAgent, outcome: m.Outcome) -> None:
        before = agent.settled.get(outcome.task)
        assert before in (None, outcome.outcome), (
            f"seed {self.seed}: {outcome.task}: {before}, {outcome.outcome}"
        )
        agent.settled[outcome.task] = outcome.outcome
        agent.unsettled.pop(outcome.task, None)
        agent.spool.pop(outcome.task, None)

    def leave(self, agent: ModelAgent) -> None:
        if agent.spool or agent.unsettled or agent.finished:
            return
        agent.finished, agent.up = True, False
        self.from_agent(agent, m.Status(online=False, boot=agent.boot))

    def reconnect(self) -> None:
        self.feed(e.Disconnected(reason="broker died"))
        self.feed(e.Connected())

    # --- the books -------------------------------------------------------------------------------------------

    def check_books(self) -> None:
        """Every acked update was merged once or has an outcome; the history agrees with the journal."""
        assert self.core.state.phase is RunPhase.DONE
        db = self.journal.db
        updates = dict(db.execute("SELECT task, sha256 FROM updates").fetchall())
        outcomes = dict(db.execute("SELECT task, outcome FROM outcomes").fetchall())
        merges = [task for (task,) in db.execute("SELECT task FROM merges").fetchall()]
        assert len(merges) == len(set(merges)), f"seed {self.seed}: merged twice"
        assert set(merges) == {t for t, o in outcomes.items() if o == "merged"}, f"seed {self.seed}: outcomes"
        assert updates.keys() == outcomes.keys(), f"seed {self.seed}: acked without an outcome"
        for (agent, task), content in self.acked.items():
            assert updates.get(task) == content, f"seed {self.seed}: {task} of {agent} was acked and is lost"
        for agent in self.agents.values():
            for task, told in agent.settled.items():
                assert outcomes.get(task) == told, (
                    f"seed {self.seed}: {task}: told {told}, is {outcomes.get(task)}"
                )
        made = [version for (version,) in db.execute("SELECT version FROM versions ORDER BY version")]
        assert made == list(range(len(made))), f"seed {self.seed}: versions {made}"
        ended = {state.value for state in FINAL}
        rows = db.execute("SELECT task, state FROM tasks").fetchall()
        left = [task for task, state in rows if state not in ended]
        assert not left, f"seed {self.seed}: tasks without an end: {left}"
        again = restore_model(self.journal, "fp16", keep=1, spec=self.merging)
        assert again is not None
        assert again.master.tobytes() == self.master.tobytes(), (
            f"seed {self.seed}: recovery makes another model"
        )
