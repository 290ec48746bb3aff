"""out_of_memory: something takes the container's memory until the kernel's OOM killer kills the agent.

The memory is taken by a process of hostd's that is moved into the container's memory cgroup; what runs in the container
is made the killer's first choice (`oom_score_adj`), so it is the agent that dies, by SIGKILL, as on a full board.
"""

from __future__ import annotations

from emulation.faults.base import FaultBase, FaultProblem, Seen, Tools, find, runs_again


class OutOfMemory(FaultBase):
    kind = "out_of_memory"
    restarts = True
    devices_only = True
    verify_wait_s = 20.0  # 500 MB have to be touched, and the dying agent has to be waited for

    def apply(self, tools: Tools, target: str) -> None:
        container = find(tools, target)
        if not container.running:
            raise FaultProblem(f"{target} does not run ({container.status}): it has no memory to take")
        tools.machines.exhaust_memory(container)

    def verify(self, tools: Tools, target: str) -> Seen:
        container = find(tools, target)
        if not container.running:
            tools.machines.release_memory(container)  # the rest is nobody's to kill
        ok = not container.running and (container.oom_killed or container.exit_code == 137)
        by = "by the OOM killer" if container.oom_killed else "no OOM kill noted by Docker"
        return Seen(ok, f"{container.status}, exit code {container.exit_code}, {by}")

    def heal(self, tools: Tools, target: str) -> None:
        container = find(tools, target)
        tools.machines.release_memory(container)
        if not container.running:
            tools.machines.start(container)

    def healed(self, tools: Tools, target: str) -> Seen:
        return runs_again(tools, target)
