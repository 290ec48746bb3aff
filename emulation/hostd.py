"""hostd: the one privileged service of a host. It shapes and verifies, opens gates, fires faults, watches
and heals.

One thread (`run`) turns every few hundredths of a second: the coordinator's new events go to the fault
core, whose actions are carried out; Docker's events go to the fleet; what has started anew is handed to a
second thread that brings it up (apply, measure: seconds), so that a fault never waits for a measurement.
What would pull the links out from under it, a death or a delay process to start again, waits for its end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import msgspec

from emulation.behaviours import HookFiles
from emulation.bringup import BringUp
from emulation.cgroup import Cgroup, CgroupError
from emulation.control import ControlServer
from emulation.docker_host import DockerHost, DockerProblem
from emulation.faults import REGISTRY as FAULTS
from emulation.faults.by_hand import ByHand, refusal
from emulation.faults.core import FaultCore, Heal
from emulation.faults.runner import FaultRunner
from emulation.fleet import BROKER, Died, Fleet, Node, Started
from emulation.lease import Lease, clear_run
from emulation.link_keeper import VANISHED, LinkKeeper
from emulation.links.base import Backend
from emulation.links.delay_client import DelayProcessError
from emulation.paths import RunPaths
from emulation.power.keeper import PowerKeeper
from emulation.probe import HostProbe
from emulation.run_delay import Counters, RunDelay, thread_delays
from emulation.undo import UndoFile
from history.reader import Tail
from history.writer import HistoryWriter
from topology.plan import FaultPlan, Plan
from topology.plan.faults import COORDINATOR, HOSTD

TURN_S = 0.05  # bounds the lateness of faults
# The fleet is looked at this often even if Docker's events say nothing (an inspection per container).
REFRESH_S = 5.0
SAMPLE_S = 5.0
AGENTS_EXIT_S = 20.0  # after `run_finished`: an agent settles, writes its history and disconnects
START_TURN_S = 0.2


class StartError(RuntimeError):
    """The run's containers did not come up, or hostd could not do its work; the text says whose fault it is."""


