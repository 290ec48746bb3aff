"""Valid credentials open one's own topics and nothing else; rubbish costs its sender, never the run."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from whole_run import LONG, container, edgerig, events, until

from wire import messages

pytestmark = [pytest.mark.containers, pytest.mark.slow]

ATTACKER, VICTIM = "pi-3", "pi-1"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run in its second round; the container of ATTACKER is stopped, so that its credentials are ours to use."""
    folder = tmp_path_factory.mktemp("access")
    file = folder / "long.yaml"
    file.write_text(LONG)
    done = edgerig("up", file, "--runs", folder / "runs", "--no-build")
    assert done.returncode == 0, done.stderr
    root = (folder / "runs" / "latest").resolve()
    try:
        until(lambda: rounds(root) >= 2, timeout_s=180, what="round 2")
        subprocess.run(
            ["docker", "stop", "-t", "1", container(root.name, ATTACKER)], check=True, capture_output=True
        )
        yield root
    finally:
        edgerig("down", "--runs", folder / "runs")


def rounds(root: Path) -> int:
    return max((event["round"] for event in events(root, "round_opened")), default=0)


def password(root: Path, name: str) -> str:
    return (root / "private" / name / "password").read_text().strip()


def broker(root: Path) -> str:
    plan = json.loads((root / "plan.json").read_text())
    address: str = plan["network"]["broker_address"]
    return address


class Guest:
    """A plain MQTT client that remembers what it was told."""

    def __init__(
        self, root: Path, *, client_id: str, user: str | None, secret: str | None, tls: bool = True
    ) -> None:
        self.received: list[str] = []
        self.answer: Any = None
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        if user is not None:
            self.client.username_pw_set(user, secret)
        if tls:
            self.client.tls_set(str(root / "private" / VICTIM / "ca.crt"), cert_reqs=ssl.CERT_REQUIRED)
        self.client.on_connect = self._on_connect
        self.client.on_message = self._on_message
        self.client.connect(broker(root), 8883, keepalive=30)
        self.client.loop_start()

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.answer = reason

    def _on_message(self, client: Any, data: Any, message: mqtt.MQTTMessage) -> None:
        self.received.append(message.topic)

    def send(self, topic: str, payload: bytes) -> None:
        self.client.publish(topic, payload, qos=1)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def guest(running: Path) -> Iterator[Guest]:
    """ATTACKER's own password, under VICTIM's client id."""
    client = Guest(running, client_id=VICTIM, user=ATTACKER, secret=password(running, ATTACKER))
    until(lambda: client.answer is not None, timeout_s=10, what="CONNACK")
    yield client
    client.close()


@pytest.mark.parametrize(("user", "secret"), [(None, None), (ATTACKER, "wrong"), ("nobody", "x")])
def test_without_a_valid_password_nobody_connects(
    running: Path, user: str | None, secret: str | None
) -> None:
    client = Guest(running, client_id="guest", user=user, secret=secret)
    try:
        answer = until(lambda: client.answer, timeout_s=10, what="CONNACK")
        assert answer.is_failure
    finally:
        client.close()


def test_without_tls_nobody_connects(running: Path) -> None:
    client = Guest(running, client_id="guest", user=ATTACKER, secret=password(running, ATTACKER), tls=False)
    try:
        time.sleep(2)  # the outside world: give the broker time to answer, which it must not
        assert client.answer is None
    finally:
        client.close()


def test_anothers_client_id_does_not_take_its_session(running: Path, guest: Guest) -> None:
    before = len([e for e in events(running, "disconnected") if e["node"] == VICTIM])
    reached = rounds(running) + 1
    assert not guest.answer.is_failure
    until(lambda: rounds(running) >= reached, timeout_s=90, what="one more round")
    after = len([e for e in events(running, "disconnected") if e["node"] == VICTIM])
    assert after == before


def test_nothing_of_the_others_can_be_read(running: Path, guest: Guest) -> None:
    base = f"rig/{running.name}"
    for topic in ("#", f"{base}/#", f"{base}/down/#", f"{base}/down/{VICTIM}/#", f"{base}/up/#", "$SYS/#"):
        guest.client.subscribe(topic, qos=1)
    reached = rounds(running) + 1
    until(lambda: rounds(running) >= reached, timeout_s=90, what="one more round")
    own = (
        f"rig/{running.name}/down/{ATTACKER}/",
        f"rig/{running.name}/model/",
        f"rig/{running.name}/status/coordinator",
    )
    assert [topic for topic in guest.received if not topic.startswith(own)] == []


def test_nothing_can_be_written_for_another(running: Path, guest: Guest) -> None:
    finish = messages.encode(messages.Finish(reason="forged"))
    failed = messages.encode(messages.Failed(task="forged", reason="forged"))
    offline = messages.encode(messages.Status(online=False, boot="forged"))
    for topic, payload in (
        (f"rig/{running.name}/down/{VICTIM}/finish", finish),
        (f"rig/{running.name}/up/{VICTIM}/failed", failed),
        (f"rig/{running.name}/status/{VICTIM}", offline),
        (f"rig/{running.name}/model/v1/0", b"forged"),
    ):
        guest.send(topic, payload)
    reached = rounds(running) + 2
    until(lambda: rounds(running) >= reached, timeout_s=120, what="two more rounds")
    assert not any("forged" in json.dumps(event) for event in events(running))


def test_rubbish_is_counted_and_the_run_goes_on(running: Path, guest: Guest) -> None:
    kinds = (
        "hello",
        "offer",
        "progress",
        "failed",
        "ask",
        "nonsense",
        "update/t1/0",
        "update/t1/99999",
        "update/t1/x",
        "a/b/c/d",
    )
    for payload in (
        b"",
        b"\x00",
        b"\xff" * 100,
        os.urandom(3000),
        b"\x81\xa4type\xa5hello",
        b"\x80" * 70_000,
    ):
        for kind in kinds:
            guest.send(f"rig/{running.name}/up/{ATTACKER}/{kind}", payload)
        guest.send(f"rig/{running.name}/status/{ATTACKER}", payload)
    refused = until(
        lambda: [e for e in events(running, "message_refused") if e.get("agent") == ATTACKER],
        timeout_s=60,
        what="refusals",
    )
    assert {event["reason"] for event in refused} >= {"malformed"}
    reached = rounds(running) + 2
    until(lambda: rounds(running) >= reached, timeout_s=120, what="two more rounds")


def test_no_secret_in_environment_labels_or_record(running: Path) -> None:
    secrets = [path.read_text().strip() for path in running.glob("private/*/password")]
    assert len(secrets) >= 4
    ids = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label=io.edgerig.run={running.name}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    inspected = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=True).stdout
    logged = edgerig("logs", "--runs", running.parent).stdout
    record = "".join(p.read_text(errors="replace") for p in running.glob("nodes/*/history.jsonl"))
    record += (running / "compose.yaml").read_text() + (running / "plan.json").read_text()
    for secret in secrets:
        assert secret not in inspected + logged + record


def test_secrets_belong_to_their_container_alone(running: Path) -> None:
    plan = json.loads((running / "plan.json").read_text())
    uids = {device["name"]: device["uid"] for device in plan["devices"]} | {"broker": plan["broker_uid"]}
    for name, uid in uids.items():
        for path in (running / "private" / name).iterdir():
            assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (uid, 0o400), path
