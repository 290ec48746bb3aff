"""One turn of the core: the state, the moment, and the actions decided so far. The parts of the core work on it."""

from __future__ import annotations

import hashlib
from random import Random
from typing import Any

import msgspec

from coordinator import actions as a
from coordinator.config import CoordinatorConfig
from coordinator.policies import Policy
from coordinator.state import Agent, CoordinatorState, Task
from wire import messages as m


def derive_seed(seed: int, *parts: object) -> int:
    """63 bits that depend on every part: the same after a restart, whatever was drawn before."""
    text = "/".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Turn:
    def __init__(
        self, config: CoordinatorConfig, state: CoordinatorState, policy: Policy, first_action: int
    ) -> None:
        self.config, self.state, self.policy = config, state, policy
        self.now = 0.0
        self.cause = 0
        self.actions: list[a.Action] = []
        # See `fleet`; it goes by timings alone, and is good until one changes.
        self.slow: frozenset[str] | None = None
        self._next_action = first_action

    def begin(self, cause: int, now: float) -> None:
        self.cause, self.now, self.actions = cause, now, []

    def emit(self, action: a.Action) -> None:
        self.actions.append(msgspec.structs.replace(action, id=self._next_action, cause=self.cause))
        self._next_action += 1

    def record(self, event: str, **fields: Any) -> None:
        self.emit(a.Record(event=event, fields=fields))

    def send(self, agent: str, message: m.Ack | m.Outcome | m.Cancel | m.Resync | m.Finish) -> None:
        self.emit(a.Send(agent=agent, message=message))

    def refuse(self, agent: str, kind: str, reason: str) -> None:
        self.emit(a.Refused(agent=agent, kind=kind, reason=reason))

    def rng(self, *purpose: object) -> Random:
        """A generator of its own for each decision, so a restart draws what the first life drew."""
        return Random(derive_seed(self.config.seed, *purpose))

    def gone(self, agent: Agent) -> bool:
        """Whether it has been away for longer than a reconnect takes."""
        return not agent.online and self.now >= agent.away_since + self.config.drop_after_s

    def task_of(self, agent: str, task: str) -> Task | None:
        """The task, if it is this agent's. Another agent's task is as unknown as one that never was."""
        found = self.state.tasks.get(task)
        return found if found is not None and found.agent == agent else None
