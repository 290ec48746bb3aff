"""Links of the run: put in force, read back, measured, watched, cleared; every step goes into the history."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

from emulation.commands import CommandError
from emulation.courses import Courses, varying
from emulation.cpu import host_busy_s
from emulation.fleet import BROKER, Node
from emulation.judge import Verified
from emulation.links import cut
from emulation.links.base import DIRECTIONS, Backend, Direction, LinkEnds
from emulation.links.delay_client import DelayProcessError
from emulation.links.nfnetlink import QueueError
from emulation.measure import LinkMeasurer
from emulation.netns import NamespaceError, Netns, interface_by_index, interface_with, read_sysctl
from emulation.undo import UndoFile
from history.writer import HistoryWriter
from topology.plan import DevicePlan, Link, Plan, Shape

# What goes wrong when a container ends while its link is worked on; its next boot starts afresh.
VANISHED = (NamespaceError, CommandError, LookupError, QueueError, OSError)
# Something else on the host can spoil a measurement, never improve it: links out of tolerance are measured again.
MEASURE_ATTEMPTS = 3
NET = Path("/sys/class/net")
CLEAR = Link(name="clear", up=Shape(), down=Shape())
CONGESTION = "net.ipv4.tcp_congestion_control"


class LinkKeeper:
    """Bringing up (one thread) and faults and watching (another) both come here: what changes a link holds the lock.

    Measuring does not: it takes seconds, changes nothing, and what vanishes meanwhile raises.
    """

    def __init__(self, plan: Plan, backend: Backend, history: HistoryWriter, undo: UndoFile) -> None:
        self._plan, self._backend, self._history, self._undo = plan, backend, history, undo
        self._host = Netns.own()
        self._queues = {device.name: index + 1 for index, device in enumerate(plan.devices)}
        self._ends: dict[str, LinkEnds] = {}
        self._links: dict[str, Link] = {device.name: device.link for device in plan.devices}
        self._undo_numbers: dict[str, int] = {}
        self._measurer = LinkMeasurer(self._measured_counters, loses_after_rate=backend.loses_after_rate)
        self._courses = Courses(self._links)
        self._lapsed: set[tuple[str, str]] = set()
        self._cuts: dict[str, tuple[Direction, ...]] = {}
        self._lock = threading.RLock()
        self.left: list[str] = []  # of links that were taken away, what was still there afterwards

    @property
    def in_force(self) -> list[str]:
        return list(self._ends)

    def link(self, device: str) -> Link:
        """What the device's link is to be at the moment (a fault may have changed it)."""
        return self._links[device]

    def planned(self, device: str) -> Link:
        return self._plan.device(device).link

    def apply(self, device: DevicePlan, node: Node, broker: Node) -> None:
        """Put the device's link in force for these boots and read it back. Raises one of VANISHED."""
        with self._lock:
            self._apply(device, node, broker)

    def _apply(self, device: DevicePlan, node: Node, broker: Node) -> None:
        ends = self._find(device, node, broker)
        fields = {"device": device.name, "host_interface": ends.host_interface, "boot": node.token}
        old = self._undo_numbers.pop(device.name, None)
        self._undo_numbers[device.name] = self._undo.begin("link", fields)
        if old is not None:
            self._undo.done(old)
        link = self._courses.now(device.name)
        self._backend.apply(ends, link)
        self._ends[device.name] = ends
        readback = self._backend.verify(ends, link)
        self._history.append(
            "link_applied",
            device=device.name,
            device_boot=node.token,
            backend=self._backend.name,
            requested={"up": link.up, "down": link.down},
            readback=readback.values,
            mismatches=list(readback.mismatches),
            congestion=read_sysctl(ends.device_ns, CONGESTION),
        )
        self._lapses(device.name, "link_readback", readback.mismatches)
        self._check_congestion(device.name, ends)
        if device.name in self._cuts:  # a partition outlives the restart of either end
            cut.cut(ends, self._cuts[device.name])

    # --- what faults do --------------------------------------------------------------------------------------

    def change(self, device: str, link: Link) -> list[str]:
        """Another shape on a live link; on one that is down it waits for its next boot. What is read back wrong."""
        with self._lock:
            self._links[device] = link
            link = self._courses.follow(device, link)
            if device not in self._ends:
                return []
            self._backend.change(self._ends[device], link)
            found = self._backend.verify(self._ends[device], link)
            self._history.append(
                "link_applied",
                device=device,
                backend=self._backend.name,
                requested={"up": link.up, "down": link.down},
                readback=found.values,
                mismatches=list(found.mismatches),
                changed=True,
            )
            return list(found.mismatches)

    def cut(self, device: str, ways: tuple[Direction, ...]) -> None:
        with self._lock:
            self._cuts[device] = ways
            if device in self._ends:
                cut.cut(self._ends[device], ways)

    def mend(self, device: str) -> None:
        with self._lock:
            self._cuts.pop(device, None)
            if device in self._ends:
                cut.mend(self._ends[device])

    def passes(self, device: str, way: Direction) -> bool:
        """A link that is down passes nothing."""
        ends = self._ends.get(device)
        return ends is not None and cut.passes(ends, way, getattr(self._courses.now(device), way))

    # --- what varies by itself --------------------------------------------------------------------------------

    def start_varying(self, now: float) -> None:
        """The run is ready: from here on links that vary do."""
        self._courses.start(now)

    def vary(self, now: float) -> None:
        """Change the links that are due for it; each change is on record. Called every turn."""
        for device in self._courses.due(now):
            with self._lock:
                link = self._courses.advance(device, now)
                if device not in self._ends or link is None:
                    continue
                try:
                    self._backend.change(self._ends[device], link)
                except (*VANISHED, DelayProcessError) as error:
                    self._lapse("link_not_varied", device, str(error)[:300], None)
                    continue
                self._history.append(
                    "link_varied",
                    device=device,
                    at_s=round(self._courses.at_s(now), 3),
                    up=varying(link.up),
                    down=varying(link.down),
                )

    def sent_bytes(self, device: str) -> int | None:
        """What has come out of the device so far, framing included: received at the host's end of its veth."""
        ends = self._ends.get(device)
        if ends is None:
            return None
        try:
            return int((NET / ends.host_interface / "statistics" / "rx_bytes").read_text())
        except (OSError, ValueError):
            return None  # its container has just ended

    def measure(
        self, devices: Iterable[str], *, ways: Iterable[Direction] = DIRECTIONS, rates: bool = True
    ) -> dict[str, dict[Direction, Verified]]:
        """Measure these links together and record each one; out of tolerance is a lapse, the run goes on.

        One that a fault has cut is left out: nothing would arrive.
        """
        names = [name for name in devices if name in self._ends and name not in self._cuts]
        with self._courses.held(names):
            return self._measure_held(names, ways, rates)

    def _measure_held(
        self, names: list[str], ways: Iterable[Direction], rates: bool
    ) -> dict[str, dict[Direction, Verified]]:
        """While links are measured they do not vary."""
        links = [(self._ends[name], self._courses.now(name)) for name in names]
        busy_s, began = host_busy_s(), time.monotonic()
        found = self._measurer.measure(links, self._plan.tolerance, ways=ways, rates=rates)
        attempts = dict.fromkeys(found, 1)
        for _ in range(MEASURE_ATTEMPTS - 1):
            again = [(e, k) for e, k in links if not all(v.ok for v in found[e.device].values())]
            if again:
                found |= self._measurer.measure(again, self._plan.tolerance, ways=ways, rates=rates)
                attempts |= {ends.device: attempts[ends.device] + 1 for ends, _ in again}
        busy_cores = round((host_busy_s() - busy_s) / max(1e-3, time.monotonic() - began), 2)
        for name, directions in found.items():
            ok = all(verified.ok for verified in directions.values())
            self._history.append(
                "link_verified",
                device=name,
                boot=self._ends[name].device_boot,
                directions={way: verified.record() for way, verified in directions.items()},
                attempts=attempts[name],
                host_busy_cores=busy_cores,
                ok=ok,
            )
            for way, verified in directions.items():
                for problem in verified.problems:
                    text = f"{way}: {problem} ({busy_cores} cores of this host were busy meanwhile)"
                    self._lapse("link_out_of_tolerance", name, text, verified)
        return found

    def check(self, device: str) -> bool:
        """Read one link back while the run goes on; what is not in force any more is a lapse, and put back."""
        with self._lock:
            ends, link = self._ends[device], self._courses.now(device)
            readback = self._backend.verify(ends, link)
            if not readback.mismatches:
                return True
            self._lapses(device, "link_lost", readback.mismatches)
            self._backend.apply(ends, link)
            return False

    def revive(self) -> None:
        """What ran for all links has ended by itself: start it, put every link in force again, and say so."""
        with self._lock:
            self._backend.start()
            for device, ends in list(self._ends.items()):
                self._lapse("link_lost", device, "the process that delays packets had ended", None)
                try:
                    self._backend.apply(ends, self._courses.now(device))
                except VANISHED as error:
                    self._lapse("link_lost", device, str(error)[:300], None)

    def sample(self, device: str) -> None:
        """Counters of one link into the history. `dropped`: by the loss asked for; overflow is a lapse."""
        counters = self._backend.counters(self._ends[device])
        self._history.append(
            "link_sample",
            device=device,
            up_packets=counters.packets.get("up", 0),
            down_packets=counters.packets.get("down", 0),
            dropped=sum(counters.dropped.values()),
            late_s_max=round(max(counters.late_s_max.values(), default=0.0), 6),
        )
        overflowed = sum(counters.overflowed.values())
        if overflowed and (device, "overflow") not in self._lapsed:
            self._lapsed.add((device, "overflow"))
            self._lapse(
                "queue_overflow", device, f"{overflowed} packets dropped: the delay queue was full", None
            )

    def died(self, node: Node) -> None:
        """A container has ended: what of its links is left (in the broker's namespace, on the host) goes too.

        A link that is in force for the next boot already stays.
        """
        for name, ends in list(self._ends.items()):
            boot = ends.broker_boot if node.name == BROKER else ends.device_boot
            if node.name in (BROKER, name) and boot == node.token:
                self.clear(name)

    def clear(self, device: str) -> None:
        with self._lock:
            self._clear(device)

    def _clear(self, device: str) -> None:
        ends = self._ends.pop(device, None)
        if ends is not None:
            try:
                self._backend.clear(ends)
                if device in self._cuts:
                    cut.mend(ends)
                self._note_left(device, ends)
            except (*VANISHED, DelayProcessError) as error:
                self._history.append("lapse", what="clear_failed", node=device, detail=str(error)[:300])
        number = self._undo_numbers.pop(device, None)
        if number is not None:
            self._undo.done(number)

    def _note_left(self, device: str, ends: LinkEnds) -> None:
        """What is read back after everything was taken away; a namespace that is gone took its part with it."""
        try:
            found = list(self._backend.verify(ends, CLEAR).mismatches)
            found += [f"{way} is cut" for way in DIRECTIONS if cut.is_cut(ends, way)]
        except VANISHED:
            return
        self.left += [f"{device}: {text}" for text in found if "offload" not in text]

    def clear_all(self) -> None:
        for device in list(self._ends):
            self.clear(device)

    # --- parts ----------------------------------------------------------------------------------------------

    def _find(self, device: DevicePlan, node: Node, broker: Node) -> LinkEnds:
        device_ns, broker_ns = node.netns(), broker.netns()
        mine = interface_with(device_ns, device.address)
        network = self._plan.network
        return LinkEnds(
            device=device.name,
            address=device.address,
            queue=self._queues[device.name],
            seed=str(self._plan.seed),
            device_boot=node.token,
            broker_boot=broker.token,
            device_ns=device_ns,
            device_interface=mine.name,
            host=self._host,
            host_interface=interface_by_index(self._host, mine.peer_index),
            broker_ns=broker_ns,
            broker_interface=interface_with(broker_ns, network.broker_address).name,
            broker_address=network.broker_address,
        )

    def _check_congestion(self, device: str, ends: LinkEnds) -> None:
        wanted = self._plan.network.congestion
        for node, netns in ((device, ends.device_ns), (BROKER, ends.broker_ns)):
            found = read_sysctl(netns, CONGESTION)
            if wanted and found != wanted and (node, "congestion") not in self._lapsed:
                self._lapsed.add((node, "congestion"))
                self._history.append(
                    "lapse", what="congestion", node=node, requested=wanted, effective=found, detail=""
                )

    def _measured_counters(self, ends: LinkEnds) -> dict[Direction, tuple[int, int]]:
        counters = self._backend.counters(ends)
        return {way: (count, counters.dropped.get(way, 0)) for way, count in counters.packets.items()}

    def _lapses(self, device: str, what: str, texts: Iterable[str]) -> None:
        for text in texts:
            self._lapse(what, device, text, None)

    def _lapse(self, what: str, node: str, detail: str, verified: Verified | None) -> None:
        record = verified.record() if verified else {"requested": None, "effective": None}
        self._history.append(
            "lapse",
            what=what,
            node=node,
            requested=record["requested"],
            effective=record["effective"],
            detail=detail,
        )
