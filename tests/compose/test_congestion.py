"""A congestion control that containers may not be given is allowed, or refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from compose.congestion import allow
from compose.errors import EnvironmentProblem


def kernel(folder: Path, available: str, allowed: str) -> Path:
    (folder / "tcp_available_congestion_control").write_text(available)
    (folder / "tcp_allowed_congestion_control").write_text(allowed)
    return folder / "tcp_allowed_congestion_control"


def test_what_is_allowed_stays_as_it_is(tmp_path: Path) -> None:
    listed = kernel(tmp_path, "reno cubic\n", "reno cubic\n")
    for name in ("cubic", ""):
        allow(name, tmp_path)
    assert listed.read_text() == "reno cubic\n"
    allow("cubic", tmp_path / "no-such-kernel")


def test_what_is_there_but_not_allowed_is_added(tmp_path: Path) -> None:
    listed = kernel(tmp_path, "reno bbr cubic\n", "reno bbr\n")
    allow("cubic", tmp_path)
    assert listed.read_text().split() == ["reno", "bbr", "cubic"]


def test_what_is_not_there_is_refused_with_what_to_do(tmp_path: Path) -> None:
    kernel(tmp_path, "reno bbr", "reno bbr")
    with pytest.raises(EnvironmentProblem) as caught:
        allow("cubic", tmp_path)
    assert "congestion: reno" in "\n".join(caught.value.lines())
