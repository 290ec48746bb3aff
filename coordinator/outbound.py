"""The core's actions towards the network: control messages, tasks, grants, live objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from coordinator import actions as a
from coordinator.config import CoordinatorConfig
from coordinator.controls import dtype_of
from coordinator.inbound import Inbound
from coordinator.live import LiveModels, Retained
from wire import messages as m
from wire import topics
from wire.codecs.model import Patterns
from wire.messages import ObjectRef

# An interrupted change of version leaves at most a whole version, its c and a delta or two behind.
WITHDRAWN_KEPT = 5


class Publisher(Protocol):
    """What this needs of a `mqtt.BrokerLink`."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool: ...
    def say_online(self) -> None: ...


class Outbound:
    """`full` is told when the queue to the broker has no room; hellos and nudges repair what was not sent."""

    def __init__(
        self,
        config: CoordinatorConfig,
        link: Publisher,
        inbound: Inbound,
        live: LiveModels,
        full: Callable[[str], None],
    ) -> None:
        self._config, self._link, self._inbound, self._live, self._full = config, link, inbound, live, full
        self._withdrawn: deque[ObjectRef] = deque(maxlen=WITHDRAWN_KEPT)

    def _publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        if not self._link.publish(topic, payload, retain=retain):
            self._full(topic)

    def send(self, action: a.Send) -> None:
        kind = type(action.message).__name__.lower()
        self._publish(topics.down(self._config.run, action.agent, kind), m.encode(action.message))

    def send_task(self, action: a.SendTask) -> None:
        ref = self._live.ref_of(action.version)
        self._inbound.expect(action.agent, action.task, action.inline_bytes)
        task = m.Task(
            task=action.task,
            round=action.round,
            model=ref,
            graph=self._live.graph.ref,
            train=self._config.train_for(action.round, action.version),
            uplink=action.uplink,
            seed=action.seed,
            deadline_s=action.deadline_s,
            inline_bytes=action.inline_bytes,
            control=None if action.probe or action.survey else self._control(action.version),
            probe=action.probe,
            survey=action.survey,
        )
        self._publish(topics.down(self._config.run, action.agent, "task"), m.encode(task))

    def _control(self, version: int) -> m.ControlRef | None:
        if self._config.control is None:
            return None
        ref, dtype = self._live.control_of(version), dtype_of(self._live.dtype)
        return m.ControlRef(object=ref, dtype=dtype, chain=self._config.control)

    def send_grant(self, action: a.SendGrant) -> None:
        missing = self._inbound.grant(action.agent, action.task, action.sha256, action.bytes)
        cut = self._inbound.geometry(action.agent, action.task, action.sha256) or action.chunk_bytes
        grant = m.Grant(
            task=action.task,
            sha256=action.sha256,
            chunk_bytes=cut,
            window_bytes=max(action.window_bytes, cut),
            missing=missing,
        )
        self._publish(topics.down(self._config.run, action.agent, "grant"), m.encode(grant))

    @property
    def current(self) -> int:
        """The version tasks are sent with; -1 before the first."""
        return self._live.version

    # --- live objects ----------------------------------------------------------------------------------------

    def make_current(
        self,
        version: int,
        patterns: Patterns,
        *,
        keep: Collection[int] = (),
        announce: bool = True,
        control: Patterns | None = None,
    ) -> list[Retained]:
        """Publish a version beside those in `keep`, withdraw others; returns what was published.

        `announce=False` while older versions are only walked through after a restart: withdrawing is still right.
        """
        change = self._live.advance(version, patterns, keep, control)
        for ref in change.withdraw:
            self._withdraw(ref)
        if announce:
            self._put(change.publish)
        return list(change.publish)

    def withdraw(self, version: int) -> None:
        """An older version that no task names any more."""
        for ref in self._live.withdraw(version):
            self._withdraw(ref)

    def republish(self) -> None:
        """After a connect. What was withdrawn lately goes again: that may not have reached the broker either."""
        self._link.say_online()
        for ref in self._withdrawn:
            self._clear(ref)
        self._put(self._live.everything())

    def _put(self, objects: Iterable[Retained]) -> None:
        for item in objects:
            for index, chunk in enumerate(item.chunks):
                self._publish(topics.model(self._config.run, item.ref.name, index), chunk, retain=True)

    def _withdraw(self, ref: ObjectRef) -> None:
        self._withdrawn.append(ref)
        self._clear(ref)

    def _clear(self, ref: ObjectRef) -> None:
        for index in range(ref.chunks):
            self._publish(topics.model(self._config.run, ref.name, index), b"", retain=True)
