"""Generated files against a real engine and a real Mosquitto: limits are read back, and the broker is held
against clients with valid credentials that want more than theirs.
"""

from __future__ import annotations

import os
import queue
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from compose_plans import REPOSITORY, SMOKE, plan_of

from compose import engine
from compose.broker_config import MESSAGE_BYTES_MAX
from compose.docker_runtime import project, remove_run
from compose.generate import compose_file
from compose.prepare import prepare
from emulation.token import boot_token
from topology.plan import Plan
from wire import topics

pytestmark = [pytest.mark.containers, pytest.mark.slow]
WAIT_S = 30.0
QUIET_S = 1.0  # nothing arrives in this time: messages on loopback take milliseconds


@contextmanager
def project_of(folder: Path, mode: str) -> Iterator[tuple[Any, Plan, Path]]:
    """A run's compose project, removed by label whatever happens."""
    client = engine.client()
    run = f"test-{secrets.token_hex(3)}"
    try:
        plan = plan_of(
            run=run, subnet=engine.free_subnet(client, 3), uid=None if os.geteuid() == 0 else os.geteuid()
        )
        file = folder / "compose.yaml"
        if mode == "bind":
            prepare(plan, folder)
            file.write_text(compose_file(plan, mode="bind", root=folder, repo=REPOSITORY))
        else:
            text = compose_file(plan, mode="volumes", repo=REPOSITORY, topology=SMOKE, output=folder / "out")
            file.write_text(text)
        engine.compose(project(run), file, ["create", "--build"])
        yield client, plan, file
    finally:
        remove_run(client, run)


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Plan, Path]]:
    with project_of(tmp_path_factory.mktemp("bind"), "bind") as made:
        yield made


def container(client: Any, plan: Plan, node: str) -> Any:
    return client.containers.get(f"edgerig-{plan.run}-{node}")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {WAIT_S:g} s"
        time.sleep(0.1)


# --- limits, read back --------------------------------------------------------------------------------------


def test_limits_are_what_the_engine_says(bound: tuple[Any, Plan, Path]) -> None:
    """Some releases of compose ignored `cpus`: only what `docker inspect` shows is a limit."""
    client, plan, _ = bound
    for device in plan.devices:
        host = container(client, plan, device.name).attrs["HostConfig"]
        assert host["NanoCpus"] == round(device.cpus * 1e9)
        assert host["Memory"] == host["MemorySwap"] == device.memory_bytes
        assert host["PidsLimit"] == 64
        assert host["ReadonlyRootfs"] is True
        assert host["Init"] is True
        assert host["CapDrop"] == ["ALL"]
        assert not host["Privileged"]
        assert host["RestartPolicy"]["Name"] in ("", "no")


def test_agents_are_on_the_data_network_alone_with_their_address(bound: tuple[Any, Plan, Path]) -> None:
    client, plan, _ = bound
    for device in plan.devices:
        networks = container(client, plan, device.name).attrs["NetworkSettings"]["Networks"]
        (found,) = networks.values()
        assert found["IPAMConfig"]["IPv4Address"] == device.address


def test_everything_is_labelled(bound: tuple[Any, Plan, Path]) -> None:
    client, plan, _ = bound
    label = {"label": f"{engine.LABEL_RUN}={plan.run}"}
    assert len(client.containers.list(all=True, filters=label)) == len(plan.devices) + 3
    assert len(client.networks.list(filters=label)) == 2


# --- the broker ---------------------------------------------------------------------------------------------


