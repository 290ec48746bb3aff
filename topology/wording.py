"""pydantic's errors in the words of somebody who edits a file rather than those of a validator."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from topology.errors import MISSING, Path, TopologyError, did_you_mean, join_path, line_of
from topology.loader import Document
from topology.schema import Topology

_TYPES = {
    "model_type": "a mapping is wanted",
    "model_attributes_type": "a mapping is wanted",
    "dict_type": "a mapping is wanted",
    "list_type": "a list is wanted",
    "string_type": "text is wanted",
    "bool_type": "true or false is wanted",
    "int_type": "a whole number is wanted",
    "int_from_float": "a whole number is wanted",
    "float_type": "a number is wanted",
}

_LENGTHS = {
    "too_short": "at least {min_length} wanted, {actual_length} found",
    "too_long": "at most {max_length} wanted, {actual_length} found",
    "string_too_short": "at least {min_length} characters wanted",
    "string_too_long": "at most {max_length} characters wanted",
}


def convert(detail: ErrorDetails, document: Document) -> TopologyError:
    """One error of pydantic, with the path as the file has it and the line."""
    of_key = detail["loc"][-1:] == ("[key]",)
    missing = detail["type"] == "missing"
    path = _within(document.data, tuple(part for part in detail["loc"] if part != "[key]"), missing)
    message, hint = _words(detail, path)
    value = MISSING if missing or of_key or detail["type"] == "extra_forbidden" else detail["input"]
    return TopologyError(join_path(path), value, message, hint, line_of(document.lines, path))


def _within(data: Any, path: Path, missing: bool) -> Path:
    """Cut a path where the file has no container any more: `link: 4gg` is validated as `link: {profile:
    4gg}`.
    """
    for depth, part in enumerate(path):
        keys = data.keys() if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
        if part not in keys:
            return path if missing else path[:depth]
        data = data[part]
    return path


def _words(detail: ErrorDetails, path: Path) -> tuple[str, str]:
    """Message and hint."""
    kind, context = detail["type"], detail.get("ctx") or {}
    if kind == "edgerig":
        return str(context["message"]), str(context["hint"])
    if kind == "extra_forbidden":
        return "unknown key", did_you_mean(path[-1], _keys_at(path[:-1]))
    if kind == "missing":
        return "required, but missing", ""
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(context["expected"]))
        return "not allowed here", did_you_mean(detail["input"], allowed)
    if kind == "string_pattern_mismatch":
        return "not a name", "small letters, digits and hyphens"
    if kind in _LENGTHS:
        return _LENGTHS[kind].format(**context), ""
    if kind in _TYPES:
        keys = _keys_at(path)
        return _TYPES[kind], f"keys: {', '.join(keys)}" if keys and "mapping" in _TYPES[kind] else ""
    return re.sub(r"^Input should be (a valid )?", "has to be ", str(detail["msg"])), ""


def _keys_at(path: Path) -> list[str]:
    """The keys that the schema knows at a place in the file."""
    annotation: Any = Topology
    for part in path:
        model = _model_in(annotation)
        if model is None:
            return []
        # Below a mapping of names or a list comes the model of its entries; below a model, the field's type.
        inside = getattr(annotation, "__origin__", None) in (dict, list)
        field = None if inside else model.model_fields.get(str(part))
        annotation = model if inside else field.annotation if field else None
    model = None if getattr(annotation, "__origin__", None) in (dict, list) else _model_in(annotation)
    return list(model.model_fields) if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The one model inside `Model | None`, `dict[str, Model]`, `list[Model]` or `Annotated[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for model in map(_model_in, get_args(annotation)) if model), None)
