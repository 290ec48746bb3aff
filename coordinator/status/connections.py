"""Every connection to the status server, in one thread that waits for none of them.

Who connects and says nothing, or its request byte by byte, or does not read its answer, occupies an entry of a bounded
table and nothing else: threads that make pages get whole requests only (`ask`), and give back whole responses
(`answer`). When the table is full the oldest entry goes, silent ones being the oldest: what an honest process of this
host sends is here with the next turn.
"""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from http import HTTPStatus

from coordinator.status.pages import encode, error_page

CONNECTIONS_MAX = 64  # a browser has six; each is 8 kB of a head, or an answer: 400 kB with 2,000 devices
ACCEPTED_MAX = 16  # in one turn: a quarter of the table, so whoever is new is read before it is the oldest
HEAD_BYTES_MAX = 8 << 10  # a browser's is below 2 kB
ANSWER_S_MAX = 10.0  # a status of 2,000 devices is 400 kB
READ_BYTES_MAX = 64 << 10  # in one turn, so that nobody keeps the others waiting
# The rest of a request is read on for so long: what is unread at a close resets the answer.
LINGER_BYTES_MAX, LINGER_S_MAX = 64 << 10, 0.5
TURN_S_MAX = 1.0  # a wait without end cannot be interrupted everywhere
PAUSE_S = 0.1  # out of file descriptors, perhaps: not in a loop at full speed
END = b"\r\n\r\n"


class Phase(Enum):
    HEAD = auto()  # of the request, on its way
    PAGE = auto()  # being made, by a thread that answers in its own bounds
    ANSWER = auto()  # being read by the other side
    REST = auto()  # of what the other side sends, not looked at


class Connection:
    def __init__(self, peer: socket.socket, deadline: float) -> None:
        self.peer, self.deadline = peer, deadline  # the deadline is of the phase
        self.phase = Phase.HEAD
        self.head = b""
        self.unsent = memoryview(b"")
        self.rest_bytes = 0


class Connections:
    """`run` is one thread's; `answer` and `stop` are anybody's."""

    def __init__(
        self, listener: socket.socket, ask: Callable[[Connection], bool], request_s_max: float
    ) -> None:
        """`ask`: takes a connection with a whole head, or says that too many are waiting."""
        self._listener, self._ask, self._request_s_max = listener, ask, request_s_max
        self._open: dict[Connection, None] = {}  # oldest first
        self._answers: deque[tuple[Connection, bytes]] = deque()  # at most one for each connection
        self._woken, self._waker = socket.socketpair()
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        for end in (listener, self._woken, self._waker):
            end.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, self._wake_up)

    def answer(self, connection: Connection, response: bytes) -> None:
        self._answers.append((connection, response))
        self._wake()

    def stop(self) -> None:
        """Nobody is accepted from here on; whose request is here gets its answer yet."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._wake()

    def run(self) -> None:
        while not self._stopping:
            self._turn()
        self._selector.unregister(self._listener)
        self._listener.close()
        for connection in [c for c in self._open if c.phase is Phase.HEAD]:
            self._close(connection)
        while self._open:
            self._turn()
        for end in (self._selector, self._woken, self._waker):
            end.close()

    # --- a turn -------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience_s()):
            if isinstance(key.data, Connection):
                self._attend(key.data)
            else:
                key.data()
        while self._answers:
            self._begin_answer(*self._answers.popleft())
        now = time.monotonic()
        for connection in [c for c in self._open if c.deadline <= now]:
            self._close(connection)

    def _patience_s(self) -> float:
        first = min((connection.deadline for connection in self._open), default=math.inf)
        return min(max(first - time.monotonic(), 0.0), TURN_S_MAX)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full of earlier calls, or closed
            self._waker.send(b"\0")

    def _wake_up(self) -> None:
        self._woken.recv(READ_BYTES_MAX)

    def _accept(self) -> None:
        try:
            for _ in range(ACCEPTED_MAX):
                peer, _ = self._listener.accept()
                self._welcome(peer)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            if not self._stopping:
                time.sleep(PAUSE_S)

    def _welcome(self, peer: socket.socket) -> None:
        if len(self._open) >= CONNECTIONS_MAX and not self._make_room():
            peer.close()
            return
        peer.setblocking(False)
        connection = Connection(peer, time.monotonic() + self._request_s_max)
        self._selector.register(peer, selectors.EVENT_READ, connection)
        self._open[connection] = None
        self._attend(connection)  # who waited to be accepted has said everything by now

    def _make_room(self) -> bool:
        oldest = next((c for c in self._open if c.phase is not Phase.PAGE), None)
        if oldest is not None:
            self._close(oldest)
        return oldest is not None

    # --- a connection -------------------------------------------------------------------------------------------------

    def _attend(self, connection: Connection) -> None:
        """Whatever comes, it costs its sender only."""
        if connection not in self._open:
            return  # it made room in this very turn
        try:
            match connection.phase:
                case Phase.HEAD:
                    self._read_head(connection)
                case Phase.ANSWER:
                    self._write(connection)
                case Phase.REST:
                    self._read_rest(connection)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)

    def _read_head(self, connection: Connection) -> None:
        connection.head += _received(connection, HEAD_BYTES_MAX + len(END) - len(connection.head))
        head, end, _ = connection.head.partition(END)
        if end:
            self._hand_over(connection, head)
        elif len(connection.head) >= HEAD_BYTES_MAX:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._begin_answer(connection, encode(error_page(status, f"{HEAD_BYTES_MAX} bytes at most")))

    def _hand_over(self, connection: Connection, head: bytes) -> None:
        """It is out of the selector meanwhile: a peer that hangs up would wake it without end."""
        connection.head, connection.phase, connection.deadline = head, Phase.PAGE, math.inf
        self._selector.unregister(connection.peer)
        if not self._ask(connection):
            busy = error_page(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at a time")
            self._begin_answer(connection, encode(busy))

    def _begin_answer(self, connection: Connection, response: bytes) -> None:
        if connection.phase is Phase.HEAD:
            self._selector.unregister(connection.peer)
        connection.phase, connection.deadline = Phase.ANSWER, time.monotonic() + ANSWER_S_MAX
        connection.unsent = memoryview(response)
        self._selector.register(connection.peer, selectors.EVENT_WRITE, connection)

    def _write(self, connection: Connection) -> None:
        connection.unsent = connection.unsent[connection.peer.send(connection.unsent) :]
        if connection.unsent:
            return
        connection.peer.shutdown(socket.SHUT_WR)
        connection.phase, connection.deadline = Phase.REST, time.monotonic() + LINGER_S_MAX
        self._selector.modify(connection.peer, selectors.EVENT_READ, connection)

    def _read_rest(self, connection: Connection) -> None:
        connection.rest_bytes += len(_received(connection, READ_BYTES_MAX))
        if connection.rest_bytes >= LINGER_BYTES_MAX:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        del self._open[connection]
        if connection.phase is not Phase.PAGE:
            self._selector.unregister(connection.peer)
        connection.peer.close()


def _received(connection: Connection, size: int) -> bytes:
    received = connection.peer.recv(size)
    if not received:
        raise ConnectionError("closed")
    return received
