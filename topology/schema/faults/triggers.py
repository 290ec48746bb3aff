"""When a fault strikes: a time, or an event of the run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, cast

from pydantic import PlainValidator, WithJsonSchema

from topology.fields import problem
from topology.plan import Trigger, TriggerState

TRIGGER_STATES: tuple[TriggerState, ...] = ("training", "collecting", "closed")
EXAMPLES = ("round 3 training", "40 % of bytes sent", "5 updates merged", "version 4")


def _round(found: re.Match[str]) -> Trigger:
    if found[2] not in TRIGGER_STATES:
        raise problem("not a state of a round", f"states: {', '.join(TRIGGER_STATES)}")
    return Trigger(round=int(found[1]), state=cast(TriggerState, found[2]))


def _bytes(found: re.Match[str]) -> Trigger:
    share = float(found[1]) / 100
    if not 0 < share < 1:
        raise problem("not a share of an upload", "between 0 and 100 %, both excluded")
    return Trigger(bytes_share=share)


_NUMBER = "([1-9][0-9]{0,8})"
# One line each; the words of the pattern are what the file may say.
FORMS: tuple[tuple[str, Callable[[re.Match[str]], Trigger]], ...] = (
    (rf"round {_NUMBER} (\w+)", _round),
    (r"([0-9]{1,3}(?:\.[0-9]+)?) ?% of bytes sent", _bytes),
    (rf"{_NUMBER} updates? merged", lambda found: Trigger(updates_merged=int(found[1]))),
    (rf"version {_NUMBER}", lambda found: Trigger(version=int(found[1]))),
)


def parse_when(value: object) -> Trigger:
    """`round 3 training` → Trigger(round=3, state="training"), and so on."""
    if isinstance(value, Trigger):
        return value
    text = " ".join(str(value).split())
    for pattern, make in FORMS:
        found = re.fullmatch(pattern, text, re.ASCII)
        if found is not None:
            return make(found)
    raise problem("not a trigger", f"write it like `{'`, `'.join(EXAMPLES)}`")


WhenField = Annotated[
    Trigger,
    PlainValidator(parse_when),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^(round [1-9][0-9]* ({'|'.join(TRIGGER_STATES)})"
            r"|[0-9]+(\.[0-9]+)? ?% of bytes sent|[1-9][0-9]* updates? merged|version [1-9][0-9]*)$",
            "examples": list(EXAMPLES),
        }
    ),
]