class Client:
    """A paho client that keeps what it receives."""

    def __init__(
        self, plan: Plan, root: Path, user: str, *, client_id: str = "", password: str | None = ""
    ) -> None:
        self.received: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._answers: queue.Queue[int] = queue.Queue()
        self.refused = self.disconnected = False
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=client_id or user, protocol=mqtt.MQTTv5
        )
        if password is not None:
            own = (root / "private" / user / "password").read_text()
            self._client.username_pw_set(user, password or own)
        self._client.tls_set(str(root / "private" / "broker" / "ca.crt"))
        self._client.on_message = lambda _c, _u, m: self.received.put((m.topic, m.payload))
        self._client.on_subscribe = lambda _c, _u, mid, _codes, _p: self._answers.put(mid)
        self._client.on_connect = lambda _c, _u, _f, code, _p: setattr(self, "refused", code.is_failure)
        self._client.on_disconnect = lambda *_: setattr(self, "disconnected", True)
        self._client.connect(plan.network.broker_address, plan.network.broker_port)
        self._client.loop_start()

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected())

    def subscribe(self, *filters: str) -> None:
        for name in filters:
            self._client.subscribe(name, qos=1)
        for _ in filters:  # the broker has answered each, whatever it allows
            self._answers.get(timeout=WAIT_S)

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain)

    def drain(self) -> list[tuple[str, bytes]]:
        """What came, after a moment of quiet."""
        found = []
        while True:
            try:
                found.append(self.received.get(timeout=QUIET_S))
            except queue.Empty:
                return found

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


Connect = Callable[..., Client]


@pytest.fixture(scope="module")
def broker(bound: tuple[Any, Plan, Path]) -> tuple[Plan, Path]:
    """The broker, started and past its gate."""
    client, plan, file = bound
    engine.compose(project(plan.run), file, ["up", "-d", "--no-build", "broker"])
    found = container(client, plan, "broker")
    (file.parent / "gate" / "broker").write_text(boot_token(found.attrs["State"]["Pid"]))

    def healthy() -> bool:
        found.reload()
        return bool(found.attrs["State"].get("Health", {}).get("Status") == "healthy")

    wait_until(healthy, "a healthy broker")
    return plan, file.parent


