"""bounded.py SECONDS COMMAND...: runs a command with a total bound on any system (macOS has no `timeout`).

At the bound the command gets SIGINT, so that it names what hangs and tears down what it started; a minute later its
process group is killed and the exit code is 124.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

# Stopping twenty containers takes some seconds; a minute is a hang.
TEARDOWN_WAIT_S = 60
EXIT_TIMEOUT = 124


def run_bounded(bound_s: float, command: list[str]) -> int:
    """The command's exit code (128 + signal when a signal ended it), or 124 when it met the bound."""
    # An ignored SIGINT is inherited (a shell's background jobs have it so): the command could not be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, start_new_session=True)
    # Ctrl-C and a runner's SIGTERM reach this process only; the command must hear of them too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: process.send_signal(received))
    try:
        code = process.wait(timeout=bound_s)
    except subprocess.TimeoutExpired:
        print(
            f"bounded: not finished after {bound_s:.0f} s: {' '.join(command)}", file=sys.stderr, flush=True
        )
        _end(process)
        return EXIT_TIMEOUT
    return code if code >= 0 else 128 - code


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=TEARDOWN_WAIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(run_bounded(float(sys.argv[1]), sys.argv[2:]))
