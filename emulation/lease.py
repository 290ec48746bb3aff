"""The lease of a run: its runner holds a lock for as long as it lives, and hostd clears the host when it does not.

The kernel drops the lock whatever kills the runner, so no clock is asked and nothing has to be renewed. A run that was
brought up to stay (`edgerig up`, plain `docker compose up`) has no lease.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

from emulation.docker_host import DockerHost, DockerProblem

HOSTD = "hostd"
REMOVE_ATTEMPTS = 3  # a network is free a moment after its last container has gone


class Lease:
    """`path` is the runner's lock file, None where the run has no lease.

    It can lapse only after it was seen held, which `seen` remembers over a restart of hostd: where a lock of the
    runner's machine does not reach into the engine's (a virtual machine between the two), it would seem free at once.
    """

    def __init__(self, path: Path | None, seen: Path | None = None) -> None:
        self._path, self._seen = path, seen
        self._was_held = seen is not None and seen.exists()

    def lapsed(self) -> bool:
        """Whether it was held and nobody holds it any more."""
        held = self._held()
        if held and not self._was_held:
            self._was_held = True
            if self._seen is not None:
                self._seen.touch()
        return self._was_held and held is False

    def _held(self) -> bool | None:
        """A shared lock is tried, and let go at once: the runner's is exclusive. None: it cannot be known."""
        if self._path is None:
            return None
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return True if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN) else None
        finally:
            os.close(descriptor)
        return False


def clear_run(docker: DockerHost) -> list[str]:
    """Remove the run's containers, networks and volumes; hostd's own container last. What could not be removed."""
    own = [c for c in docker.containers().values() if c.node == HOSTD]
    left: list[str] = []
    for container in docker.containers().values():
        if container.node != HOSTD:
            left += _tried(f"container {container.node}", docker.remove, container.id)
    for kind, names in docker.networks_and_volumes().items():
        for name in names:
            left += _tried(f"{kind} {name}", docker.remove_named, kind, name)
    for container in own:
        # The engine goes on with this when the client that asked for it has been killed by it.
        left += _tried("container hostd", docker.remove, container.id)
    return left


def _tried(what: str, remove: Any, *arguments: str) -> list[str]:
    said = ""
    for _ in range(REMOVE_ATTEMPTS):
        try:
            remove(*arguments)
            return []
        except DockerProblem as problem:
            said = str(problem)
    return [f"{what}: {said}"]
