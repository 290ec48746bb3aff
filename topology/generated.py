"""Files of this package that are made from its code, committed, and checked to be fresh (`edgerig generated
--check`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from topology.link_spec import DirectionSpec, JitterSpec, LossSpec
from topology.link_tables import with_tables
from topology.schema import LinkSpec, Topology
from topology.schema.compression import PRESETS
from topology.schema.faults import FAULTS
from topology.schema.policy import SELECTION_KEYS

SCHEMA_PATH = "topology/schema.json"
LINKS_PAGE = "docs/links.md"
REPOSITORY = Path(__file__).parent.parent


def generated_files() -> dict[str, bytes]:
    """Path in the repository → content."""
    files = {SCHEMA_PATH: json.dumps(json_schema(), indent=2, ensure_ascii=False).encode() + b"\n"}
    page = REPOSITORY / LINKS_PAGE
    if page.exists():  # in a clone; a wheel has no docs
        files[LINKS_PAGE] = with_tables(page.read_text()).encode()
    return files


def json_schema() -> dict[str, Any]:
    """For editors: a first line `# yaml-language-server: $schema=...` brings completion and checks as one
    types.

    Draft 7, which is what yaml-language-server reads; `$defs` works there as a plain place that `$ref` points
    to. Shorthands that validators expand (a link by its name, `sparsify: none`) are added here, since the
    models do not show them.
    """
    schema = Topology.model_json_schema()
    definitions = schema["$defs"]
    schema["properties"]["model"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Model"}]}
    for kind, spec in FAULTS.items():
        if not any(field.is_required() for field in spec.model_fields.values()):
            short = {"type": "string", "description": "A device, glob, broker, one, majority or everyone."}
            definitions["Fault"]["properties"][kind]["anyOf"].insert(0, short)
    _name_chains(schema, definitions)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_plain(_with_shorthands(schema, definitions)),
    }


def _name_chains(schema: dict[str, Any], definitions: dict[str, Any]) -> None:
    """`compression: stc`, `uplink: auto`, `error_feedback: off`, `sparsify: none`, `selection: oort`."""
    uplink = definitions["Uplink"]["properties"]
    uplink["sparsify"]["anyOf"].insert(0, {"const": "none"})
    uplink["error_feedback"] = _or_one_of(("off", "plain", "dgc"), uplink["error_feedback"])
    policy = definitions["Policy"]["properties"]
    policy["selection"] = _or_one_of(SELECTION_KEYS, policy["selection"])
    compression = definitions["Compression"]["properties"]
    compression["uplink"] = _or_one_of(PRESETS, compression["uplink"])
    schema["properties"]["compression"] = _or_one_of(PRESETS, schema["properties"]["compression"])


def _with_shorthands(node: Any, definitions: dict[str, Any]) -> Any:
    """Wherever a mapping has a shorthand, the single value too: `link: 4g`, `up: 1 Mbit/s`, `loss: 1 %`."""
    if isinstance(node, list):
        return [_with_shorthands(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    name = str(node.get("$ref", "")).rpartition("/")[2]
    if name in SHORTHANDS:
        single = definitions[name]["properties"][SHORTHANDS[name]]
        choice = next((c for c in single.get("anyOf", []) if c != {"type": "null"}), single)
        enum = {"enum": single["enum"]} if "enum" in single else {}
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return {**rest, "anyOf": [{**choice, **enum}, {"$ref": node["$ref"]}]}
    return {key: _with_shorthands(value, definitions) for key, value in node.items()}


SHORTHANDS = {spec.__name__: spec.shorthand for spec in (LinkSpec, DirectionSpec, JitterSpec, LossSpec)}


def _or_one_of(names: Iterable[str], mapping: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "string", "enum": [*names]}, {"$ref": mapping["$ref"]}]}


_TYPES: dict[str, type | tuple[type, ...]] = {
    "integer": int,
    "number": (int, float),
    "string": str,
    "boolean": bool,
}
# Of the parsed number, where pydantic finds no place for a bound in the schema of the text.
_BOUNDS = frozenset({"ge", "gt", "le", "lt"})


def _plain(node: Any) -> Any:
    """Without what confuses in an editor: titles that repeat the key, `null` as a choice, defaults in parsed
    form.
    """
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    choices = [choice for choice in node.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        node = {**choices[0], **{key: value for key, value in node.items() if key != "anyOf"}}
    elif choices:
        node = {**node, "anyOf": choices}
    kept = {key: _plain(value) for key, value in node.items() if _useful(key, value, node)}
    if isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].split())
    return kept


def _useful(key: str, value: Any, node: dict[str, Any]) -> bool:
    if key == "title":
        return not isinstance(value, str)
    if key == "default":
        return isinstance(value, _TYPES.get(str(node.get("type")), ()))
    return key not in _BOUNDS or isinstance(value, dict)
