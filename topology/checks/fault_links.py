"""The links that faults put in force: the same rules as for those of the devices."""

from __future__ import annotations

from collections.abc import Iterator

from topology.checks.devices import link_problems
from topology.checks.registry import Problem, check
from topology.errors import Path
from topology.links import overlay, resolve_link
from topology.plan import Link
from topology.schema import LinkSpec, Topology
from topology.schema.faults import Aim, members
from topology.schema.faults.link import LinkChange


@check("faults", "devices", "links")
def changed_links_make_sense(topology: Topology) -> Iterator[Problem]:
    for index, fault in enumerate(topology.faults):
        spec = getattr(fault, "link_change", None)
        if not isinstance(spec, LinkChange) or len(spec.named_by) != 1 or not spec.link.model_fields_set:
            continue
        path: Path = ("faults", index, "link_change", "link")
        groups = groups_hit(spec, topology)
        found = {problem: None for group in groups for problem in _problems(spec, topology, group)}
        yield from (problem._replace(path=(*path, *problem.path)) for problem in found)
        if groups and all(_stays(spec.link, topology.devices[group].link) for group in groups):
            yield Problem(path, "nothing would change: that is the link they have", "other numbers")


def groups_hit(spec: Aim, topology: Topology) -> list[str]:
    """Groups of which a device may be hit, in the file's order."""
    found = set(spec.matches(members(topology.devices)))
    return [
        group
        for group, devices in topology.devices.items()
        if any(member.name in found for member in members({group: devices}))
    ]


def _problems(spec: LinkChange, topology: Topology, group: str) -> Iterator[Problem]:
    return link_problems(changed(spec.link, topology.devices[group].link))


def changed(given: LinkSpec, before: LinkSpec) -> LinkSpec:
    """As `LinkChange.changed`: a profile says everything."""
    return given if given.profile else overlay(before, given)


def _stays(given: LinkSpec, before: LinkSpec) -> bool:
    return _shapes(resolve_link(changed(given, before))) == _shapes(resolve_link(before))


def _shapes(link: Link) -> tuple[object, object]:
    return link.up, link.down
