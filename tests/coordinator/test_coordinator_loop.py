"""The service's loop in this process, with a link that only notes what it would send."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.mqtt_agent import REPORT
from support.rig_root import PARAMETERS, make_plan, make_root, read_history

from coordinator import events as e
from coordinator import setup
from coordinator.chronicle import Chronicle
from coordinator.errors import EnvironmentFault
from coordinator.inbox import Delivery, Inbox
from coordinator.journal import JournalFull
from coordinator.service import Service
from history.writer import HistoryWriter
from wire import chunks, topics
from wire import messages as m
from wire.codecs import make_chain, uplink_spec

PASSWORDS = {"coordinator": "x"}
PAYLOAD = make_chain(uplink_spec(0.5, "int8")).encode(np.full(PARAMETERS, 0.01, np.float32), seed=1)


class NotingLink:
    """Stands in for mqtt.BrokerLink."""

    def __init__(self, inbox: Inbox) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.inbox = inbox

    def start(self, stopping: object) -> None:
        self.inbox.put(e.Connected())

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        self.sent.append((topic, payload))
        return True

    def say_online(self) -> None:
        pass

    def stop(self, flush_s: float) -> None:
        pass

    def messages(self, kind: str) -> list[Any]:
        return [m.decode_down(payload) for topic, payload in self.sent if topic.endswith(f"/{kind}")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path, make_plan(2, policy={"quorum": 1.0}), PASSWORDS)


@pytest.fixture
def rig(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Service, NotingLink]]:
    links: list[NotingLink] = []

    def make_link(_address: object, _run: str, _boot: str, inbox: Inbox) -> NotingLink:
        links.append(NotingLink(inbox))
        return links[-1]

    monkeypatch.setattr(setup, "BrokerLink", make_link)
    made: list[Service] = []

    def live() -> None:
        # Made where it runs: the journal belongs to one thread.
        made.append(setup.make_service(setup.Options(root=root, alive=None)).service)
        made[0].run(resumed=False)

    thread = threading.Thread(target=live)
    thread.start()
    wait_for(lambda: made)
    service = made[0]
    yield service, links[0]
    service.request_stop()
    thread.join(20)
    assert not thread.is_alive()


def wait_for(condition: Any) -> None:
    """The loop runs in a thread of its own: look until it has got there."""
    done = threading.Event()
    for _ in range(2_000):
        if condition():
            return
        done.wait(0.01)
    pytest.fail("never")


def say(link: NotingLink, agent: str, message: m.Up) -> None:
    topic = topics.up("run-1", agent, type(message).__name__.lower())
    link.inbox.put(Delivery(topic, m.encode(message), False))


def offer_and_send(link: NotingLink, agent: str, task: str) -> None:
    sha256 = hashlib.sha256(PAYLOAD).hexdigest()
    say(link, agent, m.Offer(task=task, sha256=sha256, bytes=len(PAYLOAD), report=REPORT))
    wait_for(lambda: any(grant.task == task for grant in link.messages("grant")))
    link.inbox.put(Delivery(topics.chunk("run-1", agent, task, 0), chunks.split(PAYLOAD, 60_000)[0], False))


def test_while_the_disk_is_full_nothing_is_acked_and_afterwards_everything(
    rig: tuple[Service, NotingLink], root: Path
) -> None:
    service, link = rig
    wait_for(lambda: link.messages("resync"))  # a hello counts on this connection only
    for agent in ("d-0", "d-1"):
        say(link, agent, m.Hello(boot="b"))
    wait_for(lambda: len(link.messages("task")) == 2)
    tasks = {
        topic.split("/")[3]: m.decode_down(payload) for topic, payload in link.sent if topic.endswith("/task")
    }
    full = service._journal
    real, refuse = full.transaction, threading.Event()
    refuse.set()

    class Refusing:
        """What SQLite does on a full disk, as `Journal.transaction` passes it on."""

        tries = 0

        def __enter__(self) -> None:
            Refusing.tries += 1
            raise JournalFull("database or disk is full")

        def __exit__(self, *_: object) -> None:
            return None

    full.transaction = lambda: Refusing() if refuse.is_set() else real()  # type: ignore[method-assign,assignment,return-value]
    offer_and_send(link, "d-0", tasks["d-0"].task)  # type: ignore[union-attr]
    history = root / "nodes" / "coordinator" / "history.jsonl"
    wait_for(lambda: Refusing.tries >= 2)
    assert link.messages("ack") == []
    refuse.clear()
    wait_for(lambda: link.messages("ack"))
    lapses = lambda: [x for x in read_history(history) if x["event"] == "lapse"]  # noqa: E731
    wait_for(lambda: len(lapses()) == 2)
    assert [x["what"] for x in lapses()] == ["journal", "journal"]
    assert lapses()[0]["effective"] == "paused"
    assert lapses()[1]["effective"].startswith("resumed after")


def test_a_full_disk_delays_the_history_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = HistoryWriter(tmp_path / "h.jsonl", "coordinator")
    chronicle, append = Chronicle(writer), writer.append

    def refuse(event: str, **fields: Any) -> None:
        raise OSError(28, "No space left on device")

    writer.append = refuse  # type: ignore[method-assign,assignment]
    for number in range(5):
        chronicle.append("evaluated", {"version": number})
    chronicle.sync()
    writer.append = append  # type: ignore[method-assign]
    chronicle.append("evaluated", {"version": 5})
    chronicle.sync()
    assert [x["version"] for x in read_history(tmp_path / "h.jsonl")] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("plan.json", None, "plan.json cannot be read"),
        ("plan.json", b"{}", "plan or artifact is broken"),
        ("model/artifact.bin", b"\xc1", "plan or artifact is broken"),
        ("model/initial.npy", b"junk", "initial.npy cannot be read"),
        ("shards/test/x.npy", None, "x.npy"),
        ("private/coordinator/password", None, "password cannot be read"),
        ("nodes/coordinator/journal.sqlite", b"junk" * 1_000, "damaged"),
    ],
)
def test_a_folder_that_is_broken_is_named(root: Path, path: str, content: bytes | None, said: str) -> None:
    (root / path).unlink(missing_ok=True)
    if content is not None:
        (root / path).write_bytes(content)
    with pytest.raises(EnvironmentFault) as caught:
        setup.make_service(setup.Options(root=root, alive=None))
    assert said in caught.value.text()


def test_an_initial_model_of_another_size_or_with_a_nan_is_named(root: Path) -> None:
    for vector in (np.zeros(PARAMETERS + 1, np.float32), np.full(PARAMETERS, np.nan, np.float32)):
        np.save(root / "model" / "initial.npy", vector)
        with pytest.raises(EnvironmentFault, match="finite float32 parameters"):
            setup.make_service(setup.Options(root=root, alive=None))
