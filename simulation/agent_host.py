"""One device: the agent's real service, core, spool, transfers and jobs, on a virtual clock, disk and network.

Simulated are only the MQTT client, the worker's thread and the training itself, which returns random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np

from edge_agent import actions as a
from edge_agent import events as e
from edge_agent import mqtt
from edge_agent.core import AgentCore
from edge_agent.jobs import Job, Jobs, OnStep, WorkError
from edge_agent.layout import Layout
from edge_agent.ledger import DiskBroken
from edge_agent.limits import Limits
from edge_agent.service import AgentService, status_message
from learning.shard import Shard
from learning.trainer import TrainResult
from simulation.books import AgentBooks, BookedSpool
from simulation.broker import RECONNECT_S, Broker, Connection, Packet, Peer
from simulation.clock import Clock
from simulation.disk import ForgetfulDisk, PowerCut
from simulation.habits import Habits
from topology.plan import AgentConfig
from wire import messages as m
from wire.codecs import model as versions

SAMPLES = 100
STEPS = 7
# The waits of the real agent, shortened like everything else here: a run takes two minutes, not hours.
LIMITS = Limits(
    offer_again_s=2.0,
    offer_again_max_s=8.0,
    ask_every_s=5.0,
    hello_again_s=5.0,
    hello_again_max_s=10.0,
    settle_again_s=3.0,
)
JOB_S = (0.01, 0.3)  # installing, encoding


class SimulatedJobs(Jobs):
    """The real ones, but for the training."""

    host: AgentHost

    def train(self, job: a.Train, on_step: OnStep) -> TrainResult:
        host = self.host
        if host.happens(host.habits.fail):
            raise WorkError("the loss became NaN")
        delta = host.random.standard_normal(host.parameters).astype(np.float32) * np.float32(0.1)
        correction = self.correction(job, host.parameters)
        if correction is not None:
            # As if every gradient were the same: the device's variate then becomes it, whatever the correction was.
            delta -= np.float32(STEPS * job.spec.lr) * correction
            self._note_control(job)
        host.spool.note_delta(job.task, delta)
        return TrainResult(
            delta=delta, samples=SAMPLES, steps=STEPS, loss_mean=1.0, loss_sum=100.0, accuracy=None,
            step_time_s=0.1, wall_s=1.0, peak_rss_mb=1.0,
        )  # fmt: skip

    def _note_control(self, job: a.Train) -> None:
        spool = self.host.spool
        assert job.control is not None
        assert spool.model is not None
        patterns = versions.decode_full(spool.control(), self.host.parameters, job.control.dtype)
        self.host.books.corrected.append((spool.model.version, versions.version_sha256(patterns)))

    def probe(self, job: a.Probe) -> tuple[float, int]:
        if self.host.happens(self.host.habits.fail):
            raise WorkError("the loss became NaN")
        return self.host.rng.uniform(0.1, 3.0), SAMPLES

    def survey(self, job: a.Survey, on_step: OnStep) -> m.LocalFigures:
        if self.host.happens(self.host.habits.fail):
            raise WorkError("not enough memory")
        tested = m.Measured(samples=SAMPLES, loss=1.0, answers=SAMPLES, correct=SAMPLES // 2)
        return m.LocalFigures(version=self._version(), received=tested)

    def layout(self, *, bypass: bool) -> Layout:
        return Layout()


class SimulatedWorker:
    """Does a job when its virtual time has passed."""

    def __init__(self, host: AgentHost, jobs: Jobs, post: Callable[[e.Event | DiskBroken], None]) -> None:
        self._host, self._jobs, self._post = host, jobs, post
        self._running: Job | None = None
        self._life = host.life

    def start(self) -> None:
        return

    def submit(self, job: Job) -> None:
        assert self._running is None, f"{job} while {self._running} runs"
        self._running = job
        bounds = self._host.habits.train_s if isinstance(job, a.Train) else JOB_S
        self._host.clock.later(self._host.rng.uniform(*bounds), lambda: self._finish(job))

    def stop(self, task: str) -> None:
        job = self._running
        if isinstance(job, a.Train | a.Probe) and job.task == task:
            self._host.clock.later(0.1, lambda: self._stopped(job))

    def discard(self, task: str) -> None:
        self._jobs.discard(task)

    def close(self, wait_s: float) -> bool:
        return True

    def _stopped(self, job: Job) -> None:
        if self._running is job and self._life == self._host.life:
            self._running = None
            self._host.happened(e.WorkStopped(task=job.task))

    def _finish(self, job: Job) -> None:
        if self._running is not job or self._life != self._host.life:
            return
        self._running = None
        self._host.guarded(lambda: self._host.happened(self._jobs.do(job, lambda _done, _total: True)))


class SimulatedClient(Peer):
    """`edge_agent.mqtt.Client` on the simulated broker."""

    def __init__(self, host: AgentHost, will: Packet) -> None:
        self._host, self._will = host, will
        self._connection: Connection | None = None
        self._closed = False

    def start(self) -> None:
        self._connect()

    def _connect(self) -> None:
        if not self._closed:
            self._connection = self._host.broker.connect(self._host.name, self, self._will)

    def connected(self, session_present: bool) -> None:
        self._tell(mqtt.Up(session_present))

    def disconnected(self) -> None:
        self._connection = None
        self._tell(mqtt.Down("the connection broke"))
        self._host.clock.later(self._host.rng.uniform(*RECONNECT_S), self._connect)

    def arrived(self, packet: Packet) -> None:
        self._tell(mqtt.Message(packet.topic, packet.payload))

    def confirmed(self, mid: int) -> None:
        self._tell(mqtt.Confirmed(mid))

    def _tell(self, happening: mqtt.Happening) -> None:
        if not self._closed:
            self._host.happened(happening)

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> int | None:
        return None if self._connection is None else self._connection.publish(topic, payload, retain)

    def subscribe(self, topics: Sequence[str]) -> None:
        if self._connection is not None and topics:
            self._connection.subscribe(list(topics))

    def unsubscribe(self, topics: Sequence[str]) -> None:
        if self._connection is not None and topics:
            self._connection.unsubscribe(list(topics))

    def stop(self, farewell: tuple[str, bytes], wait_s: float) -> None:
        self.publish(farewell[0], farewell[1], retain=True)
        self.vanish(will=False)

    def vanish(self, *, will: bool = True) -> None:
        """The process is gone."""
        self._closed = True
        if self._connection is not None:
            self._host.broker.drop(self._connection, tell=False, will=will)


class SimulatedHistory:
    """Takes what the books want to know."""

    def __init__(self, books: AgentBooks) -> None:
        self._books = books

    def append(self, event: str, *, durable: bool = False, **fields: Any) -> None:
        if event == "acked":
            self._books.acked.append((fields["task"], fields["sha256"]))
        elif event == "settled":
            self._books.outcomes.append((fields["task"], fields["outcome"]))

    def sync(self) -> None:
        return


class AgentHost:
    """A device that can be killed, cut off the mains, given a new disk, and that always comes back."""

    core_type: type[AgentCore] = AgentCore
    spool_type: type[BookedSpool] = BookedSpool

    def __init__(
        self, name: str, run: str, parameters: int, clock: Clock, broker: Broker, rng: Random, habits: Habits
    ) -> None:
        self.name, self.run, self.parameters = name, run, parameters
        self.clock, self.broker, self.rng, self.habits = clock, broker, rng, habits
        self.random = np.random.default_rng(rng.getrandbits(32))
        self.disk = ForgetfulDisk()
        self.books = AgentBooks(parameters)
        self.life = 0
        self.finished = False
        self.calm = False
        self.service: AgentService | None = None
        self.largest_disk = 0
        self.up_since = 0.0
        self._before: BookedSpool | None = None
        self._due = float("inf")
        self.spool: BookedSpool
        self._client: SimulatedClient

    def happens(self, probability: float) -> bool:
        return not self.calm and probability > 0 and self.rng.random() < probability

    # --- life ------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        if self.service is not None or self.finished:
            return
        self.life += 1
        self._due = float("inf")
        self.guarded(self._start)

    def _start(self) -> None:
        self.spool = self.spool_type(self.disk, self.run)
        assert not self.spool.problems, self.spool.problems
        self.spool.keep_books(self.books)
        if self._before is not None:
            self.spool.reconcile(self._before)
        self._before = self.spool
        config = AgentConfig(
            run=self.run, agent=self.name, broker_host="b", broker_port=1, username=self.name, password_file="",
            shard="", state="", uplink_bit_s=8_000,
        )  # fmt: skip
        boot = f"{self.name}.{self.life}"
        self.core = self.core_type(boot=boot, samples=SAMPLES, restored=self.spool.restored(), limits=LIMITS)
        self.up_since = self.clock.now
        shard = Shard(np.zeros((1, 1)), np.zeros(1))
        jobs = SimulatedJobs(self.spool, shard, run=self.run, agent=self.name, threads=1, clock=self.clock)
        jobs.host = self
        self._client = SimulatedClient(self, Packet(*status_message(config, boot, online=False)))
        self.service = AgentService(
            config,
            self.core,
            self.spool,
            SimulatedHistory(self.books),
            make_client=lambda _post: self._client,
            make_worker=lambda post: SimulatedWorker(self, jobs, post),
            clock=self.clock,
        )
        self._client.start()
        self._sleep()

    def guarded(self, action: Callable[[], None]) -> None:
        """The power may go in the middle of anything that touches the disk."""
        try:
            action()
        except PowerCut:
            self._die(power=True)
        except DiskBroken:
            self._die(power=False)

    def happened(self, happening: Any) -> None:
        if self.service is not None:
            self.guarded(lambda: self._take(happening))

    def _take(self, happening: Any) -> None:
        service = self.service
        assert service is not None
        service.take(happening)
        self.core.validate()
        self.largest_disk = max(self.largest_disk, self.disk.bytes_held)
        if service.stop_reason:
            self._client.stop(status_message(service._config, self.core.state.boot, online=False), 0.0)
            self.finished, self.service = True, None
            return
        self._sleep()

    def _sleep(self) -> None:
        """One alarm at the next wake-up; an earlier one replaces it."""
        assert self.service is not None
        due = self.service.next_wakeup(self.clock.now)
        if due < self._due:
            self._due = due
            life = self.life
            self.clock.at(due, lambda: self._wake(life, due))

    def _wake(self, life: int, due: float) -> None:
        if self.life != life or self.service is None or self._due != due:
            return
        self._due = float("inf")
        self.happened(e.Tick())

    # --- faults ----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        if self.service is not None:
            self._die(power=self.rng.random() < self.habits.power_share)

    def _die(self, *, power: bool) -> None:
        self.service = None
        self.life += 1
        if hasattr(self, "_client"):
            self._client.vanish()
        self.disk = self.disk.after_power_cut(self.rng) if power else self.disk.after_kill()
        if self.happens(self.habits.disk_loss):
            self._lose_disk()
        self.clock.later(self.rng.uniform(*self.habits.heal_s), self.boot)

    def _lose_disk(self) -> None:
        last = self.spool_type(self.disk.after_kill(), self.run)
        last.keep_books(self.books)
        if self._before is not None:
            last.reconcile(self._before)
        self.books.disk_was_lost(last)
        self.disk, self._before = ForgetfulDisk(), None

    def cut_soon(self) -> None:
        if self.service is not None:
            self.disk.cut_at = self.disk.operations + self.rng.randrange(12)

    def fill_disk(self, for_s: float) -> None:
        disk = self.disk
        disk.full_at = disk.operations

        def free() -> None:
            disk.full_at = None

        self.clock.later(for_s, free)

    def calm_down(self) -> None:
        """The last fault is over."""
        self.calm = True
        self.disk.cut_at = self.disk.full_at = None
