"""Where `edgerig` begins and ends: a signal during the second of imports or at the very end has its exit code, too."""

from __future__ import annotations

import sys

from compose import signals
from edgerig.exits import INTERRUPTED


def main() -> None:
    """Run the command. SIGINT, SIGTERM and SIGHUP end it with the documented code, never by their own number."""
    inbox = signals.of_this_thread()
    signals.install()
    try:
        from edgerig import cli  # here, since it imports everything

        cli.main()
    except KeyboardInterrupt:
        inbox.held = True  # a plain store, as below: nothing comes between
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        inbox.held = True
        signals.let_go()
