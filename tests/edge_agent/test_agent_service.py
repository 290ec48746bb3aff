"""The agent as a process against a real broker and a coordinator that does what the test says."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.broker import Broker
from support.rig_root import read_history
from support.scripted_coordinator import ScriptedCoordinator, drifted

from learning.autodiff import build_training_graph, initial_parameters
from learning.datasets import load
from learning.models import build_model
from wire import messages as m
from wire import topics
from wire.codecs import decode

RUN, NAME = "run-1", "pi-0"
EXIT_S = 20.0
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mlp() -> tuple[bytes, Any]:
    model = build_model("mlp", 1)
    artifact = build_training_graph(model, batch_size=16)
    return artifact.to_bytes(), initial_parameters(model, artifact)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path, [topics.COORDINATOR, NAME]) as running:
        yield running


class Device:
    """An agent's folder and process."""

    def __init__(self, folder: Path, broker: Broker, **changes: Any) -> None:
        self.folder = folder / "device"
        self.folder.mkdir(exist_ok=True)
        data = load("mnist-mini")
        np.save(self.folder / "x.npy", data.train_x[:320])
        np.save(self.folder / "y.npy", data.train_y[:320])
        (self.folder / "password").write_text(broker.passwords[NAME])
        config = {
            "run": RUN, "agent": NAME, "broker_host": "127.0.0.1", "broker_port": broker.port, "username": NAME,
            "password_file": "password", "mqtt_version": 4, "shard": ".", "state": "state", "uplink_bit_s": 4_000_000,
            **changes,
        }  # fmt: skip
        (self.folder / "agent.yaml").write_text(yaml.safe_dump(config))
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.folder / "log"

    def start(self) -> Device:
        command = [sys.executable, "-m", "edge_agent", "--config", str(self.folder / "agent.yaml")]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env={**os.environ, "MALLOC_ARENA_MAX": "2"})
        return self

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(EXIT_S)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [
            event for event in read_history(self.folder / "state" / "history.jsonl") if event["event"] == name
        ]

    def await_event(self, name: str, count: int = 1, wait_s: float = 30.0) -> list[dict[str, Any]]:
        deadline = time.monotonic() + wait_s
        while len(found := self.events(name)) < count:
            assert time.monotonic() < deadline, f"no {name}; the log:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)
        return found


@contextlib.contextmanager
def rig(
    folder: Path, broker: Broker, mlp: tuple[bytes, Any], **changes: Any
) -> Iterator[tuple[ScriptedCoordinator, Device]]:
    coordinator = ScriptedCoordinator(broker.port, broker.passwords[topics.COORDINATOR], RUN, NAME, mlp[0])
    device = Device(folder, broker, **changes)
    try:
        coordinator.publish_version(0, mlp[1])
        yield coordinator, device
    finally:
        device.kill()
        coordinator.close()


def test_a_task_from_hello_to_outcome_and_the_next_by_delta(
    tmp_path: Path, broker: Broker, mlp: tuple[bytes, Any]
) -> None:
    with rig(tmp_path, broker, mlp) as (coordinator, device):
        device.start()
        status = coordinator.expect(m.Status)
        assert status.online
        hello = coordinator.expect(m.Hello)
        assert (hello.boot, hello.samples, hello.version) == (status.boot, 320, None)
        coordinator.send(coordinator.task("r1-t1"))
        offer = coordinator.expect(m.Offer)
        assert offer.report.samples == 320
        assert offer.report.steps == 20
        coordinator.grant(offer)
        payload = coordinator.await_update("r1-t1")
        assert hashlib.sha256(payload).hexdigest() == offer.sha256
        assert len(payload) * 100 < offer.report.raw_bytes
        assert np.isfinite(decode(payload, n=mlp[1].size).values).all()
        coordinator.send(m.Ack(task="r1-t1", sha256=offer.sha256))
        device.await_event("acked")
        coordinator.send(m.Outcome(task="r1-t1", sha256=offer.sha256, outcome="merged", version=1))
        coordinator.publish_version(1, drifted(mlp[1], 0.01))
        coordinator.send(coordinator.task("r2-t2", round=2))
        second = coordinator.expect(m.Offer)
        assert second.task == "r2-t2"
        fetched = [event["object"] for event in device.await_event("model_fetched", 3)]
        assert fetched[1:] == ["v0", "v0-v1"]
        coordinator.send(m.Cancel(task="r2-t2", reason="enough"))
        settled = device.await_event("settled", 2)
        assert [event["outcome"] for event in settled] == ["merged", "cancelled"]
        assert settled[1]["residual_norm"] > settled[0]["residual_norm"]
        coordinator.send(m.Finish(reason="done"))
        assert device.wait() == 0
        assert not coordinator.expect(m.Status).online
        stopped = device.events("agent_stopped")
        assert stopped[0]["reason"] == "done"
        phases = {p.phase for p in coordinator.progress}
        assert {"fetching", "training", "encoding", "waiting", "uploading"} <= phases


