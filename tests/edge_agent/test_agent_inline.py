"""An update that goes out within its offer: once, on the connection that its room was told on, and never too large."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from agent_builders import SHA, Driver, grant, names, only, sent, task

from edge_agent import actions as a
from edge_agent import events as e
from wire import messages as m

BYTES = 1_000  # what the driver's encoder makes


def made(d: Driver, name: str = "t1", sha: str = "b") -> list[a.Action]:
    """A task that it has becomes an update on its disk; what the last step, which may offer it, decides."""
    d.fetched(name)
    d.trained(name)
    d.encoded(name, sha)
    return d.spooled(name, sha)


def spooled(d: Driver, inline_bytes: int = BYTES) -> list[a.Action]:
    d.message(task(inline_bytes=inline_bytes))
    return made(d)


def with_room(d: Driver, when: str, over: Callable[[], object]) -> str:
    """It has a task with room, or one `waiting` behind a task that is being stopped, when `over` comes; its name."""
    d.message(task(inline_bytes=BYTES))
    if when != "waiting":
        over()
        return "t1"
    d.message(task("t2", 2, inline_bytes=BYTES))
    over()
    d.feed(e.WorkStopped(task="t1"))
    return "t2"


def test_it_goes_with_its_offer_and_the_ack_ends_it() -> None:
    d = Driver()
    (action,) = only(spooled(d), a.SendWhole)
    assert (action.offer.task, action.offer.sha256, action.offer.bytes) == ("t1", SHA["b"], BYTES)
    assert not sent(d.log, m.Offer)
    assert names(d.acked()) == ["MARKACKED t1"]


@pytest.mark.parametrize("room", [0, BYTES - 1])
def test_without_room_enough_it_asks(room: int) -> None:
    d = Driver()
    assert not only(spooled(d, room), a.SendWhole)
    assert len(sent(d.log, m.Offer)) == 1


def test_it_goes_only_once_and_then_asks() -> None:
    d = Driver()
    spooled(d)
    again = d.feed(e.Tick(), 60.0)
    assert not only(again, a.SendWhole)
    assert len(sent(again, m.Offer)) == 1
    assert "STARTUPLOAD t1" in names(d.message(grant())), "and a grant brings its chunks"


@pytest.mark.parametrize("when", ["training", "spooling", "waiting"])
def test_room_ends_with_its_connection(when: str) -> None:
    d = Driver()

    def reconnect() -> None:
        d.feed(e.Disconnected(reason="gone"))
        d.feed(e.Connected(), 1.0)

    if when == "spooling":
        d.message(task(inline_bytes=BYTES))
        d.fetched()
        d.trained()
        d.encoded()
        reconnect()
        d.spooled()
    else:
        made(d, with_room(d, when, reconnect))
    assert not only(d.log, a.SendWhole)
    assert sent(d.log, m.Offer)


def test_a_task_that_is_sent_again_has_the_room_it_says_now() -> None:
    d = Driver()
    d.message(task())
    d.message(task(inline_bytes=BYTES))
    assert only(made(d), a.SendWhole)


def test_beside_an_upload_it_asks() -> None:
    """Its chunks fill the link as far as it may be filled."""
    d = Driver()
    d.offered()
    d.message(grant())
    d.message(task("t2", 2, inline_bytes=BYTES))
    assert not only(made(d, "t2", "c"), a.SendWhole)
    assert [x.task for x in sent(d.log, m.Offer)] == ["t1", "t2"]


@pytest.mark.parametrize("when", ["training", "waiting"])
def test_room_ends_with_a_hello_on_the_same_connection(when: str) -> None:
    """A coordinator that comes back asks for one; it knows nothing of what its earlier life kept."""
    d = Driver()
    name = with_room(d, when, lambda: d.message(m.Resync(epoch=2)))
    assert not only(made(d, name), a.SendWhole)
    assert len(sent(d.log, m.Offer)) == 1
