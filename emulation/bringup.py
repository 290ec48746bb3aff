"""Bring nodes up to their gate: link applied, read back, measured, quota verified, then the token that
lets them go.

Used for all nodes at the start, and for one at a time whenever a container has been started again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable

from emulation.cgroup import Cgroup, CgroupError
from emulation.cpu import CpuShare, measure_shares
from emulation.fleet import BROKER, Fleet, Node
from emulation.link_keeper import VANISHED, LinkKeeper
from emulation.listening import await_listener
from emulation.paths import RunPaths, write_atomic
from emulation.scheduling import MEASURE_PRIORITY, going_first
from history.writer import HistoryWriter
from topology.plan import DevicePlan, Plan

MEMORY_SLACK = 0.01  # the kernel rounds limits down to whole pages
# Something else on the host can only make a share smaller: a measurement it has spoilt is repeated, at most twice.
CPU_ATTEMPTS = 3
LISTEN_WAIT_S = 5.0  # Mosquitto polls its gate every tenth of a second and starts in another


class BringUp:
    """Only one thread uses it at a time; it shares the keeper with nobody."""

    def __init__(
        self, plan: Plan, paths: RunPaths, fleet: Fleet, keeper: LinkKeeper, history: HistoryWriter
    ) -> None:
        self._plan, self._paths, self._fleet, self._keeper, self._history = (
            plan,
            paths,
            fleet,
            keeper,
            history,
        )
        self._gated: dict[str, str] = {}  # node → the token its gate was last opened for
        # Before the start: for which boots of device and broker.
        self._applied: dict[str, tuple[str, str]] = {}
        # Devices whose quota a fault has changed on purpose.
        self.slowed: Callable[[], Collection[str]] = tuple

    def all_at_once(self) -> None:
        """The start of a run: nothing uses the links yet, so all of them are measured together, then all
        quotas.
        """
        broker = self._fleet.running[BROKER]
        nodes = dict(self._fleet.running)
        for device in self._plan.devices:
            self._put(device, nodes[device.name], broker)
        self._keeper.measure([device.name for device in self._plan.devices])
        self.verify_quotas(self._plan.devices)
        self._open_gate(broker)
        # Who knocks before the broker listens waits a second or more for the next attempt; it starts in a tenth.
        port = self._plan.network.broker_port
        await_listener(broker.container.pid, port, LISTEN_WAIT_S, clock=time.monotonic, sleep=time.sleep)
        for device in self._plan.devices:
            self._open_gate(nodes[device.name])

    def apply_early(self) -> None:
        """While others still start: links of those that run already. What fails is tried again in `all_at_once`."""
        broker = self._fleet.running.get(BROKER)
        if broker is None:
            return
        for device in self._plan.devices:
            node = self._fleet.running.get(device.name)
            if node is not None:
                with contextlib.suppress(*VANISHED):
                    self._put(device, node, broker)

    def again(self, names: Iterable[str]) -> None:
        """Nodes that were started anew. A new broker means every up queue anew; what vanishes meanwhile
        is skipped.
        """
        names = set(names)
        broker = self._fleet.running.get(BROKER)
        if broker is None:
            return  # without a broker there is no link; its start brings everybody here again
        everybody = BROKER in names
        devices = [
            d for d in self._plan.devices if (everybody or d.name in names) and d.name in self._fleet.running
        ]
        applied = [device for device in devices if self._apply(device, broker)]
        try:
            self._keeper.measure([device.name for device in applied], rates=not everybody)
        except VANISHED as error:
            self._history.append(
                "lapse", what="not_measured", node=",".join(sorted(names)), detail=str(error)[:300]
            )
        if everybody:
            self._open_gate(broker)
        for device in applied:
            self.check_written(device)
            node = self._fleet.running.get(device.name)
            if node is not None and node.token != self._gated.get(node.name):
                self._open_gate(node)

    def verify_quotas(self, devices: Iterable[DevicePlan]) -> None:
        """All devices burn at once; one out of tolerance is measured once more, with the others still
        burning.
        """
        devices = list(devices)
        groups = {d.name: (Cgroup.of_pid(self._fleet.running[d.name].container.pid), d.cpus) for d in devices}
        if not groups:
            return
        tolerance, attempts = self._plan.tolerance.cpu, 1
        shares = measure_shares(groups)
        while attempts < CPU_ATTEMPTS and not all(share.ok(tolerance) for share in shares.values()):
            shares = measure_shares(groups)
            attempts += 1
        for device in devices:
            self._record_share(device, shares[device.name], attempts)
            self.check_written(device)

    # --- parts ----------------------------------------------------------------------------------------------

    def _put(self, device: DevicePlan, node: Node, broker: Node) -> None:
        """The start's link, once for these boots; first, or a dozen programs wait while agents load their libraries."""
        boots = (node.token, broker.token)
        if self._applied.get(device.name) != boots:
            with going_first(MEASURE_PRIORITY):
                self._keeper.apply(device, node, broker)
            self._applied[device.name] = boots

    def _apply(self, device: DevicePlan, broker: Node) -> bool:
        try:
            self._keeper.apply(device, self._fleet.running[device.name], broker)
        except (*VANISHED, KeyError) as error:
            self._history.append("lapse", what="not_applied", node=device.name, detail=str(error)[:300])
            return False
        return True

    def _record_share(self, device: DevicePlan, share: CpuShare, attempt: int) -> None:
        ok = share.ok(self._plan.tolerance.cpu)
        self._history.append(
            "cpu_verified",
            device=device.name,
            requested=share.requested,
            readback=share.readback,
            effective=round(share.effective, 5),
            error=round(share.error, 5),
            periods=share.periods,
            throttled_periods=share.throttled_periods,
            others_cores=round(share.others_cores, 3),
            attempt=attempt,
            ok=ok,
        )
        if not ok:
            detail = (
                f"read back {share.readback}, {share.effective:.4f} of {share.requested} cores; "
                f"other processes of this host used {share.others_cores:.2f} cores meanwhile"
            )
            self._lapse("cpu_out_of_tolerance", device.name, share.requested, share.effective, detail)

    def check_written(self, device: DevicePlan) -> None:
        """Quota and memory limit as the kernel has them: Docker is known to ignore either in silence, and somebody may
        change them while the run goes on.
        """
        node = self._fleet.running.get(device.name)
        if node is None:
            return
        try:
            group = Cgroup.of_pid(node.container.pid)
            cores, memory = group.quota()[0], group.memory_limit_bytes()
        except CgroupError as error:
            self._lapse("limit_unreadable", device.name, None, None, str(error)[:300])
            return
        slowed = device.name in self.slowed()
        if not slowed and (cores is None or abs(cores / device.cpus - 1) > 0.005):
            self._lapse("cpu_readback", device.name, device.cpus, cores, "the cgroup has another quota")
        if memory is None or abs(memory / device.memory_bytes - 1) > MEMORY_SLACK:
            self._lapse(
                "memory_readback", device.name, device.memory_bytes, memory, "the cgroup has another limit"
            )

    def _lapse(self, what: str, node: str, requested: object, effective: object, detail: str) -> None:
        self._history.append(
            "lapse", what=what, node=node, requested=requested, effective=effective, detail=detail
        )

    def _open_gate(self, node: Node) -> None:
        """The token is durable in the history before the gate opens: no update passes without it on record."""
        self._history.append("gate_opened", node=node.name, token=node.token, durable=True)
        write_atomic(self._paths.gate(node.name), node.token)
        self._gated[node.name] = node.token