def test_an_update_that_its_task_had_room_for_comes_whole_in_its_offer(
    tmp_path: Path, broker: Broker, mlp: tuple[bytes, Any]
) -> None:
    with rig(tmp_path, broker, mlp) as (coordinator, device):
        device.start()
        coordinator.expect(m.Hello)
        coordinator.send(coordinator.task("r1-t1", inline_bytes=m.INLINE_BYTES_MAX))
        offer = coordinator.expect(m.Offer)
        assert (len(offer.update), hashlib.sha256(offer.update).hexdigest()) == (offer.bytes, offer.sha256)
        assert np.isfinite(decode(offer.update, n=mlp[1].size).values).all()
        coordinator.send(m.Ack(task="r1-t1", sha256=offer.sha256))
        device.await_event("acked")
        (sent,) = device.events("sent")
        assert (sent["payload_bytes"], sent["chunks"]) == (offer.bytes, 0)


def test_a_broker_that_forgets_in_mid_upload(tmp_path: Path, broker: Broker, mlp: tuple[bytes, Any]) -> None:
    with rig(tmp_path, broker, mlp) as (coordinator, device):
        device.start()
        coordinator.expect(m.Hello)
        coordinator.send(coordinator.task("r1-t1"))
        offer = coordinator.expect(m.Offer)
        coordinator.drop_after = 2
        coordinator.grant(offer, chunk_bytes=300)
        while len(coordinator.chunk_indexes) < 2:
            time.sleep(0.01)
        broker.kill()
        device.await_event("disconnected")
        broker.start()
        hello = coordinator.expect(m.Hello)
        assert [item.task for item in hello.spool] == ["r1-t1"]
        assert coordinator.expect(m.Offer) == offer
        coordinator.drop_after = None
        coordinator.chunk_indexes.clear()
        missing = coordinator.missing(offer)
        assert missing is not None
        assert 0 not in missing
        coordinator.grant(offer, missing, chunk_bytes=300)
        payload = coordinator.await_update("r1-t1")
        assert hashlib.sha256(payload).hexdigest() == offer.sha256


def test_a_kill_loses_nothing_that_was_spooled(
    tmp_path: Path, broker: Broker, mlp: tuple[bytes, Any]
) -> None:
    with rig(tmp_path, broker, mlp) as (coordinator, device):
        device.start()
        coordinator.expect(m.Hello)
        coordinator.send(coordinator.task("r1-t1"))
        offer = coordinator.expect(m.Offer)
        device.kill()
        assert not coordinator.expect(m.Status).online, "its will"
        device.start()
        hello = coordinator.expect(m.Hello)
        assert [(item.task, item.sha256) for item in hello.spool] == [("r1-t1", offer.sha256)]
        assert hello.version == 0
        again = coordinator.expect(m.Offer)
        coordinator.grant(again)
        payload = coordinator.await_update("r1-t1")
        assert hashlib.sha256(payload).hexdigest() == offer.sha256
        coordinator.send(m.Ack(task="r1-t1", sha256=offer.sha256))
        assert coordinator.expect(m.Ask).tasks == ("r1-t1",)
        assert device.process is not None
        device.process.send_signal(signal.SIGTERM)
        assert device.wait() == 0
        assert not coordinator.expect(m.Status).online


