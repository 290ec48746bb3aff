"""What the sections share: names, and text that must be in a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator, Field, JsonValue

from topology.errors import did_you_mean
from topology.fields import problem

# A device is named `<group>-<i>`, and that name is a DNS label, a container's host name and an MQTT user: 63
# characters.
GROUP = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"


GROUP_LENGTH_MAX = 40


DEVICES_MAX = 2000  # one host runs some hundred containers; the process runtime and the simulation go further


def one_of(names: Iterable[str], what: str) -> BeforeValidator:
    """Text from a table, with the nearest entry in the hint. (A Literal of a table would not be seen by
    mypy.)
    """

    def known(value: object) -> object:
        if isinstance(value, str) and value not in names:
            raise problem(f"no such {what}", did_you_mean(value, names))
        return value

    return BeforeValidator(known)


def enum_of(names: Iterable[str]) -> dict[str, JsonValue]:
    return {"enum": [*names]}


GroupName = Annotated[str, Field(pattern=GROUP, max_length=GROUP_LENGTH_MAX)]


def device_name(group: str, number: int) -> str:
    """`pi4`, 3 → `pi4-3`; numbers start at 1, also in a group of one."""
    return f"{group}-{number}"
