"""From a file to a `Topology`, or to everything that is wrong with it at once.

Errors of single keys come from pydantic; errors between keys from `topology.checks`. Both are reported
together: where some sections are broken, the rest is still checked against each other.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from topology import checks
from topology.errors import MISSING, Path, TopologyError, TopologyErrors, join_path, line_of
from topology.host import Host, host_problems
from topology.loader import Document, load_bytes, read_file
from topology.plan import Runtime
from topology.schema import Topology
from topology.sources import with_paths
from topology.wording import convert

# Stand in for required sections that are broken, so that the others can be parsed; no check looks at them.
_STAND_INS: Mapping[str, Any] = {
    "name": "x",
    "devices": {"x": {"profile": "raspberry-pi-4", "link": "ethernet"}},
    "data": {"dataset": "mnist"},
    "model": "mlp",
    "training": {"rounds": 1},
}
# One that strikes nobody: a fault that nobody wrote must not contradict those that somebody did.
_ANY_FAULT: Mapping[str, Any] = {"churn": {"device": "*", "every": "24 h", "down": "1 s", "during": "1 us"}}


@dataclass(frozen=True)
class Loaded:
    """A valid topology, the file it came from, its bytes (a pipe has them only once) and their sha256."""

    topology: Topology
    source: str
    content: bytes
    sha256: str
    document: Document


def load_topology(path: str | FilePath, *, host: Host | None = None, runtime: Runtime = "docker") -> Loaded:
    """Read a topology file; with `host`, also check that this host can run it. Raises TopologyErrors."""
    return parse_topology(read_file(path), str(path), host=host, runtime=runtime)


def parse_topology(
    content: str | bytes, source: str = "", *, host: Host | None = None, runtime: Runtime = "docker"
) -> Loaded:
    """Like `load_topology`, from text or bytes."""
    raw = content.encode() if isinstance(content, str) else content
    document = load_bytes(raw, source)
    topology = with_paths(validate(document, host=host, runtime=runtime), document)
    return Loaded(topology, source, raw, hashlib.sha256(raw).hexdigest(), document)


def validate(document: Document, *, host: Host | None = None, runtime: Runtime = "docker") -> Topology:
    """The topology of a loaded document. Raises TopologyErrors with every error of keys, between keys and of
    the host.
    """
    errors: list[TopologyError] = []
    broken: set[str] = set()
    context = {"folder": FilePath(document.source).parent}  # what files that it names are relative to
    try:
        topology = Topology.model_validate(document.data, context=context)
    except ValidationError as invalid:
        details = invalid.errors(include_url=False)
        errors += [convert(detail, document) for detail in details]
        repaired, broken = _repaired(document.data, [detail["loc"] for detail in details])
        topology = Topology.model_validate(repaired, context=context)
    told = {error.path for error in errors}
    errors += [error for error in _empty(document) if error.path not in told]
    problems = [*checks.problems(topology, broken)]
    if host is not None and broken.isdisjoint({"devices", "resources"}):
        problems += host_problems(topology, host, runtime)
    errors += [_located(problem, document) for problem in problems]
    if errors:
        raise TopologyErrors(errors, document.source)
    return topology


def _empty(document: Document) -> Iterator[TopologyError]:
    """Keys without a value. `link:` with its numbers forgotten would be a link without limits, not a default."""
    waiting: list[tuple[Path, Any]] = [((), document.data)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [((*path, key), inner) for key, inner in items]
        elif value is None:
            line = line_of(document.lines, path)
            yield TopologyError(
                join_path(path), None, "has no value", "write one, or leave the key out", line
            )


def _repaired(data: Mapping[str, Any], locations: Iterable[Path]) -> tuple[dict[str, Any], set[str]]:
    """A file that parses, in place of one with errors at `locations`, and the sections that say nothing any
    more.

    A broken link or fault does not keep the rest from being checked: it alone is replaced, and only where
    that changes nothing for others. A broken section is replaced as a whole.
    """
    result = copy.deepcopy(dict(data))
    broken: set[str] = set()
    for location in locations:
        match location:
            case ("devices", group, "link", *_):
                result["devices"][group]["link"] = "unshaped"
                broken.add("links")
            case ("devices", group, "cpus" | "memory" | "threads" as key, *_):
                result["devices"][group].pop(key, None)
                broken.add("resources")
            case ("faults", int(index), *_):
                result["faults"][index] = _ANY_FAULT
            case ("expect", str(metric), *_):
                result["expect"].pop(metric, None)
            case (section, *_):
                broken.add(str(section))
    for section in broken - {"links", "resources"}:
        result.pop(section, None)
        if section in _STAND_INS:
            result[section] = _STAND_INS[section]
    return result, broken


def _located(problem: checks.Problem, document: Document) -> TopologyError:
    value = _value_at(document.data, problem.path) if problem.value is MISSING else problem.value
    line = line_of(document.lines, problem.path)
    return TopologyError(join_path(problem.path), value, problem.message, problem.hint, line)


def _value_at(data: Any, path: Path) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return data if path else MISSING
