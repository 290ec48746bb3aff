"""Every bound and interval of the agent, with the reason for its number."""

from __future__ import annotations

from msgspec import Struct

from wire.codecs.feedback import PENDING_MAX

__all__ = ["PENDING_MAX", "Limits"]


class Limits(Struct, frozen=True, kw_only=True):
    """What the core waits for and what it accepts. Tests and simulation shorten the waits, nothing else does."""

    pending_max: int = PENDING_MAX
    # A device of 512 MiB holds five float32 vectors while it trains: 16 Mi parameters are 320 MiB of them.
    parameters_max: int = 1 << 24
    graph_bytes_max: int = 16 << 20  # a training graph has some kB, frozen layers travel inside
    object_spare_bytes: int = 65_536  # headers of a model that does not compress at all
    # Ended tasks remembered to recognise late duplicates; a coordinator keeps 16 per agent.
    done_max: int = 32
    story_lines: int = 64  # what an illegal transition tells of the past
    fetch_tries_max: int = 3  # a damaged object is fetched again twice, then the task fails

    # An offer without an answer: the coordinator may be queueing it, so it is repeated ever more rarely.
    offer_again_s: float = 5.0
    offer_again_max_s: float = 60.0
    ask_every_s: float = 15.0  # without an outcome the agent asks
    hello_again_s: float = 15.0  # nothing heard at all since the last hello: it may have been lost
    hello_again_max_s: float = 60.0
    settle_again_s: float = 10.0  # a full disk while settling: somebody has to free space first
    progress_every_s: float = 1.0  # wire.messages.Progress: at most one a second
    # The coordinator extends a round without quorum by up to three deadlines and cancels by itself; an agent that
    # hears nothing gives up after that, or it would train for a run that is long gone.
    give_up_deadlines: float = 4.0
    give_up_spare_s: float = 30.0
