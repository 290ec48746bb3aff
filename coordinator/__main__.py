"""The coordinator's process.

    python -m coordinator --root /run/edgerig [--broker-host H] [--broker-port P] [--mqtt-version 4|5]

Exit codes: 0 the run is over (how it ended is in the history: another start would change nothing), 3 something
around it is missing or broken, 143 it was asked to stop (and goes on where it was when it is started again).
"""

from __future__ import annotations

import argparse
import gc
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from coordinator.errors import EXIT_ENVIRONMENT, EXIT_OK, EXIT_TERMINATED, EnvironmentFault
from coordinator.setup import Options, make_service


def parse(arguments: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m coordinator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, required=True, help="the run's folder")
    parser.add_argument("--broker-host", help="default: the plan's")
    parser.add_argument("--broker-port", type=int, help="default: the plan's")
    parser.add_argument("--mqtt-version", type=int, choices=(4, 5), default=5)
    parser.add_argument(
        "--connect-timeout", type=float, metavar="SECONDS", help="default: the plan's start timeout"
    )
    parser.add_argument("--alive", type=Path, default=Path("/tmp/alive"), help="touched once a second")
    parser.add_argument("--status-host", default="127.0.0.1", help="address of /status; empty: nowhere")
    parser.add_argument("--status-port", type=int, default=0, help="0: any that is free")
    given = parser.parse_args(arguments)
    return Options(
        root=given.root,
        broker_host=given.broker_host,
        broker_port=given.broker_port,
        mqtt_version=given.mqtt_version,
        alive=given.alive,
        connect_timeout_s=given.connect_timeout,
        status_host=given.status_host,
        status_port=given.status_port,
    )


def quiet_collector() -> None:
    """A turn makes thousands of small objects and no cycles; looking for some after every 700 was 6 % of its time."""
    gc.collect()
    gc.freeze()  # what is there now stays
    gc.set_threshold(50_000, 20, 100)


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        ready = make_service(parse(arguments))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: ready.service.request_stop())
        quiet_collector()
        try:
            result = ready.service.run(resumed=ready.resumed)
        finally:
            if ready.status is not None:
                ready.status.stop()
    except EnvironmentFault as fault:
        print(fault.text(), file=sys.stderr, flush=True)
        return EXIT_ENVIRONMENT
    if result is None:
        print("coordinator: stopped before the end of the run", flush=True)
        return EXIT_TERMINATED
    print(f"coordinator: the run has ended: {result.reason}", flush=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
