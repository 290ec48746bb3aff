"""Run a program and never swallow what it says: a silent no-op is the commonest defect of link emulation."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

# hostd's root file system is read-only; iptables-legacy wants to create its lock.
os.environ.setdefault("XTABLES_LOCKFILE", "/tmp/xtables.lock")
COMMAND_WAIT_S = 10.0  # tc, ip and iptables answer in milliseconds; `iptables -w` may wait for another's lock

NOT_INSTALLED = 127  # as a shell says it


class CommandError(RuntimeError):
    """A program ended with an error. `returncode` and `stderr` are kept; the text has the whole command."""

    def __init__(self, argv: Sequence[str], returncode: int, stderr: str) -> None:
        super().__init__(
            f"`{' '.join(argv)}` ended with {returncode}: {stderr.strip()[-500:] or 'no message'}"
        )
        self.argv, self.returncode, self.stderr = tuple(argv), returncode, stderr


def run(argv: Sequence[str], *, input_text: str | None = None) -> str:
    """Standard output of `argv`, in the network namespace of the calling thread. Raises CommandError."""
    try:
        done = subprocess.run(
            list(argv), input=input_text, capture_output=True, text=True, timeout=COMMAND_WAIT_S, check=False
        )
    except FileNotFoundError:
        raise CommandError(
            argv, NOT_INSTALLED, f"{argv[0]} is not installed (the hostd image has it)"
        ) from None
    except subprocess.TimeoutExpired:
        raise CommandError(argv, 124, f"no answer within {COMMAND_WAIT_S:.0f} s") from None
    if done.returncode != 0:
        raise CommandError(argv, done.returncode, done.stderr or done.stdout)
    return done.stdout
