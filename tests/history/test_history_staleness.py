"""What the check of staleness reckons with, by itself."""

from __future__ import annotations

from typing import Any

import pytest

from history.checks.staleness_bounded import left_of
from topology.plan import StalenessPlan


@pytest.mark.parametrize(
    ("staleness", "age", "left"),
    [
        ({"kind": "constant"}, 9, 1.0),
        ({"kind": "polynomial", "exponent": 0.5}, 3, 0.5),
        ({"kind": "hinge", "a": 10.0, "b": 4.0}, 4, 1.0),
        ({"kind": "hinge", "a": 10.0, "b": 4.0}, 5, 1 / 11),
    ],
)
def test_what_an_update_may_count_is_recomputed(staleness: dict[str, Any], age: int, left: float) -> None:
    assert left_of(StalenessPlan(**staleness), age) == pytest.approx(left)
