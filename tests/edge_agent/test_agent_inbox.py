"""The loop's inbox: what may wait there, and what must not."""

from __future__ import annotations

import threading

from edge_agent import events as e
from edge_agent import inbox, mqtt
from edge_agent.inbox import Inbox


def full() -> Inbox:
    box = Inbox()
    for _ in range(inbox.QUEUE_MAX):
        box.hint(mqtt.Message("t", b""))
    return box


def test_a_confirmation_neither_waits_for_room_nor_is_lost() -> None:
    """paho holds a lock meanwhile that the loop needs to publish."""
    box = full()
    thread = threading.Thread(
        target=lambda: [box.hint(mqtt.Confirmed(mid)) for mid in range(96)], daemon=True
    )
    thread.start()
    thread.join(inbox.POST_WAIT_S / 2)
    assert not thread.is_alive()
    taken = [happening for _ in range(inbox.QUEUE_MAX) for happening in box.take(0.0)]
    assert {h.mid for h in taken[:96] if isinstance(h, mqtt.Confirmed)} == set(range(96)), "before what waits"
    assert len(taken) == inbox.QUEUE_MAX + 96
    assert box.take(0.0) == []


def test_a_confirmation_wakes_a_loop_that_sleeps() -> None:
    box = Inbox()
    thread = threading.Thread(target=box.hint, args=(mqtt.Confirmed(7),))
    thread.start()
    try:
        assert box.take(30.0) == [mqtt.Confirmed(7)]
    finally:
        thread.join()


def test_confirmations_have_a_bound_above_all_that_paho_may_hold() -> None:
    box = Inbox()
    for mid in range(10 * inbox.CONFIRMED_MAX):
        box.hint(mqtt.Confirmed(mid))
    assert len(box.take(0.0)) == inbox.CONFIRMED_MAX > mqtt.INFLIGHT_MAX + mqtt.QUEUED_MAX


def test_a_workers_progress_is_a_hint_and_never_waits() -> None:
    box = full()
    box.post(e.WorkProgressed(task="t", done=1, total=2))
    assert all(isinstance(h, mqtt.Message) for _ in range(inbox.QUEUE_MAX) for h in box.take(0.0))