class Hostd:
    """`stopped` is asked every turn; true means: heal everything and end. When the lease lapses (the runner is dead),
    everything is healed too, and then the run's containers, networks and volumes are removed.
    """

    def __init__(
        self,
        plan: Plan,
        paths: RunPaths,
        docker: DockerHost,
        backend: Backend,
        history: HistoryWriter,
        stopped: Callable[[], bool],
        lease: Lease | None = None,
    ) -> None:
        self._plan, self._docker, self._backend, self._history = plan, docker, backend, history
        self._stopped, self._lease = stopped, lease or Lease(None)
        self._orphaned = False
        self._undo = UndoFile(paths.undo)
        self._fleet = Fleet(plan, docker)
        self._keeper = LinkKeeper(plan, backend, history, self._undo)
        self._bringup = BringUp(plan, paths, self._fleet, self._keeper, history)
        self._tail = Tail(paths.coordinator_history, COORDINATOR)
        self._runner = FaultRunner(
            FAULTS,
            plan.devices,
            docker,
            self._keeper,
            HookFiles(paths.nodes),
            history,
            self._undo,
            end_self=_end_self,
        )
        self._power = PowerKeeper(plan, paths, docker, self._keeper, history)
        self._delays: dict[str, RunDelay] = {}
        fired = _already_fired(Tail(paths.history, HOSTD))
        self._faults = FaultCore(plan.faults, done=fired)
        self._by_hand = ByHand(
            ControlServer(paths.own, paths.plan.stat().st_uid),
            self._faults,
            history,
            refuse=partial(refusal, plan, FAULTS),
            arm=self._runner.arm,
            taken=fired,
        )
        self._runner.on_seen = self._by_hand.settled
        self._bringup.slowed = self._slowed
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="bringup")
        self._job: Future[None] | None = None
        self._pending: set[str] = set()
        self._dead: list[Node] = []  # their links are taken away when nothing is being brought up
        self._finished_at: float | None = None
        self._next_refresh = self._next_sample = 0.0
        self._checked = 0

    def run(self, host: HostProbe) -> None:
        """The whole life. Raises StartError; whatever happens, what was changed is healed before it returns."""
        began, reason = time.monotonic(), "hostd failed"
        try:
            self._record_probe(host, self._backend.start())
            self._docker.watch()
            taking_over = bool(self._undo.open_entries)
            if taking_over:
                self._take_over()
            else:
                self._await_containers()
            if self._over():
                reason = "the runner is dead" if self._orphaned else "stopped"
                return
            if not taking_over:
                self._bringup.all_at_once()
            self._runner.arm(self._faults.armed)
            devices, wall_s = len(self._plan.devices), round(time.monotonic() - began, 3)
            self._keeper.start_varying(time.monotonic())
            self._history.append("ready", devices=devices, wall_s=wall_s, durable=True)
            reason = self._watch()
        except (*VANISHED, CgroupError, DelayProcessError, DockerProblem) as error:
            raise StartError(str(error)) from error
        finally:
            self._end(reason)

    # --- the start ------------------------------------------------------------------------------------------

    def _record_probe(self, host: HostProbe, runs: str) -> None:
        self._history.append(
            "probed",
            kernel=host.kernel,
            docker=host.docker,
            cgroup=host.cgroup,
            backend=self._backend.name,
            reason=host.reason,
            checks={**host.checks, "link process": runs},
            durable=True,
        )

    def _take_over(self) -> None:
        """A hostd before this one died: its faults are healed, its links put in force again on whoever still runs.

        The links are in use, so they are probed only, and nobody burns; the gap is on record as a lapse.
        """
        for number, entry in list(self._undo.open_entries.items()):
            if entry["kind"] == "fault":
                fault = msgspec.convert(entry["plan"], FaultPlan)
                self._runner.adopt(number, fault)
                self._runner.heal(Heal(fault, final=True))
            else:
                detail = "hostd was away: delays, jitter and loss were not in force (queue bypass)"
                self._history.append(
                    "lapse", what="hostd_absent", node=str(entry.get("device", "")), detail=detail
                )
                self._undo.done(number)
        self._note(self._fleet.refresh())

    def _await_containers(self) -> None:
        deadline = time.monotonic() + self._plan.start_timeout_s
        while not self._over():
            self._note(self._fleet.refresh())
            missing = self._fleet.missing()
            if not missing:
                self._pending.clear()
                return
            self._bringup.apply_early()
            if time.monotonic() > deadline:
                raise StartError(
                    f"waited {self._plan.start_timeout_s:.0f} s for the run's containers; missing: "
                    f"{'; '.join(missing)}. `docker logs` of those says why they did not start"
                )
            self._docker.changed(START_TURN_S)

    # --- the run --------------------------------------------------------------------------------------------

    def _watch(self) -> str:
        """Turn until the run is over; why it ended."""
        while not self._over():
            now = time.monotonic()
            self._coordinator_events(now)
            self._keeper.vary(now)
            if self._docker.changed(TURN_S) or now >= self._next_refresh:
                self._next_refresh = now + REFRESH_S
                self._note(self._fleet.refresh())
            self._start_pending()
            self._power.turn(self._fleet.running, dict(self._fleet.containers), now)
            self._revive()
            if now >= self._next_sample and self._job is None:
                self._next_sample = now + SAMPLE_S
                self._sample()
            self._history.sync()
            if self._finished_at is not None and self._all_gone(now):
                return "run finished"
        return "the runner is dead" if self._orphaned else "stopped"

    def _over(self) -> bool:
        """Whether to end: told so, or the lease has lapsed. Looked at every turn, which is one call of the kernel."""
        self._orphaned = self._orphaned or self._lease.lapsed()
        return self._orphaned or self._stopped()

    def _coordinator_events(self, now: float) -> None:
        for event in self._tail.poll():
            self._power.handle(event)
            for action in self._faults.handle(event, now):
                self._runner.perform(action)
            if event.event == "run_finished" and self._finished_at is None:
                self._finished_at = now
        for device in self._faults.watched():
            counter = self._keeper.sent_bytes(device)
            if counter is not None:
                for action in self._faults.sent(device, counter, time.monotonic()):
                    self._runner.perform(action)
        for action in self._by_hand.poll(time.monotonic()) + self._faults.tick(time.monotonic()):
            self._runner.perform(action)
        self._runner.tick()

    def _note(self, changes: list[Started | Died]) -> None:
        for change in changes:
            if isinstance(change, Died):
                last = change.last
                self._history.append(
                    "container_died", node=last.name, boot=last.token, exit_code=change.exit_code
                )
                if self._bringup_knows(last.name):
                    self._dead.append(last)
            else:
                node = change.node
                self._history.append(
                    "container_started", node=node.name, boot=node.token, pid=node.container.pid
                )
                if self._bringup_knows(node.name):
                    self._pending.add(node.name)
        self._bury()

    def _bury(self) -> None:
        """Before anybody is brought up again: the link of a boot that has ended is in the way of the next."""
        while self._dead and self._job is None:
            self._keeper.died(self._dead.pop(0))

    def _bringup_knows(self, name: str) -> bool:
        return name == BROKER or any(device.name == name for device in self._plan.devices)

    def _start_pending(self) -> None:
        if self._job is not None and self._job.done():
            self._wait_for_job()
        self._bury()
        if self._job is None and self._pending and self._finished_at is None:
            names, self._pending = self._pending, set()
            self._job = self._worker.submit(self._bringup.again, names)

    def _revive(self) -> None:
        if self._job is None and not self._backend.alive():
            self._keeper.revive()

    def _wait_for_job(self) -> None:
        if self._job is not None:
            job, self._job = self._job, None
            job.result()

    def _all_gone(self, now: float) -> bool:
        assert self._finished_at is not None
        return not self._still_ending() or now - self._finished_at > AGENTS_EXIT_S

    def _still_ending(self) -> bool:
        """Agents that have not said goodbye, and the coordinator, which waits for them."""
        coordinator = self._fleet.containers.get("coordinator")
        return bool(self._fleet.agents_running()) or (coordinator is not None and coordinator.running)

    def _sample(self) -> None:
        """CPU of every device, counters of every link, and one link read back in full each time."""
        for name in self._keeper.in_force:
            node = self._fleet.running.get(name)
            if node is None:
                continue
            try:
                self._cpu_sample(name, Cgroup.of_pid(node.container.pid))
                self._keeper.sample(name)
            except (*VANISHED, CgroupError, DelayProcessError):
                continue  # it ended meanwhile, or the read-back below finds what is gone
        names = [name for name in self._keeper.in_force if name in self._fleet.running]
        if names:
            self._checked += 1
            self._check(names[self._checked % len(names)])

    def _slowed(self) -> list[str]:
        slow = (fault for fault in self._runner.in_force if fault.kind == "cpu_slowdown")
        return [target for fault in slow for target in fault.targets]

    def _check(self, name: str) -> None:
        try:
            self._keeper.check(name)
            self._bringup.check_written(self._plan.device(name))
        except VANISHED as error:
            self._note(self._fleet.refresh())
            if name in self._fleet.running:  # it is there and its link cannot be read: say so
                self._history.append("lapse", what="link_unreadable", node=name, detail=str(error)[:300])

    def _cpu_sample(self, name: str, group: Cgroup) -> None:
        throttling = group.throttling()
        delay = self._delays.setdefault(name, RunDelay())
        self._history.append(
            "cpu_sample",
            device=name,
            usage_s=round(group.usage_s(), 4),
            throttled_s=round(throttling.throttled_s, 4),
            periods=throttling.periods,
            throttled_periods=throttling.throttled_periods,
            run_delay_s=round(delay.take(thread_delays(group), Counters.of(group)), 4),
        )

    # --- the end --------------------------------------------------------------------------------------------

    def _end(self, reason: str) -> None:
        """The final heal always runs: faults, then links, then what drives them. What one step cannot do is on record,
        as far as the disk takes it, and keeps no other from its turn.
        """
        self._history.let_lines_go()
        self._try("bringup_failed", self._wait_for_job)
        run_over = self._finished_at is not None or self._over()
        for heal in self._faults.finish():
            self._try("heal_failed", partial(self._runner.heal, heal, run_over=run_over))
        self._try("heal_failed", self._power.finish)
        self._try("not_answered", self._by_hand.close)
        self._try("clear_failed", self._keeper.clear_all)
        self._worker.shutdown(wait=True)
        self._try("clear_failed", self._backend.stop)
        self._history.append("healed_all", reason=reason, left=self._left(), durable=True)
        if self._finished_at is not None:
            self._dismiss_broker()
        self._undo.close()
        if self._orphaned:
            self._clear_host()

    def _try(self, what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next step may be the heal of a paused device
            detail = f"{type(error).__name__}: {error}"[:300]
            self._history.append("lapse", what=what, node=HOSTD, detail=detail)

    def _left(self) -> list[str]:
        """What should not be there any more: read back, not remembered."""
        found = list(self._keeper.left)
        found += [f"undo entry {number}: {entry}"[:200] for number, entry in self._undo.open_entries.items()]
        with contextlib.suppress(DockerProblem):
            states = self._docker.containers().values()
            found += [f"{container.node} is paused" for container in states if container.status == "paused"]
        return found

    def _clear_host(self) -> None:
        """Nobody else is there to do it. This ends hostd's own container, too, so nothing comes after it."""
        self._history.append("orphaned", durable=True)
        left = clear_run(self._docker)
        if left:
            self._history.append("lapse", what="not_removed", node="hostd", detail="; ".join(left)[:500])
            self._history.sync()

    def _dismiss_broker(self) -> None:
        """Everybody else ends by itself when the run is over; with the broker gone, `docker compose up` ends too."""
        broker = self._fleet.containers.get(BROKER)
        if broker is not None and broker.running:
            # Whoever drives the run may have removed it a moment ago.
            with contextlib.suppress(DockerProblem):
                self._docker.stop(broker)


def _end_self() -> None:
    """As a crash would: nothing is closed, nothing is said. Docker starts hostd again."""
    os.kill(os.getpid(), signal.SIGKILL)


def _already_fired(own: Tail) -> list[str]:
    """Faults a hostd before this one has fired, from this node's own history; one that contradicted another when it was
    due is over too.
    """
    fired: list[str] = []
    while events := own.poll():
        fired += [str(e["fault"]) for e in events if e.event in ("fault_applied", "fault_verified")]
    return list(dict.fromkeys(fired))
