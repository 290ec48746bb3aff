"""Link backends, best first. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from emulation.links.base import Backend
from emulation.links.netem import NetemBackend
from emulation.links.nfqueue import NfqueueBackend
from emulation.links.none import NoneBackend
from topology.link_features import unsupported_link, unsupported_shape
from topology.plan import FaultParams, Plan

# What hostd may choose, in this order. The relay (relay_backend) needs no namespace and no hostd.
REGISTRY: dict[str, Callable[[], Backend]] = {
    NetemBackend.name: NetemBackend,
    NfqueueBackend.name: NfqueueBackend,
    NoneBackend.name: NoneBackend,
}


def working() -> tuple[str, ...] | None:
    """Backends that work here, the best first; None where one could not be tried."""
    probes = [make().probe() for make in REGISTRY.values()]
    found = tuple(probe.backend for probe in probes if probe.ok)
    better = probes[: [probe.ok for probe in probes].index(True)]
    return found if all(probe.sure for probe in better) else None


class BackendProblem(RuntimeError):
    """The plan wants of its links what no backend, or not the chosen one, can do on this host."""


def choose(plan: Plan, best: str) -> tuple[Backend, str]:
    """The backend of a run and why, `best` being what works here. Raises BackendProblem naming what it cannot do.

    Who asks for `none` by name knows that nothing is shaped: that is not refused, the run is marked.
    """
    wanted = plan.network.backend
    if wanted == "none":
        return NoneBackend(), "asked for by the topology: links are not shaped"
    backend = REGISTRY[best if wanted == "auto" else wanted]()
    if wanted != "auto" and not (found := backend.probe()).ok:
        raise BackendProblem(f"network.backend is {wanted}, which does not work here: {found.reason}")
    refused = [
        f"{device.name} {text}"
        for device in plan.devices
        for text in unsupported_link(backend.name, device.link)
    ]
    refused += [
        f"fault {fault.id}: {text}" for fault in plan.faults for text in _refused(backend.name, fault.params)
    ]
    if refused:
        raise BackendProblem(
            f"links here are shaped by {backend.name}, which cannot do: {'; '.join(refused)}"
        )
    return backend, "asked for by the topology" if wanted != "auto" else "the best that works here"


def _refused(backend: str, params: FaultParams) -> set[str]:
    """What the backend cannot do of the links that a fault puts in force."""
    links = {text for link in params.links.values() for text in unsupported_link(backend, link)}
    shapes = (params.up, params.down)
    return links | {text for shape in shapes if shape for text in unsupported_shape(backend, shape)}
