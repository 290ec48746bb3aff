"""The real coordinator core, its policies and the real merge on a virtual clock, with devices that are only a model.

Where `simulation.world` is about what goes wrong between the parts, this is about learning: how long a fleet needs to
get somewhere under a schedule. A device is a distribution of times and a probability to drop out; its training is
whatever `train` returns (`benchmarks.stragglers` trains for real, and only what somebody waits for). Nothing is lost on
the way, and a task's whole time, transfers included, is one duration.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from msgspec import Struct

from coordinator import actions as a
from coordinator import events as e
from coordinator import merge
from coordinator.config import CoordinatorConfig
from coordinator.core import CoordinatorCore, fresh_state
from coordinator.merges import EMPTY, Item, MergeSpec
from simulation.clock import Clock
from wire import messages as m
from wire.codecs import make_chain, uplink_spec
from wire.codecs import model as versions
from wire.codecs.arrays import Float32

RAW = make_chain(uplink_spec(None, "none", "none"))
STEPS_MAX = 5_000_000  # of the clock: a run that needs more does not end


class Pace(Struct, frozen=True, kw_only=True):
    """How one device behaves. Seconds of virtual time.

    A task takes a lognormal time with this median and sigma. With `drop` it dies somewhere in the middle of it; the
    coordinator learns of it by the last will `will_s` later, and the device is back `away_s` after it died.
    """

    task_s: float
    sigma: float = 0.25
    drop: float = 0.0
    will_s: float = 15.0
    away_s: float = 100.0


Train = Callable[[str, Float32, int], tuple[Float32, int]]  # (agent, parameters, seed) -> (delta, samples)
Evaluate = Callable[[int, Float32], e.Evaluated]


@dataclass
class _Device:
    name: str
    pace: Pace
    boots: int = 1
    up: bool = True
    task: a.SendTask | None = None
    work: int = 0  # counts what it began; a timer of older work means nothing


class FleetRun:
    """One run. `curve`: (seconds, version, accuracy) of every version that was evaluated."""

    def __init__(
        self,
        config: CoordinatorConfig,
        fleet: dict[str, Pace],
        initial: Float32,
        train: Train,
        evaluate: Evaluate,
        seed: int,
    ) -> None:
        self.config, self.train, self.evaluate = config, train, evaluate
        self.clock, self.rng = Clock(), Random(seed)
        self.core = CoordinatorCore(config, fresh_state(config))
        self.devices = {name: _Device(name, pace) for name, pace in fleet.items()}
        self.master, self.merge_state = initial, EMPTY
        self.models: dict[int, Float32] = {0: self._as_version(initial)}
        self.payloads: dict[str, tuple[bytes, str]] = {}
        self.curve: list[tuple[float, int, float]] = []
        self.staleness: list[int] = []
        self.stopped: a.Stop | None = None
        self._inbox: deque[e.Event] = deque()
        self._due = float("inf")

    @staticmethod
    def _as_version(master: Float32) -> Float32:
        """What agents have: the master, rounded for the downlink."""
        return versions.from_patterns(versions.to_patterns(master, "fp16"))

    def run(self, until_s: float = float("inf")) -> a.Stop | None:
        """Until the run ends, or to a moment."""
        self._feed(e.Started())
        self._feed(e.Connected())
        for device in self.devices.values():
            self._hello(device)
        while self.stopped is None and self.clock.now < until_s and self.clock.steps < STEPS_MAX:
            if not self.clock.step():
                break
        return self.stopped

    def _feed(self, event: e.Event) -> None:
        self._inbox.append(event)
        if len(self._inbox) > 1:
            return  # whoever feeds already takes it
        while self._inbox:
            for action in self.core.handle(self._inbox[0], self.clock.now):
                self._execute(action)
            self._inbox.popleft()
        self._sleep()

    def _sleep(self) -> None:
        due = self.core.next_wakeup(self.clock.now)
        if due < self._due:
            self._due = due
            self.clock.at(due, lambda: self._wake(due))

    def _wake(self, due: float) -> None:
        if due == self._due and self.stopped is None:
            self._due = float("inf")
            self._feed(e.Tick())

    # --- the service's part ----------------------------------------------------------------------------------

    def _execute(self, action: a.Action) -> None:
        match action:
            case a.SendTask():
                self._begin(self.devices[action.agent], action)
            case a.SendGrant():
                self._upload(action)
            case a.Send(message=m.Cancel(task=task)):
                self._cancel(self.devices[action.agent], task)
            case a.JournalUpdate():
                done = e.UpdateJournalled(agent=action.agent, task=action.task, sha256=action.sha256)
                self._inbox.append(done)
            case a.CommitVersion():
                self._inbox.append(self._commit(action))
            case a.JournalClose():
                self.payloads.pop(action.task, None)
            case a.WithdrawVersion():
                self.models.pop(action.version, None)
            case a.Evaluate():
                self._evaluate(action.version)
            case a.Record(event="version_committed"):
                self.staleness += [update["staleness"] for update in action.fields["updates"]]
            case a.Stop():
                self.stopped = action

    def _commit(self, action: a.CommitVersion) -> e.VersionCommitted:
        spec = MergeSpec(server_lr=action.server_lr, version=action.version)
        items = (Item(self.payloads.pop(x.task)[0], x.samples, x.factor, 1, x.task) for x in action.updates)
        made = merge.apply(self.master, items, spec, self.merge_state)
        self.master, self.merge_state = made.master, made.state
        self.models[action.version] = self._as_version(made.master)
        for version in self.models.keys() - {action.version, *self.core.state.live}:
            del self.models[version]
        refused = tuple((action.updates[i].task, why) for i, why in made.refused.items())
        digest = hashlib.sha256(made.master.tobytes()).hexdigest()
        return e.VersionCommitted(version=action.version, sha256=digest, refused=refused)

    def _evaluate(self, version: int) -> None:
        result = self.evaluate(version, self.models[version])
        self.curve.append((self.clock.now, version, result.accuracy or 0.0))
        self._inbox.append(result)

    # --- devices ---------------------------------------------------------------------------------------------

    def _hello(self, device: _Device) -> None:
        self._say(device, m.Hello(boot=f"{device.name}.{device.boots}"))

    def _say(self, device: _Device, message: m.Up) -> None:
        self._feed(e.MessageArrived(agent=device.name, message=message))

    def _begin(self, device: _Device, task: a.SendTask) -> None:
        if not device.up or (device.task is not None and device.task.task == task.task):
            return
        device.task = task
        device.work += 1
        work, pace = device.work, device.pace
        duration_s = pace.task_s * self.rng.lognormvariate(0.0, pace.sigma)
        drops, when = self.rng.random() < pace.drop, self.rng.random()
        self._inbox.append(
            e.MessageArrived(
                agent=device.name, message=m.Progress(task=task.task, phase="training", done=0, total=1)
            )
        )
        if drops:
            self.clock.later(when * duration_s, lambda: self._drop(device, work))
        else:
            self.clock.later(duration_s, lambda: self._finish(device, work, duration_s))

    def _cancel(self, device: _Device, task: str) -> None:
        if device.task is not None and device.task.task == task:
            device.task = None
            device.work += 1

    def _drop(self, device: _Device, work: int) -> None:
        if device.work != work:
            return
        device.up, device.task = False, None
        will = m.Status(online=False, boot=f"{device.name}.{device.boots}")
        self.clock.later(device.pace.will_s, lambda: self._say(device, will))
        self.clock.later(max(device.pace.away_s, device.pace.will_s) + 1.0, lambda: self._back(device))

    def _back(self, device: _Device) -> None:
        device.up = True
        device.boots += 1
        self._hello(device)

    def _finish(self, device: _Device, work: int, took_s: float) -> None:
        if device.work != work or device.task is None:
            return
        task, device.task = device.task, None
        delta, samples = self.train(device.name, self.models[task.version], task.seed)
        payload = RAW.encode(delta, seed=0)
        digest = hashlib.sha256(payload).hexdigest()
        self.payloads[task.task] = (payload, digest)
        report = m.Report(
            samples=samples, steps=1, loss=0.0, train_s=took_s, step_s=0.0, fetch_s=0.0, fetch_bytes=0,
            peak_rss_bytes=0, residual_norm=0.0, raw_bytes=4 * delta.size,
        )  # fmt: skip
        self._say(device, m.Offer(task=task.task, sha256=digest, bytes=len(payload), report=report))

    def _upload(self, grant: a.SendGrant) -> None:
        payload, digest = self.payloads[grant.task]
        self._inbox.append(
            e.UpdateReceived(
                agent=grant.agent, task=grant.task, sha256=digest, bytes=len(payload), payload_bytes=len(payload),
                chunks=1, defect=merge.defect_of(payload, self.master.size),
            )
        )  # fmt: skip
