"""`python -m emulation --root /run/edgerig`: hostd, until the run is over or SIGTERM comes.

Exit codes: 0 everything healed, 2 the plan cannot be read, 3 the environment (no Docker, containers
missing, no rights).
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import msgspec

from emulation.docker_host import DockerHost, DockerProblem
from emulation.hostd import Hostd, StartError
from emulation.lease import Lease
from emulation.links import BackendProblem, choose
from emulation.paths import RunPaths
from emulation.probe import probe
from history.writer import HistoryWriter
from topology.plan import Plan, load_plan

EXIT_OK, EXIT_CONFIG, EXIT_ENVIRONMENT = 0, 2, 3


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m emulation", description="hostd: links, quotas, faults of one host"
    )
    parser.add_argument("--root", type=Path, default=Path("/run/edgerig"), help="the run's folder")
    parser.add_argument("--lease", type=Path, help="the runner's lock: when nobody holds it, clear the host")
    arguments = parser.parse_args(argv)
    paths = RunPaths(arguments.root)
    try:
        plan = load_plan(paths.plan)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        print(f"hostd: {paths.plan}: {error}", file=sys.stderr)
        return EXIT_CONFIG
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    history = HistoryWriter(paths.history, "hostd")
    try:
        return _serve(plan, paths, history, stop, Lease(arguments.lease, paths.own / "lease-seen"))
    finally:
        history.close()


def _serve(plan: Plan, paths: RunPaths, history: HistoryWriter, stop: threading.Event, lease: Lease) -> int:
    try:
        docker = DockerHost(plan.run)
        host = probe(plan.run)
        backend, why = choose(plan, host.backend)
        host = replace(host, reason=f"{why}. {host.reason}")
        Hostd(plan, paths, docker, backend, history, stop.is_set, lease).run(host)
    except (BackendProblem, DockerProblem, StartError) as error:
        history.append("lapse", what="hostd_failed", node="hostd", detail=str(error)[:500], durable=True)
        print(f"hostd: {error}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    if history.refused:
        print(f"hostd: {paths.history} is not whole: its disk takes no more", file=sys.stderr)
        return EXIT_ENVIRONMENT
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
