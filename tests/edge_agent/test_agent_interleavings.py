"""Random interleavings: whatever the network and the worker do, no invariant breaks and no message raises."""

from __future__ import annotations

from random import Random

import pytest
from agent_builders import SHA, Driver, model, ref, report, task

from edge_agent import actions as a
from edge_agent import events as e
from wire import messages as m

STEPS = 300
TASKS = [f"t{i}" for i in range(12)]


class World:
    """Answers what the core asks for, in any order and at any time, and sends it any message at any moment."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.driver = Driver(online=False)
        self.jobs: list[a.Action] = []  # fetch, train or encode in the worker: at most one
        self.stopping = False
        self.instant: list[e.Event] = []
        self.durable: dict[str, str] = {}  # task -> sha256, what the spool holds
        self.settled: list[str] = []
        self.committed: list[str] = []

    def feed(self, event: e.Event) -> None:
        for action in self.driver.feed(event, self.rng.choice([0.0, 0.01, 1.0, 20.0])):
            self.execute(action)
        while self.instant:
            self.feed(self.instant.pop(0))

    def execute(self, action: a.Action) -> None:
        if isinstance(action, a.Fetch | a.Train | a.Encode):
            assert not self.jobs, f"{action} while {self.jobs} runs"
            self.jobs.append(action)
            self.stopping = False
        elif isinstance(action, a.StopWork):
            assert self.jobs, "stopped what does not run"
            self.stopping = True
        elif isinstance(action, a.Commit):
            if self.rng.random() < 0.1:
                self.instant.append(e.SpoolFailed(task=action.task, reason="full"))
            else:
                assert action.task not in self.durable
                self.durable[action.task] = action.sha256
                self.committed.append(action.task)
                self.instant.append(e.Spooled(task=action.task, sha256=action.sha256))
        elif isinstance(action, a.Settle):
            encoding = any(isinstance(job, a.Encode) for job in self.jobs)
            assert not (action.give_back and encoding), "the residual changes under the worker"
            if self.rng.random() < 0.2:
                self.instant.append(e.SettleFailed(task=action.task, reason="full"))
            else:
                del self.durable[action.task]
                self.settled.append(action.task)
                self.instant.append(e.Settled(task=action.task, residual_norm=1.0))
        elif isinstance(action, a.MarkAcked | a.StartUpload):
            assert action.task in self.durable

    def finish_job(self) -> e.Event:
        job = self.jobs.pop()
        if self.stopping and not isinstance(job, a.Encode) and self.rng.random() < 0.8:
            return e.WorkStopped(task=job.task)  # type: ignore[attr-defined]
        if isinstance(job, a.Fetch):
            if self.rng.random() < 0.2:
                return e.ObjectFailed(task=job.task, name=job.object.name, reason="no")
            sha = job.object.sha256
            if job.model is not None and job.leads_to == job.model.version:
                sha = job.model.sha256
            return e.ObjectReady(
                task=job.task, name=job.object.name, bytes=5, wall_s=0.1, version=job.leads_to, sha256=sha
            )
        assert isinstance(job, a.Train | a.Encode)
        if self.rng.random() < 0.15:
            return e.WorkFailed(task=job.task, reason="diverged")
        if isinstance(job, a.Train):
            return e.Trained(
                task=job.task, samples=5, steps=1, loss=1.0, train_s=1.0, step_s=1.0, peak_rss_bytes=1
            )
        sha = SHA[self.rng.choice("bc")]
        return e.Encoded(task=job.task, sha256=sha, bytes=1_000, report=report())

    def subject(self) -> tuple[str, str]:
        """A task and a content, more often than not ones that the agent has."""
        items = list(self.driver.core.state.items.values())
        if items and self.rng.random() < 0.6:
            item = self.rng.choice(items)
            return item.task, item.sha256
        return self.rng.choice(TASKS), SHA[self.rng.choice("bc")]

    def message(self) -> m.Down:
        rng = self.rng
        name, sha = self.subject()
        match rng.choice(["task"] * 6 + ["grant"] * 4 + ["ack"] * 3 + ["outcome"] * 3 + ["cancel", "resync"]):
            case "task":
                version = rng.randrange(4)
                deltas = [ref(f"v{v}-v{v + 1}", 10, v) for v in range(version)]
                return task(name, rng.randrange(6), model=model(version, deltas, sha=rng.choice("ad")))
            case "grant":
                missing = None if rng.random() < 0.5 else tuple(rng.sample(range(8), 3))
                return m.Grant(task=name, sha256=sha, chunk_bytes=256, window_bytes=512, missing=missing)
            case "ack":
                return m.Ack(task=name, sha256=sha)
            case "outcome":
                kind = rng.choice(m.OUTCOMES)
                return m.Outcome(task=name, sha256=rng.choice([sha, sha, None]), outcome=kind)  # type: ignore[arg-type]
            case "cancel":
                return m.Cancel(task=name, reason="x")
            case _:
                return m.Resync(epoch=2)

    def step(self) -> None:
        rng = self.rng
        if self.jobs and rng.random() < 0.4:
            self.feed(self.finish_job())
        elif rng.random() < 0.1:
            self.feed(rng.choice([e.Connected(), e.Disconnected(reason="x")]))
        elif rng.random() < 0.2:
            name, sha = self.subject()
            upload = e.UploadDone(task=name, sha256=sha, payload_bytes=1, chunks=1, resent=0)
            hints = [e.Tick(), upload, e.UploadProgressed(task=name, sha256=sha, done=1, total=2)]
            self.feed(rng.choice([*hints, e.WorkProgressed(task=name, done=1, total=2)]))
        else:
            self.feed(e.MessageArrived(message=self.message()))


@pytest.mark.parametrize("seed", range(40))
def test_any_interleaving_keeps_the_invariants(seed: int) -> None:
    world = World(seed)
    for _ in range(STEPS):
        world.step()
    state = world.driver.core.state
    assert set(world.durable) == set(state.items), "core and disk disagree about what is unsettled"
    assert len(world.committed) == len(world.settled) + len(world.durable), (
        "an update was settled twice or lost"
    )


def test_every_phase_is_reached_by_some_interleaving() -> None:
    seen, made = set(), 0
    for seed in range(40):
        world = World(seed)
        for _ in range(150):
            world.step()
            seen |= {item.phase for item in world.driver.core.state.items.values()}
            if world.driver.core.state.hand is not None:
                seen.add(world.driver.core.state.hand.phase)
        made += len(world.committed)
    assert made > 40, "hardly an update was ever made: the interleavings test nothing"
    names = {phase.value for phase in seen}
    assert names >= {"fetching", "training", "encoding", "stopping", "offered", "uploading", "sent", "acked"}
