"""EdgeRig's front door: the operator's command."""

__version__ = "0.1.0"
