"""Link backends, best first. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from emulation.links.base import Backend, Probe
from emulation.links.netem import NetemBackend
from emulation.links.nfqueue import NfqueueBackend
from emulation.links.none import NoneBackend

# What hostd may choose, in this order. The relay (emulation.links.relay) needs no namespace and no hostd.
REGISTRY: dict[str, Callable[[], Backend]] = {
    NetemBackend.name: NetemBackend,
    NfqueueBackend.name: NfqueueBackend,
    NoneBackend.name: NoneBackend,
}


def choose() -> tuple[Backend, list[Probe]]:
    """The first backend that works here, and what every probe up to it said (the reason goes into the
    record).
    """
    probes: list[Probe] = []
    for make in REGISTRY.values():
        backend = make()
        probes.append(backend.probe())
        if probes[-1].ok:
            return backend, probes
    raise AssertionError("the backend `none` always works")
