"""The process runtime's broker where no mosquitto is installed: amqtt with mosquitto's own password and ACL files.

    python -m compose.python_broker --private runs/<id>/private/broker --port 40123

Loopback only, TLS, one password per client, the same ACL as in the docker runtime, and the client id must be the
user name (what `use_username_as_clientid` does in mosquitto). amqtt speaks MQTT 3.1.1.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from amqtt.broker import Broker
from amqtt.contexts import Action, BaseContext
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from compose.credentials import verify_password

Access = Literal["read", "write"]


def covers(allowed: str, requested: str) -> bool:
    """Whether every topic that matches the filter `requested` also matches the filter `allowed`."""
    want, have = requested.split("/"), allowed.split("/")
    for index, level in enumerate(have):
        if level == "#":
            return True
        if index >= len(want) or want[index] == "#":
            return False
        if level != "+" and level != want[index]:
            return False
    return len(want) == len(have)


@dataclass(frozen=True)
class AccessList:
    """A mosquitto ACL file: per user, which topic filters may be read and which written."""

    read: dict[str, tuple[str, ...]]
    write: dict[str, tuple[str, ...]]

    @classmethod
    def parse(cls, text: str) -> AccessList:
        read: dict[str, list[str]] = {}
        write: dict[str, list[str]] = {}
        user = ""
        for line in text.splitlines():
            words = line.split()
            if len(words) == 2 and words[0] == "user":
                user = words[1]
            elif len(words) == 3 and words[0] == "topic" and user:
                if words[1] in ("read", "readwrite"):
                    read.setdefault(user, []).append(words[2])
                if words[1] in ("write", "readwrite"):
                    write.setdefault(user, []).append(words[2])
        return cls({u: tuple(t) for u, t in read.items()}, {u: tuple(t) for u, t in write.items()})

    def allows(self, user: str, access: Access, topic: str) -> bool:
        table = self.read if access == "read" else self.write
        return any(covers(allowed, topic) for allowed in table.get(user, ()))


class PasswordFile(BaseAuthPlugin):  # type: ignore[misc]  # amqtt ships no types
    """mosquitto's password file; the client id has to be the user name, so nobody takes another's session."""

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        lines = Path(self._get_config_option("password_file")).read_text().splitlines()
        self._hashes = dict(line.split(":", 1) for line in lines if ":" in line)

    async def authenticate(self, *, session: Session) -> bool | None:
        known = self._hashes.get(session.username or "")
        if known is None or session.client_id != session.username:
            return False
        # 101 rounds of PBKDF2 are a blink, but 200 agents connect at once: keep the event loop free.
        return await asyncio.to_thread(verify_password, session.password or "", known)

    @dataclass
    class Config:
        password_file: str = ""


class AccessFile(BaseTopicPlugin):  # type: ignore[misc]
    """mosquitto's ACL file, for publishing, subscribing and receiving alike."""

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._list = AccessList.parse(Path(self._get_config_option("acl_file")).read_text())

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        if session is None or not session.username or not topic:
            return False
        return self._list.allows(session.username, "write" if action == Action.PUBLISH else "read", topic)

    @dataclass
    class Config:
        acl_file: str = ""


def configuration(private: Path, port: int) -> dict[str, Any]:
    return {
        "listeners": {
            "default": {
                "type": "tcp",
                "bind": f"127.0.0.1:{port}",
                "max_connections": 1024,  # mosquitto's default file limit; far above what one host can run
                "ssl": True,
                "certfile": str(private / "server.crt"),
                "keyfile": str(private / "server.key"),
            }
        },
        "plugins": {
            f"{PasswordFile.__module__}.PasswordFile": {"password_file": str(private / "passwd")},
            f"{AccessFile.__module__}.AccessFile": {"acl_file": str(private / "acl")},
        },
    }


async def serve(private: Path, port: int) -> None:
    """Run until SIGINT or SIGTERM."""
    broker = Broker(configuration(private, port))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await broker.start()
    print(f"broker: amqtt on 127.0.0.1:{port} (TLS)", flush=True)
    await stop.wait()
    await broker.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--private", type=Path, required=True, help="folder with server.crt, server.key, passwd, acl"
    )
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="broker: %(message)s")
    asyncio.run(serve(options.private, options.port))


if __name__ == "__main__":
    # Under its real name, so that amqtt imports these plugin classes and not a second copy of them.
    from compose.python_broker import main as run

    run()
