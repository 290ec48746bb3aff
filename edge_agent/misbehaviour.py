"""An agent that does wrong on purpose: duplicates, lateness, corruption, poison, a full disk, a wrong clock.

For emulated devices alone. `assembly` imports this only where `agent.yaml` names a `hook`, which `compose.prepare` does
only for devices that a fault of the plan tells to do wrong. The hook is a file in the device's own state folder, mode
0600; nothing that comes over the network reaches it. Each order says its `kind` (topology.plan.faults.BEHAVIOURS).
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from edge_agent import mqtt
from edge_agent.diary import Diary
from edge_agent.disk import Bytes, FolderDisk
from edge_agent.service import Client
from wire.codecs import decode, make_chain, uplink_spec
from wire.codecs.chain import Chain

HOOK_BYTES_MAX = 65_536
HELD_MAX = 1_024  # messages that wait to be late: two windows of chunks and what else an agent says
EVENT = "misbehaviour"


class Order(Struct, frozen=True, kw_only=True):
    kind: str
    delay_s: float = 0.0
    share: float = 0.0
    how: str = ""
    factor: float = 1.0
    offset_s: float = 0.0


_decoder = msgspec.json.Decoder(dict[str, Order])


class Hook:
    """What is in force now. Asked for every message and write: one `stat` each, on a file of the page cache."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = (0, -1)
        self._orders: dict[str, Order] = {}
        self.done: Counter[str] = Counter()  # what was done wrong so far, by kind

    def orders(self) -> dict[str, Order]:
        """By fault. A file that is not ours alone, or half written, changes nothing."""
        try:
            found = self._path.stat()
        except OSError:
            return self._orders
        mark = (found.st_mtime_ns, found.st_size)
        if mark != self._seen and found.st_mode & 0o077 == 0 and found.st_size <= HOOK_BYTES_MAX:
            try:
                self._orders = _decoder.decode(self._path.read_bytes())
                self._seen = mark
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                pass  # it is being written; the next look is soon
        return self._orders

    def order(self, kind: str) -> Order | None:
        return next((order for order in self.orders().values() if order.kind == kind), None)

    def wall(self) -> float:
        """The device's clock."""
        order = self.order("clock_offset")
        return time.time() + (order.offset_s if order is not None else 0.0)


class HookedDiary(Diary):
    """Says what is in force whenever that has changed; an agent syncs its diary at least once a second."""

    hook: Hook | None = None
    _told: tuple[str, ...] = ()

    def sync(self) -> None:
        active = tuple(sorted(self.hook.orders())) if self.hook is not None else ()
        if active != self._told:
            self._told = active
            self.append(EVENT, active=list(active), done=dict(self.hook.done) if self.hook else {})
        super().sync()


class HookedDisk(FolderDisk):
    """Full while `disk_full` is in force; what is on it can be read and removed, as on a real one."""

    def __init__(self, folder: Path, hook: Hook) -> None:
        super().__init__(folder)
        self._hook = hook

    def write(self, name: str, parts: Iterable[Bytes]) -> None:
        if self._hook.order("disk_full") is not None:
            self._hook.done["disk_full"] += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / name))
        super().write(name, parts)


