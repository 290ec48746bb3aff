"""When faults fire and heal: a pure core that reads the coordinator's history.

`handle(event, now)` and `tick(now)` return `Apply` and `Heal` actions; whoever owns the machines (hostd, or
the process runtime) executes them. The clock is CLOCK_MONOTONIC of the host, the same that stamps the
history, so lateness is the time from the moment the trigger became true (in the coordinator's stamps) to the
moment the action was handed out.

Trigger semantics
-----------------
- `at_s`: seconds after the first `round_opened`.
- `round N training`: while round N (the making of version N) is open, a target of the fault is in phase `training` of
  some task; where a schedule lets tasks outlive their round, of an older one too. A target that is no device (the
  broker) counts as hit when any device trains.
- `round N collecting`: the first update offer while round N is open is in, or half of those that were given a task in
  it have begun to train, and a target that is a device has an open task: a fault meant to hit mid-round must overlap a
  task of its target.
- `round N closed`: `round_closed` of round N.
- `P % of bytes sent`: of an update that a target offered, so much has left the device, by the packet counters of its
  link, while the coordinator does not have it whole. Counters are read every turn, so an upload of less than two
  turns (0.1 s) may be over before it is seen; then the next upload is waited for.
- `N updates merged`, `version N`: the commit with which the number is reached.

A target that was not chosen for round N, or had finished before the fault could hit it, does not make the
fault vanish: the trigger stays armed for the first later round in which it can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from history.events import Event
from topology.plan import FaultPlan, Trigger

TRAINING = "training"
# What an agent reports once it has begun to train (wire.messages.Progress); all of them count for
# `collecting`.
TRAINED_PHASES = frozenset({TRAINING, "encoding", "waiting", "uploading"})
# Targets that never hold a task: a fault of theirs overlaps the work of whoever has one.
SERVICES = frozenset({"broker", "coordinator", "hostd"})


@dataclass(frozen=True)
class Apply:
    """Do the fault now. `lateness_s`: trigger true to this action; `round` is the round it hits, if any is
    open.
    """

    fault: FaultPlan
    lateness_s: float
    round: int | None = None


@dataclass(frozen=True)
class Heal:
    """Undo the fault. `final`: the run is over or hostd ends, the scheduled time did not come."""

    fault: FaultPlan
    final: bool = False


@dataclass
class _Upload:
    """An update on its way: its size, and the device's counter when it was granted."""

    task: str
    bytes: int
    sent_before: int


@dataclass
class _Round:
    number: int
    cohort: set[str]  # agents that were given a task in it
    training: set[str] = field(default_factory=set)  # those of them seen training, whatever came after
    offered: bool = False
    closed: bool = False

    @property
    def collecting(self) -> bool:
        return self.offered or (bool(self.cohort) and 2 * len(self.training) >= len(self.cohort))


