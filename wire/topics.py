"""Topic names under `rig/<run>/`, in one place: who may write what is in `acl_lines`."""

from __future__ import annotations

import re
from typing import NamedTuple

NAME = re.compile(
    r"^[a-z0-9][a-z0-9-]{0,62}$"
)  # a DNS label: also a container's host name and an MQTT username
COORDINATOR = "coordinator"


def root(run: str) -> str:
    return f"rig/{run}"


def down(run: str, agent: str, kind: str) -> str:
    """Coordinator to one agent; kind: task, grant, ack, outcome, resync, cancel, finish."""
    return f"rig/{run}/down/{agent}/{kind}"


def up(run: str, agent: str, kind: str) -> str:
    """One agent to the coordinator; kind: hello, offer, progress, failed, probed, ask."""
    return f"rig/{run}/up/{agent}/{kind}"


def chunk(run: str, agent: str, task: str, index: int) -> str:
    """A chunk of a task's update."""
    return f"rig/{run}/up/{agent}/update/{task}/{index}"


def status(run: str, agent: str) -> str:
    """Retained; the last will of the agent (and of the coordinator)."""
    return f"rig/{run}/status/{agent}"


def model(run: str, name: str, index: int) -> str:
    """Retained chunk `index` of the object `name`: `graph-<sha8>`, `v7` (full), `v6-v7` (delta)."""
    return f"rig/{run}/model/{name}/{index}"


class Upward(NamedTuple):
    """A topic that an agent wrote to: kind `status`, `update` (with task and chunk number) or one of `up`."""

    agent: str
    kind: str
    task: str = ""
    chunk: int = -1


def parse_upward(run: str, topic: str) -> Upward | None:
    """Who sent it and what it is; None for a topic this run does not know (counted by the caller)."""
    parts = topic.split("/")
    if len(parts) < 4 or parts[0] != "rig" or parts[1] != run or not NAME.match(parts[3]):
        return None
    if parts[2] == "status" and len(parts) == 4:
        return Upward(parts[3], "status")
    if parts[2] != "up":
        return None
    if len(parts) == 5:
        return Upward(parts[3], parts[4])
    if (
        len(parts) == 7
        and parts[4] == "update"
        and parts[6].isascii()
        and parts[6].isdigit()
        and len(parts[6]) < 7
    ):
        return Upward(parts[3], "update", parts[5], int(parts[6]))
    return None


def acl_lines(run: str, agents: list[str]) -> list[str]:
    """Mosquitto's ACL file: an agent writes its own `up` and `status`, reads its own `down` and the models."""
    lines = [
        f"user {COORDINATOR}",
        f"topic readwrite rig/{run}/down/#",
        f"topic readwrite rig/{run}/model/#",
        f"topic read rig/{run}/up/#",
        f"topic readwrite rig/{run}/status/#",
        "topic read $SYS/broker/#",
        "",
    ]
    for agent in agents:
        lines += [
            f"user {agent}",
            f"topic write rig/{run}/up/{agent}/#",
            f"topic write rig/{run}/status/{agent}",
            f"topic read rig/{run}/down/{agent}/#",
            f"topic read rig/{run}/model/#",
            f"topic read rig/{run}/status/{COORDINATOR}",
            "",
        ]
    return lines
