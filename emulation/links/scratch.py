"""A network namespace made for a probe and gone afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from emulation.commands import CommandError
from emulation.netns import NamespaceError, Netns

READY_WAIT_S = 5.0  # a fork and one unshare: milliseconds, unless the machine is swamped


@contextmanager
def scratch_namespace() -> Iterator[Netns]:
    """Owned by a sleeping process, not by a file in /run/netns: nothing is left behind even after a kill."""
    argv = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo ready; exec sleep 60"]
    try:
        holder = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise CommandError(argv, 127, "util-linux is not installed (the hostd image has it)") from None
    try:
        assert holder.stdout is not None
        if holder.stdout.readline().strip() != "ready":
            _, stderr = holder.communicate(timeout=READY_WAIT_S)
            raise NamespaceError(
                f"no network namespace could be made (hostd needs CAP_SYS_ADMIN): {stderr.strip()}"
            )
        yield Netns.of_pid(holder.pid)
    finally:
        holder.kill()
        holder.communicate(timeout=READY_WAIT_S)
