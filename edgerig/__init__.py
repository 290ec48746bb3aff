"""EdgeRig's front door: the operator's command."""

from wire import VERSION

__version__ = VERSION
