"""Messages and a driver for tests of the agent's core; updates that carry two vectors for tests of its spool."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from edge_agent import actions as a
from edge_agent import events as e
from edge_agent.core import AgentCore
from edge_agent.spool import Spool
from edge_agent.state import Restored
from wire import messages as m
from wire.codecs import make_chain, uplink_spec

N = 300
SHA = {letter: letter * 64 for letter in "0123456789abcdef"}


def ref(name: str, size: int = 1_000, base: int | None = None, sha: str = "1") -> m.ObjectRef:
    return m.ObjectRef(name=name, bytes=size, chunks=2, sha256=SHA[sha], base_version=base)


def model(version: int = 0, deltas: Iterable[m.ObjectRef] = (), sha: str = "a") -> m.ModelRef:
    full = ref(f"v{version}", 4_000)
    return m.ModelRef(
        version=version, sha256=SHA[sha], parameters=2_000, dtype="fp16", full=full, deltas=tuple(deltas)
    )


def task(name: str = "t1", round_: int = 1, **changes: Any) -> m.Task:
    fields: dict[str, Any] = {
        "model": model(),
        "graph": ref("graph-1", sha="2"),
        "train": m.TrainSpec(local_epochs=1, batch_size=16, lr=0.1),
        "uplink": m.UplinkSpec(chain=uplink_spec(0.01, "int8")),
        "seed": 1,
        "deadline_s": 30.0,
    }
    return m.Task(task=name, round=round_, **(fields | changes))


def report(**changes: Any) -> m.Report:
    fields: dict[str, Any] = {
        "samples": 100, "steps": 7, "loss": 1.0, "train_s": 1.0, "step_s": 0.1, "fetch_s": 0.5, "fetch_bytes": 5_000,
        "peak_rss_bytes": 1, "residual_norm": 0.5, "raw_bytes": 8_000,
    }  # fmt: skip
    return m.Report(**(fields | changes))


def control(version: int = 0, sha: str = "c", **changes: Any) -> m.ControlRef:
    return m.ControlRef(object=ref(f"c{version}", 4_000, sha=sha), dtype="fp16", **changes)


def noise(seed: int, n: int = N) -> Any:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def keep_pair(spool: Spool, task_: str, seed: int) -> None:
    """Commit an update with what the control variate moves by: float16 of `noise(seed + 100)`."""
    change = make_chain(uplink_spec(None, "fp16")).encode(noise(seed + 100), seed=seed)
    uplink = m.UplinkSpec(chain=uplink_spec(0.05, "int8"))
    spool.prepare(
        task_, noise(seed), uplink, seed=seed, version=0, report=lambda _carried: report(), change=change
    )
    spool.commit(task_)


def variate(spool: Spool) -> Any:
    """The device's control variate, float32[N]."""
    taken = np.zeros(N, np.float32)
    spool.take_variate_from(taken)
    return -taken


def grant(name: str = "t1", sha: str = "b", missing: tuple[int, ...] | None = None) -> m.Grant:
    return m.Grant(task=name, sha256=SHA[sha], chunk_bytes=256, window_bytes=1_024, missing=missing)


class Driver:
    """A core with a clock. Every step checks the invariants and returns what was decided."""

    def __init__(self, restored: Restored | None = None, *, online: bool = True) -> None:
        self.core = AgentCore(boot="boot-1", samples=100, software="test", restored=restored)
        self.now = 100.0
        self.log: list[a.Action] = []
        if online:
            self.feed(e.Connected())

    def feed(self, event: e.Event, after_s: float = 0.0) -> list[a.Action]:
        self.now += after_s
        actions = self.core.handle(event, self.now)
        self.core.validate()
        self.log += actions
        return actions

    def message(self, message: m.Down, after_s: float = 0.0) -> list[a.Action]:
        return self.feed(e.MessageArrived(message=message), after_s)

    def ready(self, name: str, task_: str = "t1", version: int | None = 0, sha: str = "a") -> list[a.Action]:
        return self.feed(
            e.ObjectReady(task=task_, name=name, bytes=1_000, wall_s=0.5, version=version, sha256=SHA[sha])
        )

    def fetched(self, task_: str = "t1") -> list[a.Action]:
        """Whatever it asks for is fetched, until it trains."""
        actions: list[a.Action] = []
        while self.core.state.hand is not None and self.core.state.hand.wanted:
            wanted = self.core.state.hand.wanted[0]
            target = self.core.state.hand.order.model
            sha = wanted.ref.sha256 if wanted.leads_to is None else target.sha256
            actions = self.feed(
                e.ObjectReady(
                    task=task_,
                    name=wanted.ref.name,
                    bytes=1,
                    wall_s=0.1,
                    version=wanted.leads_to,
                    sha256=sha,
                    control=wanted.control,
                )
            )
        return actions

    def trained(self, task_: str = "t1") -> list[a.Action]:
        return self.feed(
            e.Trained(task=task_, samples=100, steps=7, loss=1.0, train_s=1.0, step_s=0.1, peak_rss_bytes=1)
        )

    def encoded(self, task_: str = "t1", sha: str = "b") -> list[a.Action]:
        return self.feed(e.Encoded(task=task_, sha256=SHA[sha], bytes=1_000, report=report()))

    def spooled(self, task_: str = "t1", sha: str = "b") -> list[a.Action]:
        return self.feed(e.Spooled(task=task_, sha256=SHA[sha]))

    def offered(self, task_: str = "t1", sha: str = "b", round_: int = 1) -> list[a.Action]:
        """From the task to the offer."""
        self.message(task(task_, round_))
        self.fetched(task_)
        self.trained(task_)
        self.encoded(task_, sha)
        return self.spooled(task_, sha)

    def acked(self, task_: str = "t1", sha: str = "b") -> list[a.Action]:
        return self.message(m.Ack(task=task_, sha256=SHA[sha]))

    def settled(self, task_: str = "t1") -> list[a.Action]:
        return self.feed(e.Settled(task=task_, residual_norm=0.25))


def sent(actions: Iterable[a.Action], kind: type[Any]) -> list[Any]:
    """The messages of a kind among actions."""
    return [x.message for x in actions if isinstance(x, a.Send) and isinstance(x.message, kind)]


def only(actions: Iterable[a.Action], kind: type[Any]) -> list[Any]:
    return [x for x in actions if isinstance(x, kind)]


def names(actions: Iterable[a.Action]) -> list[str]:
    """A readable transcript: what is done, without records."""
    lines = []
    for action in actions:
        if isinstance(action, a.Record):
            continue
        if isinstance(action, a.Send):
            message = action.message
            detail = getattr(message, "task", None) or getattr(message, "tasks", "")
            phase = f":{message.phase}" if isinstance(message, m.Progress) else ""
            lines.append(f"{type(message).__name__.lower()} {detail}{phase}".strip())
        elif isinstance(action, a.Fetch):
            lines.append(f"FETCH {action.object.name}")
        elif isinstance(action, a.Settle):
            lines.append(f"SETTLE {action.task} {'give back' if action.give_back else 'keep sent'}")
        elif isinstance(action, a.Stop):
            lines.append("STOP")
        else:
            lines.append(f"{type(action).__name__.upper()} {getattr(action, 'task', '')}".strip())
    return lines
