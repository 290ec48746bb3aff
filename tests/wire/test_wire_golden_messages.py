"""Messages that were once sent: they decode to the same fields for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wire import messages as m

GOLDEN = json.loads((Path(__file__).parent / "golden" / "messages.json").read_text())
DOWN = {str(kind.__struct_config__.tag) for kind in m.Down.__args__}
UP = {str(kind.__struct_config__.tag) for kind in m.Up.__args__}


def holds(wanted: Any, found: Any) -> bool:
    """Everything that was sent is there; fields that came later have their defaults."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(holds(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(wanted) == len(found) and all(map(holds, wanted, found))
    return bool(wanted == found)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: f"{golden['type']}-{golden['bytes'][-6:]}")
def test_golden_messages_decode_to_the_same_fields(golden: dict[str, Any]) -> None:
    read = m.decode_down if golden["type"] in DOWN else m.decode_up
    message = read(bytes.fromhex(golden["bytes"]))
    assert holds(golden["fields"], json.loads(msgspec.json.encode(message)))
    assert message.v == golden["schema"]


def test_every_message_has_golden_bytes() -> None:
    """A new message comes with its own: an example and a run of scripts/add_golden_messages.py."""
    assert {golden["type"] for golden in GOLDEN if golden["schema"] == m.MESSAGE_SCHEMA} == DOWN | UP


def reason(payload: bytes, read: Any = m.decode_up) -> str:
    with pytest.raises(m.MessageError) as caught:
        read(payload)
    return str(caught.value.reason)


def test_an_unknown_schema_version_is_called_so_even_if_the_message_looks_different() -> None:
    assert reason(msgspec.msgpack.encode({"type": "ask", "v": 2, "tasks": ["t1"]})) == "version"
    assert reason(msgspec.msgpack.encode({"type": "ask", "v": 2, "wanted": {"t1": 1}})) == "version"
    assert (
        reason(msgspec.msgpack.encode({"type": "invented-in-version-3", "v": 3}), m.decode_down) == "version"
    )
    assert reason(msgspec.msgpack.encode({"type": "ask", "v": "2"})) == "malformed"
    assert reason(msgspec.msgpack.encode({"type": "ask", "wanted": 1})) == "malformed"
    assert reason(bytes(m.MESSAGE_BYTES_MAX + 1)) == "too_large"
