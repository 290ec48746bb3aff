"""Figures of devices about their own tests: checked before anything is said of them. A liar is refused and counted.

A device's test data are its own, so what it claims of them cannot be recomputed. What can be known is: which version it
was asked about, how many test samples it has, and that shares are shares.
"""

from __future__ import annotations

import math

import msgspec

from coordinator.turn import Turn
from wire import messages as m


def of_offer(turn: Turn, agent: str, offer: m.Offer) -> m.Report:
    """The report without figures that make no sense; those that do are recorded once a content is new."""
    task = turn.task_of(agent, offer.task)
    figures = offer.report.local
    if figures is None or task is None:
        return offer.report
    reason = problem(turn, agent, figures, task.version)
    if reason:
        turn.refuse(agent, "offer", reason)
        return msgspec.structs.replace(offer.report, local=None)
    if task.sha256 != offer.sha256:
        record(turn, agent, figures, task=task.id, round=task.round)
    return offer.report


def record(turn: Turn, agent: str, figures: m.LocalFigures, *, task: str, round: int | None) -> None:
    """`round` None: the survey at the end."""
    turn.record(
        "tested_locally",
        agent=agent,
        task=task,
        round=round,
        version=figures.version,
        received=msgspec.to_builtins(figures.received),
        personal=msgspec.to_builtins(figures.personal),
    )


def problem(turn: Turn, agent: str, figures: m.LocalFigures, version: int) -> str:
    """Why these figures are refused: a short code, or nothing."""
    if not turn.config.train.evaluate:
        return "figures_not_asked"
    if figures.version != version:
        return "figures_version"
    has = turn.config.test_samples.get(agent)
    for found in (figures.received, figures.personal):
        if found is not None and (reason := _implausible(found, has)):
            return reason
    return ""


def _implausible(found: m.Measured, has: int | None) -> str:
    if has is not None and found.samples != has:
        return "figures_samples"
    if not math.isfinite(found.loss) or found.loss < 0:
        return "figures_loss"
    # A sequence has an answer per element, a regression none.
    if found.answers % found.samples or (found.correct or 0) > found.answers:
        return "figures_counts"
    return ""
