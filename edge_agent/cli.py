"""The command `edge-agent` (`python -m edge_agent`): one device.

Exit codes: 0 the run is over or the agent was told to stop; 2 the configuration; 3 the surroundings (broker, gate,
disk). Argparse, because the device has six libraries and no more.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from edge_agent.config import load_config
from edge_agent.errors import EXIT_OK, AgentError
from edge_agent.memory import tame_malloc
from topology.plan import AgentConfig
from wire import VERSION

log = logging.getLogger("edge_agent")


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["calibrate"]:
            from edge_agent import calibrate

            return calibrate.main(given[1:])
        options = _parser().parse_args(given)
        config = load_config(options.config)
        logging.basicConfig(
            level=config.log_level.upper(),
            format=f"{config.agent}: %(message)s",
            stream=sys.stderr,
            force=True,
        )
        return run(config)
    except AgentError as error:
        print(f"edge-agent: {error}", file=sys.stderr, flush=True)
        return error.code
    except KeyboardInterrupt:
        return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-agent",
        description="One device of an EdgeRig run.",
        epilog="`edge-agent calibrate --help`: time this device's training step and write its profile.",
    )
    parser.add_argument("--config", type=Path, required=True, help="agent.yaml: who and where this device is")
    parser.add_argument("--version", action="version", version=software())
    return parser


def software() -> str:
    """Name and version, as the hello says them."""
    return f"edgerig {VERSION}"


def run(config: AgentConfig) -> int:
    """From the gate to the end of the run."""
    # The imports of the first task run while the device waits for its link; both need about the same time.
    tame_malloc()
    from edge_agent.jobs import warm_up

    warming = threading.Thread(target=warm_up, name="warm-up", daemon=True)
    warming.start()
    from edge_agent import assembly

    service, history = assembly.build(config, software())
    try:
        assembly.pass_gate(config, service, history)
        reason = service.run()
    except AgentError as error:
        assembly.record_end(history, str(error))
        raise
    assembly.record_end(history, reason)
    log.info("stopped: %s", reason)
    if service.working:
        leave(EXIT_OK)
    return EXIT_OK


def leave(code: int) -> None:
    """End at once: a training step that nobody waits for would hold up the interpreter's own end."""
    logging.shutdown()
    os._exit(code)