class HookedClient:
    """Around the MQTT client: what it is given to send goes out twice, late, or with a bit turned over.

    A late message gets a number of its own at once, since whoever sends waits for its confirmation; the real number
    that comes later is turned back into it.
    """

    def __init__(
        self,
        hook: Hook,
        make_client: Callable[[Callable[[mqtt.Happening], None]], Client],
        post: Callable[[mqtt.Happening], None],
    ) -> None:
        self._hook, self._post = hook, post
        self._client = make_client(self._confirmed)
        self._lock = threading.Condition()
        self._held: list[tuple[float, int, tuple[str, bytes, int, bool]]] = []
        self._numbers = itertools.count(-1, -1)  # paho's are positive
        self._late: dict[int, int] = {}  # real number -> the one that was given out
        self._ended = False
        self._thread = threading.Thread(target=self._serve, name="late", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._client.start()

    def stop(self, farewell: tuple[str, bytes], wait_s: float) -> None:
        with self._lock:
            self._ended = True
            self._lock.notify()
        self._client.stop(farewell, wait_s)

    def subscribe(self, topics: Sequence[str]) -> None:
        self._client.subscribe(topics)

    def unsubscribe(self, topics: Sequence[str]) -> None:
        self._client.unsubscribe(topics)

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> int | None:
        payload = self._corrupted(topic, payload)
        late = self._hook.order("late_delivery")
        if late is not None and ("/update/" in topic or topic.endswith("/offer")):
            return self._hold(late.delay_s, (topic, payload, qos, retain))
        return self._send(topic, payload, qos, retain)

    def _send(self, topic: str, payload: bytes, qos: int, retain: bool) -> int | None:
        mid = self._client.publish(topic, payload, qos, retain)
        if self._hook.order("duplicate_delivery") is not None and qos > 0:
            self._hook.done["duplicate_delivery"] += 1
            self._client.publish(topic, payload, qos, retain)
        return mid

    def _corrupted(self, topic: str, payload: bytes) -> bytes:
        """One bit of a chunk's last byte, in the share asked for; which ones depends on their content alone."""
        order = self._hook.order("corrupt_payload")
        if order is None or "/update/" not in topic or not payload:
            return payload
        # Salted by the minute: a chunk that is sent again must not be spoilt for ever.
        salt = str(int(time.monotonic() / 2)).encode()
        draw = int.from_bytes(hashlib.sha256(salt + payload).digest()[:4], "big") / 2**32
        if draw >= order.share:
            return payload
        self._hook.done["corrupt_payload"] += 1
        return payload[:-1] + bytes([payload[-1] ^ 1])

    # --- late messages --------------------------------------------------------------------------------------

    def _hold(self, delay_s: float, message: tuple[str, bytes, int, bool]) -> int | None:
        with self._lock:
            if len(self._held) >= HELD_MAX:
                return None  # as a full queue of the client's: it is asked for again
            number = next(self._numbers)
            self._hook.done["late_delivery"] += 1
            heapq.heappush(self._held, (time.monotonic() + delay_s, -number, message))
            self._lock.notify()
            return number

    def _serve(self) -> None:
        while True:
            with self._lock:
                while not self._ended and (not self._held or self._held[0][0] > time.monotonic()):
                    self._lock.wait(max(0.01, self._held[0][0] - time.monotonic()) if self._held else None)
                if self._ended:
                    return
                _, number, message = heapq.heappop(self._held)
                # Under the lock: the confirmation may come before this line has ended.
                mid = self._send(*message)
                if mid is not None:
                    self._late[mid] = -number

    def _confirmed(self, happening: mqtt.Happening) -> None:
        """From paho's thread."""
        if isinstance(happening, mqtt.Confirmed) and self._late:
            with self._lock:
                happening = mqtt.Confirmed(self._late.pop(happening.mid, happening.mid))
        elif isinstance(happening, mqtt.Down):
            with self._lock:
                self._late.clear()
        self._post(happening)


# --- poison -------------------------------------------------------------------------------------------------

SENTINEL, NOT_A_NUMBER = np.float32(1.2345e30), np.float32(np.nan)
POISONED = 8  # values that are no number: one is enough, eight survive any merge


def spoiler(hook: Hook) -> Callable[[bytes, int, Chain, bytes | int], bytes]:
    """What becomes of an encoded update before it is hashed and spooled. The device's own books stay honest."""

    def spoil(payload: bytes, n: int, chain: Chain, seed: bytes | int) -> bytes:
        order = hook.order("poison")
        if order is None:
            return payload
        hook.done["poison"] += 1
        if order.how == "nan":
            return not_a_number(n)
        factor = np.float32(-1.0 if order.how == "sign_flip" else order.factor)
        return chain.encode(decode(payload, n=n).dense() * factor, seed=seed)

    return spoil


def not_a_number(n: int) -> bytes:
    """A payload of n elements of which a few are NaN: no chain would encode them, so their bytes are put in."""
    vector = np.zeros(n, np.float32)
    vector[:POISONED] = SENTINEL
    payload = make_chain(uplink_spec(min(1.0, POISONED / n), "none", "none")).encode(vector, seed=0)
    return payload.replace(SENTINEL.tobytes(), NOT_A_NUMBER.tobytes())
