"""The status server's sockets: whatever comes over them costs its sender only."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit

import pytest
from test_coordinator_http import LookedAt, a_stage, fetch
from test_coordinator_service import until

from coordinator.status.connections import CONNECTIONS_MAX, HEAD_BYTES_MAX
from coordinator.status.pages import TEXT, Page, page_of
from coordinator.status.server import THREADS, WAITING_MAX, StatusServer
from edgerig.forward import forwarded


@pytest.fixture
def server() -> Iterator[StatusServer]:
    served = StatusServer(partial(page_of, board=LookedAt(a_stage())), "127.0.0.1", 0, request_s_max=0.2)
    yield served
    served.stop()


def call(server: StatusServer) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((str(parts.hostname), parts.port or 0), timeout=10)


def rest_of(connection: socket.socket) -> bytes:
    got = b""
    while more := connection.recv(65536):
        got += more
    return got


def test_a_request_that_is_too_long_is_refused_and_read_no_further(server: StatusServer) -> None:
    with call(server) as connection:
        connection.sendall(b"GET /status HTTP/1.1\r\nX: " + b"x" * HEAD_BYTES_MAX)
        assert rest_of(connection).startswith(b"HTTP/1.1 431 ")


def test_silent_and_slow_connections_end_and_hold_nobody_up(server: StatusServer) -> None:
    silent = [call(server) for _ in range(2 * THREADS)]
    silent[0].sendall(b"GET /st")
    assert fetch(server.url, "/healthz") == (200, b"ok\n")
    for connection in silent:
        with connection:
            assert rest_of(connection) == b""


@pytest.fixture
def patient() -> Iterator[StatusServer]:
    """Has the patience of the real one: within a test nobody's time runs out."""
    served = StatusServer(partial(page_of, board=LookedAt(a_stage())), "127.0.0.1", 0)
    yield served
    served.stop()


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nX: "], ids=["silent", "slow"])
def test_an_honest_request_does_not_wait_for_those_that_have_not_said_theirs(
    patient: StatusServer, said: bytes
) -> None:
    others = [call(patient) for _ in range(200)]
    try:
        for letter in said:
            for connection in others:
                drip(connection, letter)
        began = time.monotonic()
        assert fetch(patient.url, "/healthz") == (200, b"ok\n")
        assert time.monotonic() - began < 1.0
    finally:
        for connection in others:
            connection.close()


def drip(connection: socket.socket, letter: int) -> None:
    with contextlib.suppress(OSError):  # it was closed to make room
        connection.sendall(bytes([letter]))


def test_an_honest_request_does_not_wait_for_those_that_do_not_read_their_answers() -> None:
    large = Page(HTTPStatus.OK, TEXT, b"x" * (8 << 20))  # more than the kernel takes off a server's hands
    small = Page(HTTPStatus.OK, TEXT, b"ok")
    served = StatusServer(lambda path: large if path == "/large" else small, "127.0.0.1", 0)
    others = [call(served) for _ in range(3 * THREADS)]
    try:
        for connection in others:
            connection.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        for connection in others:
            assert connection.recv(1)  # its answer has begun
        began = time.monotonic()
        assert fetch(served.url, "/") == (200, b"ok")
        assert time.monotonic() - began < 1.0
        assert len(rest_of(others[0])) > len(large.body)  # and whoever reads it after all has all of it
    finally:
        for connection in others:
            connection.close()
        served.stop()


def test_of_more_connections_than_there_is_room_for_the_oldest_silent_one_goes_first(
    patient: StatusServer,
) -> None:
    others = [call(patient) for _ in range(CONNECTIONS_MAX)]
    fetch(patient.url, "/healthz")
    assert rest_of(others[0]) == b""
    others[-1].sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert rest_of(others[-1]).startswith(b"HTTP/1.1 200 ")
    for connection in others:
        connection.close()


def test_more_whole_requests_than_may_wait_are_told_so() -> None:
    making, held = threading.Semaphore(0), threading.Event()

    def page(path: str) -> Page:
        making.release()
        assert held.wait(10)
        return Page(HTTPStatus.OK, TEXT, b"ok")

    served = StatusServer(page, "127.0.0.1", 0)
    others = [call(served) for _ in range(THREADS + WAITING_MAX)]
    try:
        for connection in others[:THREADS]:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert making.acquire(timeout=10)
        for connection in others[THREADS:]:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        until(served._jobs.full, "so many wait as may")
        assert fetch(served.url, "/")[0] == 503
        held.set()
        assert all(rest_of(connection).startswith(b"HTTP/1.1 200 ") for connection in others)
    finally:
        held.set()
        for connection in others:
            connection.close()
        served.stop()


def test_a_request_that_is_here_is_answered_by_a_server_that_stops() -> None:
    asked, held = threading.Event(), threading.Event()

    def page(path: str) -> Page:
        asked.set()
        assert held.wait(10)
        return Page(HTTPStatus.OK, TEXT, b"ok")

    served = StatusServer(page, "127.0.0.1", 0)
    with call(served) as connection, call(served) as silent:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert asked.wait(10)
        served.stop()
        assert rest_of(silent) == b""
        held.set()
        assert rest_of(connection).endswith(b"\r\n\r\nok")
    served.wait()


def test_a_page_that_has_a_bug_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    def page(path: str) -> Page:
        raise ZeroDivisionError

    served = StatusServer(page, "127.0.0.1", 0)
    try:
        assert fetch(served.url, "/")[0] == 500
        assert "ZeroDivisionError" in capsys.readouterr().err
    finally:
        served.stop()


def test_what_follows_a_request_is_not_taken_for_another(server: StatusServer) -> None:
    with call(server) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" * 3)
        assert rest_of(connection).count(b"HTTP/1.1 ") == 1


def test_a_stopped_server_listens_no_more(server: StatusServer) -> None:
    server.stop()
    with pytest.raises(OSError):  # noqa: PT011 - refused or reset, as the kernel likes
        fetch(server.url, "/healthz")


# --- the same at another address --------------------------------------------------------------------------------------


def test_it_is_forwarded_from_wherever_it_is_by_then(server: StatusServer) -> None:
    urls = [server.url]
    front = StatusServer(partial(forwarded, url_of=lambda: urls[-1]), "127.0.0.1", 0)
    try:
        assert json.loads(fetch(front.url, "/status")[1])["state"] == "collecting"
        assert fetch(front.url, "/nothing")[0] == 404
        urls.append("")
        assert fetch(front.url, "/metrics")[0] == 502
        urls.append("http://127.0.0.1:9")
        code, body = fetch(front.url, "/healthz")
        assert (code, b"does not answer" in body) == (502, True)
    finally:
        front.stop()
