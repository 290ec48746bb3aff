"""The listening socket and the few threads behind it.

Everything has a bound: so many connections at a time as there are threads, the rest waits in the kernel's queue and is
turned away when that is full; one request per connection; so many bytes of it; so many seconds for it and for the
answer, counted from its first byte, so that a slow sender gets no more than a silent one.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from coordinator.status.pages import Page, answer, encode, error_page

THREADS = 4  # a browser, a scraper, and two that are slow
WAITING_MAX = 16
HEAD_BYTES_MAX = 8 << 10  # a browser's is below 2 kB
REQUEST_S_MAX = 5.0  # it is one packet from a process of this host
ANSWER_S_MAX = 10.0  # a status of 2,000 devices is 400 kB
LINGER_BYTES_MAX, LINGER_S_MAX = (
    64 << 10,
    0.5,
)  # read on for so long: what is unread at a close resets the answer
WAIT_S = 1.0  # a join without end cannot be interrupted everywhere
END = b"\r\n\r\n"


class StatusServer:
    """Listens from its making on. Raises OSError when it cannot."""

    def __init__(
        self, page_of: Callable[[str], Page], host: str, port: int, *, request_s_max: float = REQUEST_S_MAX
    ) -> None:
        self._page_of, self._request_s_max = page_of, request_s_max
        self._socket = socket.create_server((host, port), backlog=WAITING_MAX)
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"status-{number}", daemon=True)
            for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}"

    def wait(self) -> None:
        """Until a signal ends it, where this is all that the process does."""
        while not self._stopping:
            for thread in self._threads:
                thread.join(WAIT_S)

    def stop(self) -> None:
        """Accepts nothing more; a request under way ends by its own limits, in its daemon thread."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes those in accept
        self._socket.close()

    def _serve(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if not self._stopping:
                    time.sleep(0.1)  # out of file descriptors, perhaps: not in a loop at full speed
                continue
            with connection:
                self._handle(connection)

    def _handle(self, connection: socket.socket) -> None:
        """Whatever comes, it costs its sender only."""
        try:
            head = _read_head(connection, self._request_s_max)
            if head is None:
                response = encode(
                    error_page(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{HEAD_BYTES_MAX} bytes at most")
                )
            else:
                response = answer(head, self._page_of)
            connection.settimeout(ANSWER_S_MAX)
            connection.sendall(response)
            _linger(connection)
        except OSError:
            return  # it is gone, or too slow
        except Exception as error:  # noqa: BLE001 - a bug in a page must not end its thread
            print(f"coordinator: status: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def _read_head(connection: socket.socket, seconds_max: float) -> bytes | None:
    """Up to the empty line; None when it is too long. Raises OSError when it does not come in time."""
    deadline = time.monotonic() + seconds_max
    got = b""
    while END not in got:
        if len(got) >= HEAD_BYTES_MAX:
            return None
        got += _receive(connection, HEAD_BYTES_MAX + len(END) - len(got), deadline)
    return got.partition(END)[0]


def _receive(connection: socket.socket, size: int, deadline: float) -> bytes:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    connection.settimeout(left_s)
    received = connection.recv(size)
    if not received:
        raise ConnectionError("closed")
    return received


def _linger(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)
    deadline, got = time.monotonic() + LINGER_S_MAX, 0
    while got < LINGER_BYTES_MAX:
        got += len(_receive(connection, LINGER_BYTES_MAX, deadline))
