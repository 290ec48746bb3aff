"""Faults by hand: a Unix socket in hostd's own folder, mode 0600, for who started the run and nobody else.

A request is one line of JSON, the answer another: `{"op": "fault", ...}` strikes, `{"op": "heal", "fault": id}` heals.
Whoever owns the faults (hostd, or the process runtime) asks for requests every turn and answers when it is done, so
nothing here decides, and a client that hangs costs nothing but its own connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from topology.plan import FaultParams

SOCKET_NAME = "control.sock"
REQUEST_BYTES_MAX = 262_144  # a link change of 200 devices is 100 kB
CLIENTS_MAX = 8  # at once; a person has one
ANSWER_WAIT_S = 30.0  # a fault that takes its time to be seen: 20 s at most

Text = Annotated[str, Meta(max_length=128)]


class FaultRequest(
    Struct, frozen=True, kw_only=True, tag="fault", tag_field="op", forbid_unknown_fields=True
):
    kind: Text
    targets: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=4096)]
    heal_after_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    params: FaultParams = FaultParams()


class HealRequest(Struct, frozen=True, kw_only=True, tag="heal", tag_field="op", forbid_unknown_fields=True):
    fault: Text


class Answer(Struct, frozen=True, kw_only=True):
    """`ok`: done and seen to have taken; `fault` its id in the history."""

    ok: bool
    detail: str
    fault: str = ""


Request = FaultRequest | HealRequest
_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_answers = msgspec.json.Decoder(Answer)


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path to the folder that is short: the name of a Unix socket has room for 107 bytes."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET_NAME}"
    finally:
        os.close(handle)


class Client:
    """One connection on the server's side: a request, and the way to answer it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection, self._received = connection, b""

    def read(self) -> Request | Answer | None:
        """The request when its line is whole; an Answer when it is none (then it has been sent); None: not yet."""
        try:
            piece = self._connection.recv(65_536)
        except BlockingIOError:
            return None
        except OSError:
            piece = b""
        self._received += piece
        if b"\n" not in self._received and piece and len(self._received) <= REQUEST_BYTES_MAX:
            return None
        try:
            return _requests.decode(self._received.partition(b"\n")[0])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return self.answer(Answer(ok=False, detail=f"no request: {error}"[:500]))

    def answer(self, answer: Answer) -> Answer:
        with contextlib.suppress(OSError):  # it may have gone away
            self._connection.setblocking(True)
            self._connection.settimeout(1.0)
            self._connection.sendall(msgspec.json.encode(answer) + b"\n")
        self._connection.close()
        return answer


class ControlServer:
    """Listens in `folder`; `poll` never blocks."""

    def __init__(self, folder: Path, owner: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / SOCKET_NAME
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)  # 0600 from the first moment on
        try:
            with _short(folder) as path:
                self._socket.bind(path)
        finally:
            os.umask(before)
        if owner is not None and owner != os.geteuid():
            os.chown(self._path, owner, -1)
        self._socket.listen(CLIENTS_MAX)
        self._socket.setblocking(False)
        self._clients: list[Client] = []

    def poll(self) -> list[tuple[Client, Request]]:
        self._accept()
        found = []
        for client in list(self._clients):
            request = client.read()
            if request is None:
                continue
            self._clients.remove(client)
            if not isinstance(request, Answer):
                found.append((client, request))
        return found

    def _accept(self) -> None:
        while len(self._clients) < CLIENTS_MAX:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._clients.append(Client(connection))

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


def ask(folder: Path, request: Request, wait_s: float = ANSWER_WAIT_S) -> Answer:
    """Raises OSError when nobody listens there, or when there is no answer in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(wait_s)
        with _short(folder) as path:
            connection.connect(path)
        connection.sendall(msgspec.json.encode(request) + b"\n")
        received = b""
        while not received.endswith(b"\n"):
            piece = connection.recv(65_536)
            if not piece:
                raise ConnectionError("the run ended before it answered")
            received += piece
    return _answers.decode(received)
