"""The two ends of `benchmarks.transport`, each a process in its own network namespace.

    agent FOLDER        one device: the real agent that trains to a random vector
    coordinator FOLDER  the real link, inbound and live objects of a coordinator

The agent sends heartbeats of its own beside what it says anyway: numbered `Progress` messages at QoS 0 through the same
client, so that their delay can be told. Both write what they saw as lines of JSON on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from coordinator import events as ce
from coordinator.config import LinkBudget
from coordinator.inbound import Complete, Inbound
from coordinator.inbox import Delivery, Inbox
from coordinator.live import LiveModels
from coordinator.mqtt import BrokerAddress, BrokerLink
from edge_agent import actions as a
from edge_agent import mqtt
from edge_agent.config import load_config, read_password
from edge_agent.core import AgentCore
from edge_agent.diary import Diary
from edge_agent.disk import FolderDisk
from edge_agent.jobs import Jobs, OnStep
from edge_agent.layout import Layout
from edge_agent.service import AgentService, status_message
from edge_agent.spool import Spool
from edge_agent.traffic import Meter
from edge_agent.work import WorkerThread
from history.writer import HistoryWriter
from learning.shard import Shard
from learning.trainer import TrainResult
from topology.plan import AgentConfig
from wire import messages as m
from wire import topics
from wire.codecs import CodecSpec
from wire.codecs.model import to_patterns

RUN = "bench"
TASK = "r1-t1"
# 6.6 MB as float32, which is how they are sent here. Fewer only in the test that both ends still fit together.
PARAMETERS = int(os.environ.get("EDGERIG_BENCH_PARAMETERS", "1650000"))
HEARTBEAT_S = 0.5
HEARTBEAT_PHASE = "waiting"  # what a real agent never says while it uploads: tells these from its own
RESEND_S = 10.0  # as coordinator.config: without a chunk for so long, ask for what is missing
DISCONNECT_AT = (0.25, 0.5, 0.75)  # of the update's bytes
MODEL_CHUNK_BYTES = 16_384


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


# --- the device ----------------------------------------------------------------------------------------------------


class Guesses(Jobs):
    """The real ones, but for the training."""

    def train(self, job: a.Train, on_step: OnStep) -> TrainResult:
        delta = np.random.default_rng(7).standard_normal(PARAMETERS).astype(np.float32)
        return TrainResult(
            delta=delta, samples=1, steps=1, loss_mean=1.0, loss_sum=1.0, accuracy=None, step_time_s=0.1,
            wall_s=0.1, peak_rss_mb=1.0,
        )  # fmt: skip

    def layout(self, *, bypass: bool) -> Layout:
        return Layout()


class Heart:
    """Beats while there is an upload."""

    def __init__(self, config: AgentConfig, client: mqtt.Client) -> None:
        self._topic = topics.up(config.run, config.agent, "progress")
        self._client = client
        self.sent: list[float] = []
        self.beating = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        due = time.monotonic()
        while True:
            self.beating.wait()
            due = max(due + HEARTBEAT_S, time.monotonic())
            message = m.Progress(task=TASK, phase=HEARTBEAT_PHASE, done=len(self.sent), total=0)
            self.sent.append(time.monotonic())
            if self._client.publish(self._topic, m.encode(message), qos=0) is None:
                self.sent[-1] = float("nan")  # without a connection it was never under way
            time.sleep(max(0.0, due - time.monotonic()))


class Watched(AgentService):
    """Notes the upload's begin and end."""

    heart: Heart

    def _start_upload(self, action: a.Action) -> None:
        self.heart.beating.set()
        super()._start_upload(action)

    def _mark_acked(self, action: a.Action) -> None:
        self.heart.beating.clear()
        super()._mark_acked(action)


def agent(folder: Path) -> None:
    config = load_config(folder / "agent.yaml")
    state = Path(config.state)
    writer = HistoryWriter(state / "history.jsonl", config.agent)
    spool = Spool(FolderDisk(state / "spool"), config.run)
    jobs = Guesses(spool, Shard(np.zeros((1, 1)), np.zeros(1)), run=config.run, agent=config.agent, threads=1)
    meter = Meter()
    client: list[mqtt.Client] = []

    def make_client(post: Callable[[mqtt.Happening], None]) -> mqtt.Client:
        will = status_message(config, writer.boot, online=False)
        client.append(mqtt.Client(config, read_password(config), will, post, meter))
        return client[0]

    service = Watched(
        config,
        AgentCore(boot=writer.boot, samples=1, restored=spool.restored()),
        spool,
        Diary(writer),
        make_client=make_client,
        make_worker=lambda post: WorkerThread(jobs, post),
        alive_file=folder / "alive",
        meter=meter,
    )
    service.heart = Heart(config, client[0])
    service.run()
    traffic = msgspec.structs.asdict(meter.now())
    say(agent=config.agent, beats=service.heart.sent, traffic=traffic)


# --- the coordinator -----------------------------------------------------------------------------------------------


class Lane:
    """One device's update, as the coordinator sees it."""

    def __init__(self) -> None:
        self.began = self.heard = 0.0
        self.offer: m.Offer | None = None
        self.bytes = 0
        self.cuts = list(DISCONNECT_AT)
        self.arrived: float | None = None
        self.beats: dict[int, float] = {}


