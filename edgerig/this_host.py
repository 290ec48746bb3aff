"""This host for validation: cores and memory, and what shapes links here."""

from __future__ import annotations

from emulation.links import working
from topology.host import Host, this_host
from topology.plan import Runtime


def probed_host(runtime: Runtime = "docker") -> Host:
    """With the link backends that work, where containers are to be run: tried in a namespace of their own, as root."""
    host = this_host()
    return host._replace(link_backends=working()) if runtime == "docker" else host
