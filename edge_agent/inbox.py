"""What the loop waits on: one bounded queue that paho's thread and the worker put into, confirmations beside it.

A full queue holds back paho's thread, hence TCP, hence the broker. A confirmation must not wait there: paho tells of
it while it holds the lock that `publish` in the loop needs, so both would stand still, and an upload that misses one
stands until its next grant.
"""

from __future__ import annotations

import contextlib
import logging
import queue
from collections import deque

from edge_agent import events as e
from edge_agent import mqtt
from edge_agent.ledger import DiskBroken

log = logging.getLogger("edge_agent")

QUEUE_MAX = 512  # control messages, or one window of chunks
# Seconds without room, then the event is dropped: the core repeats itself, but a worker's result must get through.
POST_WAIT_S = 5.0
# paho confirms each publish once, and the loop takes all confirmations with every turn: so there are no more of them
# than paho may hold unconfirmed (96), and the few of QoS 0 that one turn sends. Beyond this bound the oldest would go.
CONFIRMED_MAX = 4 * (mqtt.INFLIGHT_MAX + mqtt.QUEUED_MAX)


class Stopping:
    """Told by SIGTERM. Not an event of the core: a device that is switched off decides nothing any more."""


class Noticed:
    """Wakes the loop for what lies beside the queue."""


Happening = mqtt.Happening | e.Event | Stopping | Noticed | DiskBroken


class Inbox:
    """Any thread puts in; one loop takes."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Happening] = queue.Queue(QUEUE_MAX)
        self._confirmed: deque[mqtt.Confirmed] = deque(maxlen=CONFIRMED_MAX)

    def hint(self, happening: mqtt.Happening) -> None:
        """From paho's thread. A confirmation never waits; anything else a little, then it goes, for it is repeated."""
        if isinstance(happening, mqtt.Confirmed):
            self._confirmed.append(happening)
            if len(self._confirmed) == 1:  # else whoever put the first one has woken the loop
                self.wake(Noticed())
            return
        try:
            self._queue.put(happening, timeout=POST_WAIT_S)
        except queue.Full:
            log.warning("dropped a %s: the main loop does not keep up", type(happening).__name__)

    def post(self, event: e.Event | DiskBroken) -> None:
        """From the worker: an answer must arrive."""
        if isinstance(event, e.WorkProgressed):
            self.wake(event)  # a hint; the next one comes in a second
            return
        self._queue.put(event)

    def wake(self, happening: Happening) -> None:
        """Never waits: a full queue means that the loop is not asleep."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(happening)

    def take(self, wait_s: float) -> list[Happening]:
        """What has happened; empty if nothing did for `wait_s`. Confirmations first: they make room on the link."""
        try:
            happening: Happening = self._queue.get(timeout=wait_s)
        except queue.Empty:
            happening = Noticed()
        found: list[Happening] = [self._confirmed.popleft() for _ in range(len(self._confirmed))]
        return found if isinstance(happening, Noticed) else [*found, happening]
