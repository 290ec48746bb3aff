"""From the head of a request to the whole response: pure, for any bytes.

Only GET and HEAD of three paths are answered with more than an error, and nothing in a request changes anything. The
Host has to be an address or a name that no stranger can own, so that a web page cannot have the browser of somebody on
this host read the run for it (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from coordinator.status.board import Board
from coordinator.status.metrics import CONTENT_TYPE, families, render

JSON, TEXT = "application/json", "text/plain; charset=utf-8"
NAMES = frozenset({"localhost", "coordinator"})
METHODS = ("GET", "HEAD")
INDEX = "edgerig coordinator: /status (JSON), /metrics (Prometheus), /healthz\n"


class Page(NamedTuple):
    status: HTTPStatus
    kind: str
    body: bytes


class Request(NamedTuple):
    method: str
    path: str
    host: str


class BadRequest(ValueError):
    """Not HTTP/1."""


def parse(head: bytes) -> Request:
    """The request line and the Host of a head without its closing empty line. Raises BadRequest."""
    try:
        line, *fields = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError as error:
        raise BadRequest("the head is not ASCII") from error
    parts = line.split(" ")
    if len(parts) != 3 or not all(parts) or not parts[2].startswith("HTTP/1."):
        raise BadRequest("no request line of HTTP/1")
    hosts = [value.strip() for name, _, value in (x.partition(":") for x in fields) if name.lower() == "host"]
    if len(hosts) > 1:
        raise BadRequest("more than one Host")
    return Request(parts[0], parts[1].partition("?")[0], hosts[0] if hosts else "")


def _own(host: str) -> bool:
    """Whether it names this service: an address, localhost, or nothing (HTTP/1.0)."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if not name or name.lower() in NAMES:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def answer(head: bytes, page_of: Callable[[str], Page]) -> bytes:
    """The response, body included but for HEAD. `page_of` is asked for a path once nothing else is wrong."""
    try:
        request = parse(head)
    except BadRequest as error:
        return encode(error_page(HTTPStatus.BAD_REQUEST, str(error)))
    if request.method not in METHODS:
        page = error_page(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only")
        return encode(page, allow=", ".join(METHODS))
    if not _own(request.host):
        return encode(error_page(HTTPStatus.FORBIDDEN, "ask by address, or as localhost"))
    return encode(page_of(request.path), body=request.method == "GET")


def page_of(path: str, board: Board) -> Page:
    """What the coordinator shows under a path."""
    match path:
        case "/":
            return Page(HTTPStatus.OK, TEXT, INDEX.encode())
        case "/healthz":
            illness = board.illness()
            status = HTTPStatus.SERVICE_UNAVAILABLE if illness else HTTPStatus.OK
            return Page(status, TEXT, f"{illness or 'ok'}\n".encode())
        case "/status" | "/metrics":
            return _figures(path, board)
    return error_page(HTTPStatus.NOT_FOUND, INDEX.strip())


def _figures(path: str, board: Board) -> Page:
    snapshot = board.latest()
    if snapshot is None:
        return error_page(HTTPStatus.SERVICE_UNAVAILABLE, board.illness() or "no figures yet")
    age_s = board.age_s(snapshot)
    if path == "/metrics":
        return Page(HTTPStatus.OK, CONTENT_TYPE, render(families(snapshot, age_s)).encode())
    shown = msgspec.to_builtins(snapshot.picture) | {"age_s": round(age_s, 1), "trouble": board.illness()}
    return Page(HTTPStatus.OK, JSON, msgspec.json.encode(shown) + b"\n")


def error_page(status: HTTPStatus, text: str) -> Page:
    return Page(status, TEXT, f"{text}\n".encode())


def encode(page: Page, *, body: bool = True, allow: str = "") -> bytes:
    fields = {
        "Content-Type": page.kind,
        "Content-Length": str(len(page.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
    } | ({"Allow": allow} if allow else {})
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    line = f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\n"
    return (line + head + "\r\n").encode() + (page.body if body else b"")
