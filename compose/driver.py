"""Drive one prepared run to its end: start, watch, collect, tear down. The same for both runtimes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from compose import signals
from compose.errors import EnvironmentProblem, Interrupted
from compose.runtime import NodeState, Runtime
from history.events import Event
from history.reader import Follower
from history.writer import HistoryWriter
from topology.plan import Plan
from wire.topics import COORDINATOR

POLL_S = 0.25  # history is read four times a second: faster than a person reads, cheap beside the run
NODES_EVERY_S = 1.0  # the state of containers costs a call to the engine
AFTER_COORDINATOR_S = 40.0  # hostd waits up to 20 s for the agents, then heals
# A restart by Docker's policy, by hand or by a fault takes a second or two; who stays away longer has ended for good.
DEAD_GRACE_S = 10.0
FAULT_NODES = ("hostd", "processes")  # who fires faults in the docker and in the process runtime
PER_ROUND_SLACK_S = 30.0  # evaluation, publishing, and deadline extensions that the coordinator itself bounds


class Watcher(Protocol):
    """Who shows the run while it goes on (edgerig.progress)."""

    def feed(self, event: Event) -> None: ...
    def tick(self, now: float) -> None: ...


def run_timeout_s(plan: Plan) -> float:
    """No run outlives this: bring-up, then four deadlines a round (the coordinator extends a round at most thrice)."""
    rounds = plan.training.rounds * (4 * plan.policy.deadline_s + PER_ROUND_SLACK_S)
    return plan.start_timeout_s * 2 + rounds + AFTER_COORDINATOR_S


class Driver:
    """One run from `start` to torn down. `watch` returns when the coordinator has ended and hostd has healed."""

    def __init__(
        self,
        runtime: Runtime,
        plan: Plan,
        root: Path,
        watcher: Watcher,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], Any] = time.sleep,
    ) -> None:
        self._runtime, self._plan, self._root, self._watcher = runtime, plan, root, watcher
        self._clock, self._wait = clock, wait
        self._follower = Follower(root)
        self.writer = HistoryWriter(root / "nodes" / "runner" / "history.jsonl", "runner")
        self._finished = False  # run_finished was read
        self._dead_since: dict[str, float] = {}
        self._under_fault: dict[str, set[str]] = {}  # fault → what it has hit and not yet healed

    def run(self) -> None:
        """Raises EnvironmentProblem or Interrupted; what was started is always torn down before it returns."""
        began, inbox = self._clock(), signals.of_this_thread()
        held, interrupted = inbox.held, None
        try:
            self._runtime.start()
            self.writer.append("phase", name="start", wall_s=round(self._clock() - began, 3))
            self.writer.append("up", **self._runtime.facts(), durable=True)
            self.watch()
            self.writer.append("down", reason="finished", durable=True)
        except Interrupted as error:
            interrupted = error
            self.writer.append("interrupted", signal=error.signal_name, durable=True)
            raise
        except EnvironmentProblem as error:
            self.writer.append("down", reason=error.what[:500], durable=True)
            raise
        finally:
            inbox.held = True  # a plain store: no signal comes between the end of the run and its teardown
            try:
                left = self._tear_down()
                if interrupted is not None:
                    interrupted.left = left
            finally:
                inbox.held = held

    def _tear_down(self) -> list[str] | None:
        """What is left; None where nobody could be asked."""
        left = None
        try:
            self._runtime.save_logs(self._root / "logs")
        finally:
            self._runtime.stop()
            with suppress(
                EnvironmentProblem
            ):  # an engine that has gone cannot be asked; the check says `unknown`
                left = self._runtime.left()
                self.writer.append("cleaned", left=left)
            self._pump()
            self.writer.close()
        return left

    def watch(self) -> None:
        deadline = self._clock() + run_timeout_s(self._plan)
        nodes_due = ended_at = None
        while True:
            signals.check()
            self._pump()
            now = self._clock()
            if nodes_due is None or now >= nodes_due:
                nodes_due = now + NODES_EVERY_S
                nodes = {node.name: node for node in self._runtime.nodes()}
                self._check(nodes, now)
                if _is_over(nodes):
                    ended_at = ended_at if ended_at is not None else now
                    if not _still_running(nodes, "hostd") or now - ended_at > AFTER_COORDINATOR_S:
                        return
            if now > deadline:
                raise EnvironmentProblem(
                    "the run did not end in time",
                    awaited=f"{run_timeout_s(self._plan):.0f} s",
                    log=self._tail("coordinator"),
                )
            self._watcher.tick(now)
            self._wait(POLL_S)

    def _pump(self) -> None:
        events = self._follower.poll()
        for event in events:
            self._note(event)
            self._watcher.feed(event)
        self._runtime.handle(events, self._clock())

    def _note(self, event: Event) -> None:
        """A device's file says what the device likes: only services are believed about the run and its faults."""
        if event.node == COORDINATOR:
            self._finished = self._finished or event.event == "run_finished"
        elif event.node in FAULT_NODES and event.event == "fault_applied":
            targets = {str(name) for name in _listed(event.get("targets"))}
            self._under_fault[str(event.get("fault"))] = targets
        elif event.node in FAULT_NODES and event.event == "fault_healed":
            self._under_fault.pop(str(event.get("fault")), None)

    def _check(self, nodes: dict[str, NodeState], now: float) -> None:
        """A service that ended on its own before the run did is the reason, not the silence that follows."""
        excused = set().union(*self._under_fault.values())
        for node in nodes.values():
            if self._finished or node.name in excused or not _has_failed(node):
                self._dead_since.pop(node.name, None)
                continue
            if now - self._dead_since.setdefault(node.name, now) < DEAD_GRACE_S:
                continue
            raise EnvironmentProblem(
                f"{node.name} ended with exit code {node.exit_code} before the run was over",
                awaited="the coordinator's `run_finished`",
                log=self._tail(node.name),
                hint=f"its whole output is in {self._root}/logs/{node.name}.log",
            )

    def _tail(self, node: str) -> list[str]:
        return self._runtime.log_tail(node)


def _has_failed(node: NodeState) -> bool:
    """Agents come and go; the services of a run end with 0 when it is over, the broker not at all."""
    if node.running or node.role in ("agent", "init", "report"):
        return False
    return node.role == "broker" or node.exit_code not in (0, None)


def _is_over(nodes: dict[str, NodeState]) -> bool:
    """The coordinator has ended with 0, which it does when the run is over (a crash is another number)."""
    return any(
        node.role == "coordinator" and not node.running and node.exit_code == 0 for node in nodes.values()
    )


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _still_running(nodes: dict[str, NodeState], role: str) -> bool:
    return any(node.role == role and node.running for node in nodes.values())
