"""What was seen of a run, held against its journal: the coordinator's history and those of the agents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from history.events import Event
from history.reader import UNREAD, Defect
from wire.topics import COORDINATOR

Rows = Callable[[str], list[tuple[Any, ...]]]


class Witnesses:
    """`rows` asks the journal, `note` is told of every contradiction.

    `controls`: by version, the sha256 of the control variate that its updates lead to.
    """

    def __init__(
        self, rows: Rows, note: Callable[[str], None], controls: Mapping[int, str] | None = None
    ) -> None:
        self._note, self._controls = note, controls or {}
        updates = rows("SELECT task, agent, sha256 FROM updates")
        self._kept: dict[Any, tuple[str, str]] = {task: (agent, sha) for task, agent, sha in updates}
        self._outcomes: dict[Any, str] = dict(rows("SELECT task, outcome FROM outcomes"))
        self._versions: dict[Any, str] = dict(rows("SELECT version, sha256 FROM versions"))
        self._witnessed: set[object] = set()  # tasks whose agent has a word of them

    def check_readable(self, defects: Sequence[Defect]) -> None:
        """A history that cannot be read bears no witness. A line that a kill cut off is no defect of the run, and where
        a file is longer than is read of it, whoever wrote it, the limit is ours: see `unverified`.
        """
        for defect in defects:
            if defect.kind not in ("cut", UNREAD):
                self._note(
                    f"the history of {defect.node or 'nobody'} has {defect.count} {defect.kind}: {defect.detail}"
                )

    def check_history(self, events: Sequence[Event]) -> int:
        """Returns how many acks were compared."""
        acked = 0
        for event in events:
            if (
                event.event in ("acked", "settled")
                and event.node == self._kept.get(event.get("task"), ("",))[0]
            ):
                self._witnessed.add(event.get("task"))
            if event.node == COORDINATOR and event.event == "version_committed":
                self._check_version(event)
            elif event.node == COORDINATOR and event.event == "version_published":
                self._check_published(event)
            elif event.node == COORDINATOR and event.event == "update_acked":
                self._check_own_ack(event)
            elif event.node != COORDINATOR and event.event == "acked":
                acked += 1
                self._check_ack(event)
            elif event.node != COORDINATOR and event.event == "settled":
                self._check_settled(event)
        return acked

    def unverified(self, defects: Sequence[Defect]) -> Iterator[str]:
        """What contradicts nothing and proves nothing: updates of which their own device has no word. It was killed,
        its disk is a new one, its file is too long to be read or was cut short: no journal can tell which.
        """
        for defect in defects:
            if defect.kind == UNREAD:
                who = f"the history of {defect.node}" if defect.node else "the histories"
                yield f"{who} cannot be held against the journal as a whole: {defect.detail}"
        updates = Counter(agent for agent, _ in self._kept.values())
        alone = Counter(agent for task, (agent, _) in self._kept.items() if task not in self._witnessed)
        for agent, count in sorted(alone.items()):
            of = f"{count} of the {updates[agent]} updates of {agent}"
            yield f"{of} cannot be held against its history: it has no word of them"

    def _check_version(self, event: Event) -> None:
        version = event.get("version")
        if self._versions.get(version) != event.get("sha256"):
            self._note(f"the history has version {version}, the journal another or none")

    def _check_published(self, event: Event) -> None:
        version = event.get("version")
        known = self._controls.get(version) if isinstance(version, int) else None
        if known is not None and event.get("control") != known:
            self._note(
                f"version {version} was published with a control variate that its updates do not lead to"
            )

    def _check_own_ack(self, event: Event) -> None:
        """What the coordinator says it acknowledged, also where the device's own history is gone."""
        task, agent = event.get("task"), event.get("agent")
        if self._kept.get(task) != (agent, event.get("sha256")):
            self._note(f"the history has the update of {task} by {agent} acked, the journal another or none")

    def _check_ack(self, event: Event) -> None:
        task, sha256 = event.get("task"), event.get("sha256")
        agent, kept = self._kept.get(task, ("", ""))
        if agent != event.node:
            self._note(f"{event.node} saw its update of {task} acked, the journal has none")
        elif sha256 is not None and sha256 != kept:
            self._note(f"{event.node} saw {str(sha256)[:12]} acked for {task}, the journal has {kept[:12]}")

    def _check_settled(self, event: Event) -> None:
        task, told = event.get("task"), event.get("outcome")
        if task in self._outcomes and told != self._outcomes[task]:
            self._note(
                f"{event.node} was told that {task} is {told}, the journal says {self._outcomes[task]}"
            )
        elif told == "merged" and task not in self._outcomes:
            self._note(f"{event.node} was told that {task} is merged, the journal has no outcome")
