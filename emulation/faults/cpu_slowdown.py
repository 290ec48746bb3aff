"""cpu_slowdown: the CPU quota times `cpus_factor`, live: thermal throttling, or somebody else's work on the device."""

from __future__ import annotations

from emulation.faults.base import FaultBase, FaultProblem, Seen, Tools, find

QUOTA_US_MIN = 1_000  # the kernel's smallest; a plan that asks for less is refused
SLACK = 0.005


class CpuSlowdown(FaultBase):
    kind = "cpu_slowdown"
    devices_only = True

    def apply(self, tools: Tools, target: str) -> None:
        self._set(tools, target, tools.params.cpus_factor)

    def verify(self, tools: Tools, target: str) -> Seen:
        wanted = self._cores(tools, target, tools.params.cpus_factor)
        got = find(tools, target).nano_cpus / 1e9
        return Seen(abs(got / wanted - 1) <= SLACK, f"{got:g} cores, {wanted:g} asked")

    def heal(self, tools: Tools, target: str) -> None:
        self._set(tools, target, 1.0)

    def healed(self, tools: Tools, target: str) -> Seen:
        wanted, got = self._cores(tools, target, 1.0), find(tools, target).nano_cpus / 1e9
        return Seen(abs(got / wanted - 1) <= SLACK, f"{got:g} cores, {wanted:g} planned")

    def _set(self, tools: Tools, target: str, factor: float) -> None:
        container = find(tools, target)
        cores = self._cores(tools, target, factor)
        tools.machines.set_quota(container, cores, tools.quotas[target][1])

    @staticmethod
    def _cores(tools: Tools, target: str, factor: float) -> float:
        if target not in tools.quotas:
            raise FaultProblem(f"{target} has no CPU quota in the plan: only devices can be slowed down")
        cores, period_us = tools.quotas[target]
        return max(QUOTA_US_MIN / period_us, cores * factor)
