"""What a schedule sees and what it can say."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol

from msgspec import Struct


class RoundView(Struct, frozen=True, kw_only=True):
    """One open round, counted. `mergeable` updates are acked and fit to merge; `expected` tasks are under way and
    their agents are here (or away for less than the grace); `away` ones are under way at agents that are gone.
    `spare`: free online agents that could still be given a task of this round."""

    target: int
    quorum: int
    mergeable: int
    expected: int
    away: int
    receiving: int  # of those expected: bytes are complete, only the journal's commit is missing
    spare: int
    deadline: float
    deadline_s: float
    extensions: int


class Wait(Struct, frozen=True):
    """Nothing to do before `until` unless something happens."""

    until: float


class Close(Struct, frozen=True):
    """Merge what is here. reason: complete, absent, deadline."""

    reason: str


class Replace(Struct, frozen=True):
    """Give `count` more agents a task of this round."""

    count: int


class Extend(Struct, frozen=True):
    """Past the deadline without quorum: another one."""

    deadline: float


class Fail(Struct, frozen=True):
    reason: str


Decision = Wait | Close | Replace | Extend | Fail


class Policy(Protocol):
    target: int
    quorum: int
    deadline_s: float

    def wanted(self, agents: int) -> int:
        """How many agents a round starts with when all of `agents` are online."""

    def select(self, online: Sequence[str], rng: Random) -> list[str]:
        """The cohort of a round, from those online now, in the order of their tasks."""

    def decide(self, view: RoundView, now: float) -> Decision:
        """What to do with an open round. Must not return Replace when `spare` is 0, nor anything unbounded."""
