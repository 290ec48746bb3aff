"""Tasks in hand that end with an answer instead of an update: a probe with a loss, a survey with figures."""

from __future__ import annotations

import msgspec

from edge_agent import events as e
from edge_agent.hand import in_hand, leave
from edge_agent.state import Phase
from edge_agent.turn import Turn
from wire import messages as m


def probed(turn: Turn, event: e.Probed) -> None:
    """A probe is over with its answer: nothing is kept of it but that."""
    hand = in_hand(turn, event.task, Phase.TRAINING)
    if hand is None:
        return
    turn.record(
        "loss_evaluated",
        task=event.task,
        loss=event.loss,
        samples=event.samples,
        wall_s=round(event.wall_s, 3),
    )
    answer = m.Probed(task=event.task, loss=event.loss, samples=event.samples, fetch_bytes=hand.fetch_bytes)
    turn.remember_ended(event.task, "probed", f"loss {event.loss:g}", answer)
    turn.send(answer)
    leave(turn, hand, f"loss {event.loss:g}")


def surveyed(turn: Turn, event: e.Surveyed) -> None:
    """A survey, as well."""
    hand = in_hand(turn, event.task, Phase.TRAINING)
    if hand is None:
        return
    turn.record("surveyed", task=event.task, figures=msgspec.to_builtins(event.figures))
    answer = m.Surveyed(task=event.task, figures=event.figures)
    turn.remember_ended(event.task, "surveyed", "", answer)
    turn.send(answer)
    leave(turn, hand, "surveyed")
