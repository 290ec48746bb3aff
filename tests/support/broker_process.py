"""The process behind `support.broker`: python broker_process.py PORT PASSWORDS_JSON. Runs until it is killed."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from amqtt.broker import Broker
from amqtt.contexts import BaseContext
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session


class Passwords(BaseAuthPlugin):
    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._known = json.loads(Path(self._get_config_option("file")).read_text())

    async def authenticate(self, *, session: Session) -> bool | None:
        known = self._known.get(session.username or "")
        return known is not None and session.password == known and session.client_id == session.username

    @dataclass
    class Config:
        file: str = ""


async def serve(port: int, file: str) -> None:
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}", "max_connections": 256}},
            "plugins": {"broker_process.Passwords": {"file": file}},
        }
    )
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    sys.path.insert(0, str(Path(__file__).parent))
    from broker_process import serve as run  # under its importable name, so amqtt finds the plugin's class

    asyncio.run(run(int(sys.argv[1]), sys.argv[2]))
