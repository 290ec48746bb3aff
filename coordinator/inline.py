"""Small updates that come within their offer: room that is kept from the moment their task is sent.

Asking for a grant costs a round trip and two messages; for an update that fits into a chunk that is as much as sending
it. So a device whose last update was small is expected to send another like it: a bit more than that is reserved out of
the budget of open grants, and its task says so. The reservation becomes a grant when the offer comes with its update,
and is given back when the offer comes without, the task ends, or the device says hello: what it was told on a
connection that is lost does not count.
"""

from __future__ import annotations

from coordinator.state import Task, TaskState
from coordinator.turn import Turn
from wire.messages import INLINE_BYTES_MAX

GROWTH = 8  # an update may be an eighth larger than the one before: what entropy coding varies by, and more


def reserve(turn: Turn, task: Task) -> int:
    """Bytes that the update of this task may have to come with its offer; 0: it has to ask."""
    state, config = turn.state, turn.config
    if task.id in state.reserved:
        return state.reserved[task.id]
    size = _expected(turn, task)
    reserved = state.reserved_bytes + size
    if not size or state.offers or reserved > config.reserved_bytes_max:
        return 0  # those who wait for a grant go before those who will want one
    if state.granted_bytes + reserved > config.open_grant_bytes_max:
        return 0
    state.reserved[task.id] = size
    state.reserved_bytes = reserved
    return size


def _expected(turn: Turn, task: Task) -> int:
    """0 for an update that needs a grant: unknown, too large, or to be seen on its way, by a fault or by the choice of
    its compression, which measures how fast it comes.
    """
    config, last = turn.config, turn.state.agents[task.agent].update_bytes
    if task.state is not TaskState.OPEN or task.agent in config.always_ask or config.uplink.adaptive:
        return 0
    size = last + last // GROWTH
    return size if size <= min(config.agents[task.agent].chunk_bytes, INLINE_BYTES_MAX) else 0


def release(turn: Turn, task: Task) -> int:
    """Give the room back, if there is any; returns how much."""
    size = turn.state.reserved.pop(task.id, 0)
    turn.state.reserved_bytes -= size
    return size


def take_back(turn: Turn) -> bool:
    """The room of one device that went away is for others; returns whether there was one."""
    for name in turn.state.reserved:
        task = turn.state.tasks[name]
        if turn.gone(turn.state.agents[task.agent]):
            release(turn, task)
            return True
    return False