@pytest.fixture
def connect(broker: tuple[Plan, Path]) -> Iterator[Connect]:
    clients: list[Client] = []

    def make(user: str, **options: Any) -> Client:
        clients.append(Client(*broker, user, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def online(connect: Connect, user: str, **options: Any) -> Client:
    client = connect(user, **options)
    wait_until(lambda: client.connected, f"the connection of {user}")
    return client


@pytest.mark.parametrize("password", [None, "wrong"])
def test_no_entrance_without_the_password(connect: Connect, password: str | None) -> None:
    client = connect("pi4-1", password=password)
    wait_until(lambda: client.refused, "a refusal")
    assert not client.connected


def test_own_topics_work_in_both_directions(connect: Connect, broker: tuple[Plan, Path]) -> None:
    run = broker[0].run
    coordinator, agent = online(connect, "coordinator"), online(connect, "pi4-1")
    coordinator.subscribe(topics.up(run, "+", "#"))
    agent.subscribe(f"rig/{run}/down/pi4-1/#", topics.model(run, "v0", 0))
    agent.publish(topics.up(run, "pi4-1", "hello"), b"hello")
    coordinator.publish(topics.down(run, "pi4-1", "task"), b"task")
    coordinator.publish(topics.model(run, "v0", 0), b"model", retain=True)
    assert (topics.up(run, "pi4-1", "hello"), b"hello") in coordinator.drain()
    assert {payload for _, payload in agent.drain()} == {b"task", b"model"}


def test_valid_credentials_open_nothing_of_others(connect: Connect, broker: tuple[Plan, Path]) -> None:
    run = broker[0].run
    coordinator, victim, intruder = (online(connect, user) for user in ("coordinator", "pi4-1", "pi4-2"))
    coordinator.subscribe(f"rig/{run}/#")
    victim.subscribe(f"rig/{run}/down/pi4-1/#", topics.model(run, "v1", 0))
    intruder.subscribe("#", f"rig/{run}/down/pi4-1/#", f"rig/{run}/down/#", f"rig/{run}/up/#", "$SYS/#")
    coordinator.drain(), victim.drain(), intruder.drain()  # retained ones of other tests
    for topic in (
        topics.up(run, "pi4-1", "hello"),
        topics.chunk(run, "pi4-1", "t1", 0),
        topics.down(run, "pi4-1", "task"),
        topics.model(run, "v1", 0),
        topics.status(run, "pi4-1"),
        topics.status(run, "coordinator"),
        "rig/other/up/pi4-2/hello",
    ):
        intruder.publish(topic, b"forged")
    victim.publish(topics.up(run, "pi4-1", "hello"), b"private")
    coordinator.publish(topics.down(run, "pi4-1", "task"), b"private")
    assert intruder.drain() == []
    assert victim.drain() == [(topics.down(run, "pi4-1", "task"), b"private")]
    assert b"forged" not in {payload for _, payload in coordinator.drain()}


def test_anothers_client_id_does_not_take_the_session(connect: Connect, broker: tuple[Plan, Path]) -> None:
    run = broker[0].run
    coordinator, victim = online(connect, "coordinator"), online(connect, "pi4-1")
    victim.subscribe(f"rig/{run}/down/pi4-1/#")
    online(connect, "pi4-2", client_id="pi4-1")
    online(connect, "pi5-1", client_id="coordinator")
    coordinator.publish(topics.down(run, "pi4-1", "task"), b"still mine")
    assert victim.drain() == [(topics.down(run, "pi4-1", "task"), b"still mine")]
    assert not victim.disconnected
    assert not coordinator.disconnected


def test_too_large_a_message_is_not_delivered_and_the_broker_goes_on(
    connect: Connect, broker: tuple[Plan, Path]
) -> None:
    run = broker[0].run
    coordinator, agent = online(connect, "coordinator"), online(connect, "pi4-1")
    coordinator.subscribe(topics.up(run, "+", "#"))
    agent.publish(topics.up(run, "pi4-1", "hello"), bytes(MESSAGE_BYTES_MAX + 1))
    assert coordinator.drain() == []
    other = online(connect, "pi4-2")
    other.publish(topics.up(run, "pi4-2", "hello"), bytes(MESSAGE_BYTES_MAX))
    assert [len(payload) for _, payload in coordinator.drain()] == [MESSAGE_BYTES_MAX]


def test_no_password_is_in_the_log_or_in_what_the_engine_shows(
    connect: Connect, broker: tuple[Plan, Path], bound: tuple[Any, Plan, Path]
) -> None:
    plan, root = broker
    connect("pi4-1", password="wrong-password")
    found = container(bound[0], plan, "broker")
    wait_until(lambda: b"not authori" in found.logs().lower(), "a refusal in the log")
    shown = str(found.attrs) + found.logs().decode()
    for password in root.glob("private/*/password"):
        assert password.read_text() not in shown
    assert "wrong-password" not in shown


# --- volumes ------------------------------------------------------------------------------------------------


def test_init_fills_the_volumes_and_uids_keep_agents_apart(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with project_of(tmp_path, "volumes") as (client, plan, file):
        engine.compose(project(plan.run), file, ["up", "--no-build", "--exit-code-from", "init", "init"])
        init = container(client, plan, "init")
        assert init.attrs["State"]["ExitCode"] == 0, init.logs().decode()

        def shell(node: str, command: str) -> subprocess.CompletedProcess[str]:
            service = ["run", "--rm", "--no-deps", "--name", f"{plan.run}-probe", "--entrypoint", "sh", node]
            whole = ["docker", "compose", "-p", project(plan.run), "-f", str(file), *service, "-c", command]
            return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)

        own = shell(
            "pi4-1",
            "cd /run/edgerig && cat private/pi4-1/password && wc -c < shards/pi4-1/x.npy && touch nodes/pi4-1/x",
        )
        assert own.returncode == 0, own.stderr
        for path in (
            "private/pi4-2/password",
            "private/broker/server.key",
            "shards/pi4-2/x.npy",
            "shards/test/x.npy",
        ):
            assert "Permission denied" in shell("pi4-1", f"cat /run/edgerig/{path}").stderr
        written = shell(
            "pi4-1", "touch /run/edgerig/nodes/pi4-2/x /run/edgerig/gate/pi4-1 /run/edgerig/plan.json /x"
        )
        assert written.returncode != 0
        assert written.stderr.count("touch: cannot touch") == 4