def test_malformed_bytes_on_every_topic_hurt_nobody(
    tmp_path: Path, broker: Broker, mlp: tuple[bytes, Any]
) -> None:
    with rig(tmp_path, broker, mlp) as (coordinator, device):
        device.start()
        coordinator.expect(m.Hello)
        kinds = ["task", "grant", "ack", "outcome", "cancel", "resync", "finish", "nonsense"]
        good = m.encode(m.Cancel(task="nobody"))
        for kind in kinds:
            for payload in (
                b"",
                b"\xff" * 40,
                good[:-1],
                b"\x81\xa4type\xa4what",
                good if kind != "cancel" else b"{}",
            ):
                coordinator.raw(topics.down(RUN, NAME, kind), payload)
        huge = coordinator.task("huge")
        model = m.ModelRef(
            version=9, sha256="0" * 64, parameters=1 << 30, dtype="fp16", full=huge.model.full, deltas=()
        )
        coordinator.send(
            m.Task(
                task="huge",
                round=1,
                model=model,
                graph=huge.graph,
                train=huge.train,
                uplink=huge.uplink,
                seed=1,
                deadline_s=1.0,
            )
        )
        assert "parameters" in coordinator.expect(m.Failed).reason
        coordinator.send(
            coordinator.task("nan", train=m.TrainSpec(local_epochs=1, batch_size=16, lr=float("nan")))
        )
        assert coordinator.expect(m.Failed).task == "nan"
        coordinator.send(coordinator.task("batch", train=m.TrainSpec(local_epochs=1, batch_size=17, lr=0.1)))
        assert "17" in coordinator.expect(m.Failed).reason
        coordinator.send(coordinator.task("r1-t1"))
        assert coordinator.expect(m.Offer).task == "r1-t1"
        reasons = {event["reason"] for event in device.events("message_refused")}
        assert {"malformed", "wrong_topic"} <= reasons
        assert device.process is not None
        assert device.process.poll() is None


def test_a_refused_password_ends_with_a_clear_message(
    tmp_path: Path, broker: Broker, mlp: tuple[bytes, Any]
) -> None:
    device = Device(tmp_path, broker)
    (device.folder / "password").write_text("wrong")
    device.start()
    assert device.process is not None
    assert device.process.wait(60) == 3
    log = device.log.read_text()
    assert "refuses user 'pi-0'" in log
    assert "wrong" not in log


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"broker_port": "x"}, "broker_port"),
        ({"shard": "nowhere"}, "nowhere"),
        ({"password_file": "none"}, "password file"),
        ({"surprise": 1}, "surprise"),
        ({"ca_file": "ca.crt"}, "ca.crt"),
    ],
)
def test_a_broken_configuration_says_what_is_wrong(
    tmp_path: Path, broker: Broker, changes: dict[str, Any], words: str
) -> None:
    device = Device(tmp_path, broker, **changes).start()
    assert device.wait() == 2
    assert words in device.log.read_text()


def test_the_gate_holds_until_this_boots_token(
    tmp_path: Path, broker: Broker, mlp: tuple[bytes, Any]
) -> None:
    from edge_agent.gate import boot_token

    with rig(tmp_path, broker, mlp, gate="gate", gate_wait_s=30) as (coordinator, device):
        gate = device.folder / "gate"
        gate.mkdir()
        (gate / NAME).write_text("4026531840-1")  # of another boot
        device.start()
        with pytest.raises(queue.Empty):  # else it connected through a gate that another boot opened
            coordinator.inbox.get(timeout=2.0)
        (gate / NAME).write_text(boot_token())
        coordinator.expect(m.Hello)
        assert device.await_event("gate_passed")[0]["token"] == boot_token()
