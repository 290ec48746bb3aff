"""The listening socket, the thread that reads and writes, and the few threads that make pages.

Everything has a bound: one request per connection; so many bytes of it; so many seconds for it and for its answer,
counted from the first, so that a slow sender gets no more than a silent one; so many connections at a time
(`coordinator.status.connections`); and so many whole requests that wait for a thread.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus

from coordinator.status.connections import Connection, Connections
from coordinator.status.pages import Page, answer, encode, error_page

THREADS = 4  # a browser, a scraper, and two that wait for a picture
WAITING_MAX = 16  # whole requests; a page takes milliseconds, seconds only while the coordinator is busy
# The kernel drops the SYN of whoever comes when it is full, and that one tries again after a second; it is emptied in
# milliseconds.
BACKLOG_MAX = 128
REQUEST_S_MAX = 5.0  # it is one packet from a process of this host
JOIN_S = 1.0  # a join without end cannot be interrupted everywhere


class StatusServer:
    """Listens from its making on. Raises OSError when it cannot."""

    def __init__(
        self, page_of: Callable[[str], Page], host: str, port: int, *, request_s_max: float = REQUEST_S_MAX
    ) -> None:
        self._page_of = page_of
        self._jobs: queue.Queue[Connection | None] = queue.Queue(WAITING_MAX)
        listener = socket.create_server((host, port), backlog=BACKLOG_MAX)
        self.url = "http://{}:{}".format(*listener.getsockname()[:2])
        self._connections = Connections(listener, self._take, request_s_max)
        self._front = threading.Thread(target=self._read, name="status", daemon=True)
        self._front.start()
        for number in range(THREADS):
            threading.Thread(target=self._serve, name=f"status-{number}", daemon=True).start()

    def wait(self) -> None:
        """Until a signal ends it, where this is all that the process does."""
        while self._front.is_alive():
            self._front.join(JOIN_S)

    def stop(self) -> None:
        """Accepts nothing more; a request under way ends by its own limits, in daemon threads."""
        self._connections.stop()

    def _take(self, connection: Connection) -> bool:
        try:
            self._jobs.put_nowait(connection)
        except queue.Full:
            return False
        return True

    def _read(self) -> None:
        self._connections.run()
        for _ in range(THREADS):
            self._jobs.put(None)  # whoever was waiting has been answered

    def _serve(self) -> None:
        while connection := self._jobs.get():
            self._connections.answer(connection, self._respond(connection.head))

    def _respond(self, head: bytes) -> bytes:
        try:
            return answer(head, self._page_of)
        except Exception as error:  # noqa: BLE001 - a bug in a page must not end its thread
            print(f"coordinator: status: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return encode(error_page(HTTPStatus.INTERNAL_SERVER_ERROR, "no page, for a bug in it"))