class Coordinator:
    """Grants, resumes and acks one update per device. Everything else of a coordinator has no part in transport."""

    def __init__(self, folder: Path, port: int, budgets: dict[str, LinkBudget]) -> None:
        self._budgets, self._inbox = budgets, Inbox()
        self.lanes = {name: Lane() for name in budgets}
        address = BrokerAddress(
            host="127.0.0.1",
            port=port,
            username=topics.COORDINATOR,
            password=(folder / "password").read_text(),
            ca_file=folder / "ca.crt",
        )
        self._link = BrokerLink(address, RUN, "bench-1", self._inbox)
        self._live = LiveModels(b"a graph that nobody runs", "fp16", MODEL_CHUNK_BYTES)
        self._live.advance(0, to_patterns(np.zeros(PARAMETERS, np.float32)))
        self._refusals = 0
        self._door = Inbound(
            RUN, bytes_max=len(budgets) * 8 << 20, objects_max=2 * len(budgets), refuse=self._refuse,
            defect_of=lambda _payload: "",
        )  # fmt: skip

    def _refuse(self, agent: str, topic: str, reason: str, size: int) -> None:
        self._refusals += 1
        say(refused=reason, agent=agent, topic=topic)

    def run(self, wait_s: float) -> None:
        self._link.start(lambda: False)
        deadline = time.monotonic() + wait_s
        while any(lane.arrived is None for lane in self.lanes.values()) and time.monotonic() < deadline:
            for item in self._inbox.take(0.5, 512):
                self._take(item)
            for name, lane in self.lanes.items():
                if lane.offer and lane.arrived is None and time.monotonic() - lane.heard > RESEND_S:
                    self._grant(name)
        for name in self.lanes:
            self._send(name, m.Finish(reason="measured"))
        self._link.stop(5.0)

    def _take(self, item: ce.Event | Delivery) -> None:
        now = time.monotonic()
        if isinstance(item, ce.Connected):
            for kept in self._live.everything():
                for index, chunk in enumerate(kept.chunks):
                    self._link.publish(topics.model(RUN, kept.ref.name, index), chunk, retain=True)
        if not isinstance(item, Delivery) or item.topic.startswith("$SYS"):
            return
        taken = self._door.take(item, now)
        if isinstance(taken, Complete):
            self._complete(taken.event, now)
        elif isinstance(taken, ce.MessageArrived):
            self._message(taken.agent, taken.message, now)
        self._count(item, now)

    def _count(self, item: Delivery, now: float) -> None:
        upward = topics.parse_upward(RUN, item.topic)
        if upward is None or upward.kind != "update":
            return
        lane = self.lanes[upward.agent]
        lane.bytes, lane.heard = lane.bytes + len(item.payload), now
        size = lane.offer.bytes if lane.offer else 0
        if lane.cuts and lane.arrived is None and lane.bytes >= lane.cuts[0] * size:
            del lane.cuts[0]
            say(disconnect=upward.agent)

    def _message(self, name: str, message: m.Up, now: float) -> None:
        lane = self.lanes[name]
        match message:
            case m.Hello(task=task, spool=spool):
                if not (task or spool or lane.arrived):
                    self._send(name, self._task())
                elif spool and lane.offer and lane.arrived is None:
                    self._grant(name)
            case m.Offer() if lane.offer is None:
                lane.offer, lane.began = message, now
                self._grant(name)
            case m.Progress(phase=phase, done=done) if phase == HEARTBEAT_PHASE and message.total == 0:
                lane.beats.setdefault(done, now)

    def _task(self) -> m.Task:
        return m.Task(
            task=TASK,
            round=1,
            model=self._live.ref,
            graph=self._live.graph.ref,
            train=m.TrainSpec(local_epochs=1, batch_size=1, lr=0.1),
            uplink=m.UplinkSpec(chain=CodecSpec(entropy="none")),  # dense float32
            seed=7,
            deadline_s=600.0,
        )

    def _grant(self, name: str) -> None:
        lane, budget = self.lanes[name], self._budgets[name]
        assert lane.offer is not None
        lane.heard = time.monotonic()
        missing = self._door.grant(name, TASK, lane.offer.sha256, lane.offer.bytes)
        grant = m.Grant(
            task=TASK, sha256=lane.offer.sha256, missing=missing, chunk_bytes=budget.chunk_bytes,
            window_bytes=budget.window_bytes,
        )  # fmt: skip
        self._send(name, grant)

    def _complete(self, event: ce.UpdateReceived, now: float) -> None:
        lane = self.lanes[event.agent]
        lane.arrived = now
        say(
            arrived=event.agent, wall_s=now - lane.began, bytes=event.bytes, chunk_bytes=event.payload_bytes,
            duplicates=self._door.duplicates,
        )  # fmt: skip
        self._send(event.agent, m.Ack(task=TASK, sha256=event.sha256))
        self._send(event.agent, m.Outcome(task=TASK, sha256=event.sha256, outcome="merged", version=1))

    def _send(self, name: str, message: m.Down) -> None:
        self._link.publish(topics.down(RUN, name, type(message).__name__.lower()), m.encode(message))


def coordinator(folder: Path) -> None:
    given = json.loads((folder / "coordinator.json").read_text())
    budgets = {name: LinkBudget(*budget) for name, budget in given["budgets"].items()}
    served = Coordinator(folder, given["port"], budgets)
    served.run(given["wait_s"])
    for name, lane in served.lanes.items():
        say(lane=name, beats=lane.beats)


def main() -> None:
    {"agent": agent, "coordinator": coordinator}[sys.argv[1]](Path(sys.argv[2]))
