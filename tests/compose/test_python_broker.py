"""The Python broker enforces the same ACL file as mosquitto: filters, not just topics."""

from __future__ import annotations

import pytest

from compose.python_broker import AccessList, covers
from wire.topics import acl_lines

ACL = AccessList.parse("\n".join(acl_lines("r1", ["pi-1", "pi-2"])))


@pytest.mark.parametrize(
    ("allowed", "requested", "expected"),
    [
        ("a/#", "a/b/c", True),
        ("a/#", "a/#", True),
        ("a/#", "a/+/c", True),
        ("a/+", "a/b", True),
        ("a/+", "a/+", True),
        ("a/b", "a/+", False),
        ("a/b", "a/#", False),
        ("a/+/c", "a/#", False),
        ("a/+", "a/b/c", False),
        ("a/b", "a", False),
        ("a/b/#", "#", False),
        ("a/b/#", "+/b/c", False),
    ],
)
def test_covers(allowed: str, requested: str, expected: bool) -> None:
    assert covers(allowed, requested) is expected


@pytest.mark.parametrize(
    ("user", "access", "topic", "expected"),
    [
        ("pi-1", "write", "rig/r1/up/pi-1/hello", True),
        ("pi-1", "write", "rig/r1/up/pi-2/hello", False),
        ("pi-1", "write", "rig/r1/down/pi-1/ack", False),
        ("pi-1", "write", "rig/r1/status/pi-1", True),
        ("pi-1", "write", "rig/r1/status/pi-2", False),
        ("pi-1", "write", "rig/r1/model/v1/0", False),
        ("pi-1", "read", "rig/r1/down/pi-1/#", True),
        ("pi-1", "read", "rig/r1/down/#", False),
        ("pi-1", "read", "rig/r1/down/pi-2/task", False),
        ("pi-1", "read", "rig/r1/up/#", False),
        ("pi-1", "read", "rig/r1/model/v1/0", True),
        ("pi-1", "read", "#", False),
        ("pi-1", "read", "rig/r2/model/v1/0", False),
        ("coordinator", "read", "rig/r1/up/#", True),
        ("coordinator", "write", "rig/r1/up/pi-1/hello", False),
        ("nobody", "read", "rig/r1/model/v1/0", False),
    ],
)
def test_who_may_do_what(user: str, access: str, topic: str, expected: bool) -> None:
    assert ACL.allows(user, access, topic) is expected  # type: ignore[arg-type]
