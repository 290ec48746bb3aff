"""YAML without its traps: what the file seems to say is what is loaded, or the file is refused with line and
column.

PyYAML's own loader follows YAML 1.1, where `no` is False, `1:30` is 90, `010` is 8, `1e3` is text, and a key
given twice silently wins. Here scalars are resolved as in the core schema of YAML 1.2 (only `true`/`false`,
decimal integers, floats with optional exponent, `null`/`~`), duplicate keys, tags and non-text keys are
refused, and what is neither number nor truth value stays text. Numbers with leading zeros and `.inf`/`.nan`
stay text too, so that typed keys refuse them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from topology.errors import MISSING, Path, TopologyError, TopologyErrors, join_path

FILE_BYTES_MAX = 256 * 1024  # a thousand hand-written device groups; a larger file is not a topology
NODES_MAX = 20_000  # after aliases are expanded: stops the "billion laughs"
DEPTH_MAX = 24  # the schema needs 6 levels

_PREFIX = "tag:yaml.org,2002:"
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$", re.ASCII)
_FLOAT = re.compile(
    r"^[-+]?(?:0|[1-9][0-9]*)?(?:\.[0-9]+|(?<=[0-9])\.|(?<=[0-9]))(?:[eE][-+]?[0-9]+)?$", re.ASCII
)
_DIGITS_MAX = 40  # of a number; int() of a megabyte of digits takes minutes


@dataclass(frozen=True)
class Document:
    """A loaded file: plain dicts, lists and scalars, and the line (from 1) where each key or item stands."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)
    source: str = ""


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's scanner, parser and composer with YAML 1.2's implicit resolvers; values are built below."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own design)


for _tag, _regex, _first in (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"^<<$"), ["<"]),
):
    _CoreLoader.add_implicit_resolver(_PREFIX + _tag, _regex, _first)


def load_file(path: str | FilePath) -> Document:
    """Read and parse a topology file. Raises TopologyErrors, also where the file cannot be read."""
    return load_bytes(read_file(path), str(path))


def read_file(path: str | FilePath) -> bytes:
    """As much of it as may be parsed, and one byte more; a pipe can be read only once. Raises TopologyErrors."""
    try:
        with open(path, "rb") as stream:
            return stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _refused(f"cannot be read: {error.strerror}", str(path)) from None


def load_bytes(content: bytes, source: str = "") -> Document:
    """Parse the bytes of a topology file. Raises TopologyErrors with every duplicate key, tag and bad key at
    once.
    """
    if len(content) > FILE_BYTES_MAX:
        raise _refused(f"larger than {FILE_BYTES_MAX // 1024} KiB", source)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(f"not UTF-8 text: byte {error.start}", source) from None
    root = _compose(text, source)
    builder = _Builder(source)
    data = builder.build(root, ()) if root is not None else None
    if builder.errors:
        raise TopologyErrors(builder.errors, source)
    if not isinstance(data, dict):
        raise _refused("a mapping is wanted (name:, devices:, ...)", source)
    return Document(data, builder.lines, source)


def load_value(text: str) -> Any:
    """One value as it could stand in a topology: what a command's option says. Raises TopologyErrors."""
    root = _compose(text, text)
    builder = _Builder(text)
    value = builder.build(root, ()) if root is not None else None
    if builder.errors:
        raise TopologyErrors(builder.errors, text)
    return value


def _compose(text: str, source: str) -> yaml.Node | None:
    try:
        loader = _CoreLoader(text)
        try:
            node: yaml.Node | None = loader.get_single_node()
        finally:
            loader.dispose()
        return node
    except yaml.MarkedYAMLError as error:
        raise TopologyErrors([_syntax_error(error)], source) from None
    except yaml.YAMLError as error:  # a control character; it has no mark
        raise _refused(f"not YAML: {str(error).splitlines()[0]}", source) from None
    except RecursionError:
        raise _refused(f"nested deeper than {DEPTH_MAX} levels", source) from None


def _syntax_error(error: yaml.MarkedYAMLError) -> TopologyError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 0
    column = mark.column + 1 if mark else 0
    problem = error.problem or "syntax error"
    hint = ""
    if "'\\t'" in problem:
        problem, hint = "a tab cannot indent in YAML", "use spaces"
    elif "mapping values are not allowed" in problem:
        hint = "quote text that contains ': ', and check the indentation"
    elif "expected a single document" in f"{error.context} {problem}":
        problem, hint = "the file holds more than one document", "remove the line ---"
    return TopologyError("", MISSING, f"column {column}: {problem}", hint, line)


def _refused(message: str, source: str) -> TopologyErrors:
    return TopologyErrors([TopologyError("", MISSING, message)], source)


class _Builder:
    """Turns composed nodes into plain values, collecting every error, and the line of each path."""

    def __init__(self, source: str) -> None:
        self.errors: list[TopologyError] = []
        self.lines: dict[Path, int] = {}
        self._source = source
        self._nodes = 0

    def build(self, node: yaml.Node, path: Path) -> Any:
        self._nodes += 1
        if self._nodes > NODES_MAX or len(path) > DEPTH_MAX:
            raise _refused(
                f"more than {NODES_MAX} values or {DEPTH_MAX} levels, counting aliases", self._source
            )
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag.removeprefix(_PREFIX) in _SCALARS:
            return self._scalar(node, path)
        self._error(path, node, node.tag, "tags are not used here", "remove it")
        return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, value in self._pairs(node, path):
            name, line = key.value, key.start_mark.line + 1
            if name in first:
                self._error(
                    (*path, name),
                    key,
                    MISSING,
                    f"given twice, first in line {first[name]}",
                    "keep one of them",
                )
                continue
            first[name] = line
            self.lines.setdefault(
                (*path, name), line
            )  # a key merged in by `<<` keeps the line of the explicit one
            result[name] = self.build(value, (*path, name))
        for merged in self._merged(node, path):
            for name, value in merged.items():
                result.setdefault(name, value)
        return result

    def _pairs(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """Key and value of a mapping, without `<<`. A key that looks like a number or a truth value is taken
        as text.
        """
        for key, value in node.value:
            if key.tag == _PREFIX + "merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag == _PREFIX + "null":
                self._error(path, key, MISSING, "a key has to be plain text", "write `key: value`")
                continue
            yield key, value

    def _merged(self, node: yaml.MappingNode, path: Path) -> Iterator[dict[str, Any]]:
        """What `<<: *alias` brings in; explicit keys win over it."""
        for key, value in node.value:
            if key.tag != _PREFIX + "merge":
                continue
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(source, yaml.MappingNode):
                    yield self._mapping(source, path)
                else:
                    self._error(path, key, MISSING, "`<<` merges mappings only", "write `<<: *name`")

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        kind, text = node.tag.removeprefix(_PREFIX), node.value
        if kind in ("int", "float") and len(text) > _DIGITS_MAX:
            self._error(path, node, text, f"a number of more than {_DIGITS_MAX} characters", "")
            return None
        try:
            return _SCALARS[kind](text)
        except (ValueError, OverflowError):  # 1e999, or an explicit `!!int abc`
            self._error(path, node, text, f"not a value of type {kind}", "")
            return None

    def _error(self, path: Path, node: yaml.Node, value: object, message: str, hint: str) -> None:
        self.errors.append(TopologyError(join_path(path), value, message, hint, node.start_mark.line + 1))


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # 1e999, or an explicit `!!float inf`
        raise ValueError(text)
    return value


_SCALARS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": _float,
    "bool": _bool,
    "null": lambda _text: None,
}
