"""One turn of the core: the state, the moment and the actions decided so far. The parts of the core work on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge_agent import actions as a
from edge_agent.limits import Limits
from edge_agent.state import AgentState, Ended
from wire import messages as m

Upward = m.Hello | m.Offer | m.Progress | m.Failed | m.Probed | m.Surveyed | m.Ask


class Turn:
    def __init__(
        self, state: AgentState, limits: Limits, power: Callable[[], m.Power | None] = lambda: None
    ) -> None:
        self.state, self.limits, self.power = state, limits, power
        self.now = 0.0
        self.actions: list[a.Action] = []

    def begin(self, now: float) -> None:
        self.now, self.actions = now, []

    def emit(self, action: a.Action) -> None:
        self.actions.append(action)

    def send(self, message: Upward) -> None:
        """Without a connection nothing is queued: the hello of the next one says everything anew."""
        if self.state.online:
            self.emit(a.Send(message=message))

    def record(self, event: str, **fields: Any) -> None:
        self.emit(a.Record(event=event, fields=fields))

    def refuse(self, kind: str, reason: str) -> None:
        """A message that makes no sense here: counted, recorded the first time, never more than that."""
        count = self.state.refused.get(reason, 0) + 1
        self.state.refused[reason] = count
        if count == 1:
            self.record("message_refused", topic=kind, reason=reason)

    def remember_ended(
        self, task: str, kind: str, reason: str, answer: m.Probed | m.Surveyed | None = None
    ) -> None:
        ended = self.state.ended
        ended.pop(task, None)
        while len(ended) >= self.limits.done_max:
            del ended[next(iter(ended))]
        ended[task] = Ended(kind, reason[:512], answer)
        self.state.story.append(f"{self.now:.3f} {task}: {kind}: {reason[:120]}")

    def progress(self, task: str, phase: str, done: int = 0, total: int = 0) -> None:
        """QoS 0; the callers see to it that it is one a second and one per change of phase."""
        self.state.progress_at = self.now + self.limits.progress_every_s
        self.send(m.Progress(task=task, phase=phase, done=done, total=total))  # type: ignore[arg-type]

    @property
    def progress_due(self) -> bool:
        return self.now >= self.state.progress_at