class FaultCore:
    """Decides; see the module's text. `done` are ids fired before a restart of the executor, never fired
    again.
    """

    def __init__(self, faults: Sequence[FaultPlan], *, done: Iterable[str] = ()) -> None:
        already = set(done)
        self._armed = [fault for fault in faults if fault.id not in already]
        self._heals: list[tuple[float, FaultPlan]] = []
        self._began_s: float | None = None
        self._rounds: dict[int, _Round] = {}
        self._task_agents: dict[str, tuple[str, int]] = {}  # open tasks -> agent, round
        self._training: set[str] = set()  # open tasks that are trained on now
        self._merged = self._version = 0
        self._offered: dict[str, int] = {}  # task -> bytes
        self._uploads: dict[str, _Upload] = {}  # device -> what it sends
        self._sent: dict[str, int] = {}  # device -> its counter when last looked at

    @property
    def armed(self) -> tuple[FaultPlan, ...]:
        return tuple(self._armed)

    @property
    def active(self) -> tuple[FaultPlan, ...]:
        """Applied and not healed; one without `heal_after_s` stays until `finish`."""
        return tuple(fault for _, fault in self._heals)

    def inject(self, fault: FaultPlan, now: float) -> Apply:
        """A fault by hand: it strikes at once and heals like any other."""
        return self._start(fault, now, now, max(self._open_rounds(), default=None))

    def heal_now(self, fault_id: str) -> Heal | None:
        """A heal by hand, before its time; None when no such fault is in force."""
        found = next((fault for _, fault in self._heals if fault.id == fault_id), None)
        if found is None:
            return None
        self._heals = [entry for entry in self._heals if entry[1].id != fault_id]
        return Heal(found)

    def watched(self) -> frozenset[str]:
        """Devices whose count of sent bytes an armed fault waits for: `sent` wants to be told."""
        waiting = (fault for fault in self._armed if fault.trigger.bytes_share is not None)
        return frozenset(target for fault in waiting for target in fault.targets)

    def sent(self, device: str, counter: int, now: float) -> list[Apply | Heal]:
        """How many bytes have left the device so far, by its link's counter; one that began anew knows no upload."""
        upload = self._uploads.get(device)
        if counter < self._sent.get(device, 0):
            self._uploads.pop(device, None)
            upload = None
        self._sent[device] = counter
        if upload is None or not upload.bytes:
            return []
        share = (counter - upload.sent_before) / upload.bytes
        number = self._task_agents.get(upload.task, ("", -1))[1]
        return [
            self._start(fault, now, now, number if number >= 0 else None)
            for fault in list(self._armed)
            if fault.trigger.bytes_share is not None
            and device in fault.targets
            and share >= fault.trigger.bytes_share
        ]

    def handle(self, event: Event, now: float) -> list[Apply | Heal]:
        """Take one event of the coordinator's history; events of other kinds are ignored."""
        rule = _RULES.get(event.event)
        if rule is None:
            return self.tick(now)
        rule(self, event)
        return self._fire(event.mono_s, now) + self._due_heals(now)

    def tick(self, now: float) -> list[Apply | Heal]:
        return self._fire_timed(now) + self._due_heals(now)

    def finish(self) -> list[Heal]:
        """The final heal: everything applied and not yet healed, latest first; nothing fires afterwards."""
        self._armed = []
        heals, self._heals = self._heals, []
        return [Heal(fault, final=True) for _, fault in reversed(heals)]

    # --- events ---------------------------------------------------------------------------------------------

    def _round_opened(self, event: Event) -> None:
        if self._began_s is None:
            self._began_s = event.mono_s
        number = _number(event.get("round"))
        cohort = event.get("cohort")
        names = frozenset(str(name) for name in cohort) if isinstance(cohort, list | tuple) else frozenset()
        # Two are kept: `closed` of the last one may fire a moment after the next was opened.
        self._rounds = {n: r for n, r in self._rounds.items() if n >= number - 1}
        self._rounds[number] = _Round(number, set(names))

    def _task_opened(self, event: Event) -> None:
        if self._began_s is None:
            self._began_s = event.mono_s
        number, agent, task = _number(event.get("round")), str(event.get("agent")), str(event.get("task"))
        self._task_agents[task] = (agent, number)
        if number in self._rounds:
            self._rounds[number].cohort.add(agent)

    def _task_progress(self, event: Event) -> None:
        task, phase = str(event.get("task")), event.get("phase")
        agent, number = self._task_agents.get(task, ("", -1))
        if phase in TRAINED_PHASES and number in self._rounds:
            self._rounds[number].training.add(agent)
        if phase == TRAINING and agent:
            self._training.add(task)
        else:
            self._training.discard(task)

    def _update_offered(self, event: Event) -> None:
        task = str(event.get("task"))
        self._offered[task] = _number(event.get("bytes"))
        self._training.discard(task)
        for number in self._open_rounds():
            self._rounds[number].offered = True

    def _update_granted(self, event: Event) -> None:
        task, agent = str(event.get("task")), str(event.get("agent"))
        size = max(0, self._offered.get(task, 0))
        self._uploads[agent] = _Upload(task, size, self._sent.get(agent, 0))

    def _update_received(self, event: Event) -> None:
        """Whole: what is sent from here on is no part of it."""
        self._uploads.pop(str(event.get("agent")), None)
        self._offered.pop(str(event.get("task")), None)

    def _version_committed(self, event: Event) -> None:
        updates = event.get("updates")
        self._merged += len(updates) if isinstance(updates, list | tuple) else 0
        self._version = max(self._version, _number(event.get("version")))

    def _task_closed(self, event: Event) -> None:
        task = str(event.get("task"))
        agent, _ = self._task_agents.pop(task, ("", -1))
        self._training.discard(task)
        self._offered.pop(task, None)
        upload = self._uploads.get(agent)
        if upload is not None and upload.task == task:
            del self._uploads[agent]

    def _round_closed(self, event: Event) -> None:
        current = self._rounds.get(_number(event.get("round")))
        if current is not None:
            current.closed = True

    # --- decisions ------------------------------------------------------------------------------------------

    def _fire(self, since: float, now: float) -> list[Apply | Heal]:
        fired: list[Apply | Heal] = list(self._fire_timed(now))
        for fault in list(self._armed):
            hit = self._hit_round(fault)
            if hit is not None:
                fired.append(self._start(fault, since, now, hit))
            elif self._reached(fault.trigger):
                fired.append(self._start(fault, since, now, max(self._open_rounds(), default=None)))
        return fired

    def _reached(self, trigger: Trigger) -> bool:
        if trigger.version is not None:
            return self._version >= trigger.version
        return trigger.updates_merged is not None and self._merged >= trigger.updates_merged

    def _open_rounds(self) -> list[int]:
        return [current.number for current in self._rounds.values() if not current.closed]

    def _fire_timed(self, now: float) -> list[Apply | Heal]:
        if self._began_s is None:
            return []
        fired: list[Apply | Heal] = []
        for fault in list(self._armed):
            if fault.trigger.at_s is not None and now >= self._began_s + fault.trigger.at_s:
                due = self._began_s + fault.trigger.at_s
                fired.append(self._start(fault, due, now, max(self._open_rounds(), default=None)))
        return fired

    def _start(self, fault: FaultPlan, since: float, now: float, number: int | None) -> Apply:
        self._armed = [other for other in self._armed if other.id != fault.id]
        heal_due = now + fault.heal_after_s if fault.heal_after_s is not None else float("inf")
        self._heals.append((heal_due, fault))
        return Apply(fault, max(0.0, now - since), number)

    def _due_heals(self, now: float) -> list[Apply | Heal]:
        due = sorted((entry for entry in self._heals if entry[0] <= now), key=lambda entry: entry[0])
        self._heals = [entry for entry in self._heals if entry[0] > now]
        return [Heal(fault) for _, fault in due]

    def _hit_round(self, fault: FaultPlan) -> int | None:
        trigger = fault.trigger
        if trigger.round is None:
            return None
        for number in sorted(self._rounds):
            if number >= trigger.round and self._holds(trigger, fault.targets, self._rounds[number]):
                return number
        return None

    def _holds(self, trigger: Trigger, targets: tuple[str, ...], current: _Round) -> bool:
        if trigger.state == "closed":
            return current.closed
        if current.closed:
            return False
        if trigger.state == "collecting":
            return current.collecting and self._hits(targets, self._task_agents)
        # `training`, and a bare `round N`, which means the same: somebody's work is hit.
        return self._hits(targets, self._training)

    def _hits(self, targets: tuple[str, ...], tasks: Iterable[str]) -> bool:
        """Whether one of these tasks is a target's; the broker, the coordinator and hostd meet everybody's."""
        agents = {self._task_agents[task][0] for task in tasks if task in self._task_agents}
        return bool(agents) and (frozenset(targets) <= SERVICES or not agents.isdisjoint(targets))


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1


_RULES: dict[str, Callable[[FaultCore, Event], None]] = {
    "round_opened": FaultCore._round_opened,
    "task_opened": FaultCore._task_opened,
    "task_progress": FaultCore._task_progress,
    "update_offered": FaultCore._update_offered,
    "update_granted": FaultCore._update_granted,
    "update_received": FaultCore._update_received,
    "version_committed": FaultCore._version_committed,
    "task_closed": FaultCore._task_closed,
    "round_closed": FaultCore._round_closed,
}
