"""A broker that loses, doubles and reorders messages, and forgets everything when it restarts."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from simulation.clock import Clock
from simulation.habits import Habits

SESSION_MESSAGES_MAX = 100  # mosquitto's default for a client that is away
WILL_DELAY_S = 5.0
RECONNECT_S = (1.0, 4.0)
ECHO_S = (0.5, 30.0)


class Packet(NamedTuple):
    topic: str
    payload: bytes


class Peer:
    """What a client is told. All of them are called in virtual time, never from within a call of the client."""

    def connected(self, session_present: bool) -> None: ...
    def disconnected(self) -> None: ...
    def arrived(self, packet: Packet) -> None: ...
    def confirmed(self, mid: int) -> None: ...


class Session:
    """What the broker knows of a client."""

    def __init__(self) -> None:
        self.filters: dict[str, None] = {}
        self.waiting: list[Packet] = []


class Connection:
    """One life of a client's connection. Bytes on their way when it ends may still arrive."""

    def __init__(self, broker: Broker, name: str, peer: Peer, will: Packet | None) -> None:
        self.broker, self.name, self.peer, self.will = broker, name, peer, will
        self.alive = True
        self._mids = 0
        self._last_up = self._last_down = 0.0

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> int | None:
        if not self.alive:
            return None
        self._mids += 1
        mid = self._mids
        self._up(lambda: self.broker.take(self, mid, Packet(topic, payload), retain))
        return mid

    def subscribe(self, filters: list[str]) -> None:
        self._up(lambda: self.broker.subscribe(self, filters))

    def unsubscribe(self, filters: list[str]) -> None:
        self._up(lambda: self.broker.unsubscribe(self, filters))

    def _up(self, action: Callable[[], None]) -> None:
        moment = self._last_up = max(self._last_up, self.broker.clock.now + self.broker.latency())
        self.broker.clock.at(moment, action)

    def down(self, action: Callable[[], None], extra_s: float = 0.0) -> None:
        moment = max(self._last_down, self.broker.clock.now + self.broker.latency())
        if extra_s == 0.0:
            self._last_down = moment
        self.broker.clock.at(moment + extra_s, lambda: action() if self.alive else None)


class Broker:
    def __init__(self, clock: Clock, rng: Random, habits: Habits) -> None:
        self.clock, self.rng, self.habits = clock, rng, habits
        self.epoch = 0
        self.calm = False
        self._retained: dict[str, bytes] = {}
        self._sessions: dict[str, Session] = {}
        self._connections: dict[str, Connection] = {}
        self._last_tasks: dict[str, Packet] = {}  # by client, for a stale copy that is aimed

    def latency(self) -> float:
        return self.rng.uniform(*self.habits.latency_s)

    def _happens(self, probability: float) -> bool:
        return not self.calm and probability > 0 and self.rng.random() < probability

    # --- connections -----------------------------------------------------------------------------------------

    def connect(self, name: str, peer: Peer, will: Packet | None) -> Connection:
        """At once; the client hears of it after a round trip. A new connection takes the place of an old one."""
        old = self._connections.get(name)
        if old is not None:
            self.drop(old, tell=False)
        connection = self._connections[name] = Connection(self, name, peer, will)
        present = name in self._sessions
        session = self._sessions.setdefault(name, Session())
        waiting, session.waiting = session.waiting, []
        connection.down(lambda: peer.connected(present))
        for packet in waiting:
            self._deliver(connection, packet)
        return connection

    def drop(self, connection: Connection, *, tell: bool = True, will: bool = True) -> None:
        """The connection breaks. The will goes out unless its owner is back in time."""
        if not connection.alive:
            return
        connection.alive = False
        if self._connections.get(connection.name) is connection:
            del self._connections[connection.name]
        if tell:
            self.clock.later(self.latency(), connection.peer.disconnected)
        if will and connection.will is not None:
            epoch, last = self.epoch, connection.will
            self.clock.later(WILL_DELAY_S, lambda: self._last_will(connection.name, epoch, last))

    def _last_will(self, name: str, epoch: int, will: Packet) -> None:
        if epoch == self.epoch and name not in self._connections:
            self._route(will, retain=True)

    def restart(self) -> None:
        """Retained messages, sessions, wills: all gone."""
        self.epoch += 1
        self._retained.clear()
        self._sessions.clear()
        for connection in list(self._connections.values()):
            self.drop(connection, will=False)

    def connection_of(self, name: str) -> Connection | None:
        return self._connections.get(name)

    # --- messages --------------------------------------------------------------------------------------------

    def take(self, connection: Connection, mid: int, packet: Packet, retain: bool) -> None:
        # What was on its way when the connection died got through, or not.
        if not connection.alive and self.rng.random() < 0.5:
            return
        if connection.alive:
            connection.down(lambda: connection.peer.confirmed(mid))
        self._route(packet, retain)

    def _route(self, packet: Packet, retain: bool) -> None:
        if retain and packet.payload:
            self._retained[packet.topic] = packet.payload
        elif retain:
            self._retained.pop(packet.topic, None)
        for name, session in self._sessions.items():
            if not any(matches(wanted, packet.topic) for wanted in session.filters):
                continue
            connection = self._connections.get(name)
            if connection is not None:
                self._deliver(connection, packet)
            elif len(session.waiting) < SESSION_MESSAGES_MAX:
                session.waiting.append(packet)

    def _deliver(self, connection: Connection, packet: Packet) -> None:
        if self._happens(self.habits.lose):
            return
        for _ in range(2 if self._happens(self.habits.duplicate) else 1):
            extra_s = self.rng.uniform(0.0, 2.0) if self._happens(self.habits.reorder) else 0.0
            connection.down(lambda: connection.peer.arrived(packet), extra_s)
        if packet.topic.endswith("/task"):
            self._last_tasks[connection.name] = packet
        if self._happens(self.habits.echo):
            self.clock.later(self.rng.uniform(*ECHO_S), lambda: self._echo(connection.name, packet))

    def repeat_task(self, name: str) -> None:
        """A late copy of the last task that this client was sent."""
        if name in self._last_tasks and not self.calm:
            self._echo(name, self._last_tasks[name])

    def _echo(self, name: str, packet: Packet) -> None:
        connection = self._connections.get(name)
        if connection is not None:
            connection.down(lambda: connection.peer.arrived(packet))

    def subscribe(self, connection: Connection, filters: list[str]) -> None:
        session = self._sessions.get(connection.name)
        if session is None or not connection.alive:
            return
        session.filters.update(dict.fromkeys(filters))
        for topic, payload in list(self._retained.items()):
            if any(matches(wanted, topic) for wanted in filters):
                self._deliver(connection, Packet(topic, payload))

    def unsubscribe(self, connection: Connection, filters: list[str]) -> None:
        session = self._sessions.get(connection.name)
        if session is not None and connection.alive:
            for wanted in filters:
                session.filters.pop(wanted, None)


def matches(wanted: str, topic: str) -> bool:
    """Filters here are whole topics, or end in `/#`."""
    return topic == wanted or (wanted.endswith("/#") and topic.startswith(wanted[:-1]))
