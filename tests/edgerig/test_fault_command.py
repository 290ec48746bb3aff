"""Faults by hand as the command line takes them: through the same checks as those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from edgerig.commands.fault import _setting, planned
from topology.errors import TopologyErrors
from topology.loader import load_file

FILE = load_file(Path(__file__).parents[2] / "topology" / "examples" / "fault-injection.yaml")


def test_targets_keys_and_healing_become_a_fault_of_the_plan() -> None:
    fault = planned(FILE, "cpu_slowdown", "pi4-*", {"factor": 0.5}, "20s")
    assert fault.targets == ("pi4-1", "pi4-2", "pi4-3")
    assert (fault.params.cpus_factor, fault.heal_after_s) == (0.5, 20.0)
    for_good = planned(FILE, "kill", "broker", {}, None)  # whoever does it by hand can heal it by hand
    assert (for_good.targets, for_good.heal_after_s) == (("broker",), None)
    assert len(planned(FILE, "kill", "majority", {}, None).targets) == 4


def test_one_twice_in_a_row_is_meant_to_hit_somebody_else() -> None:
    assert len({planned(FILE, "pause", "one", {}, "1 s").targets for _ in range(40)}) > 1


def test_a_link_is_laid_over_the_devices_own() -> None:
    fault = planned(FILE, "link_change", "zero-1", {"link": {"up": "200kbit/s"}}, None)
    link = fault.params.links["zero-1"]
    assert (link.up.rate_bit_s, link.up.delay_s, link.down.rate_bit_s) == (200_000, 0.03, 6_000_000)


@pytest.mark.parametrize(
    ("kind", "target", "keys", "path"),
    [
        ("flood", "pi4-1", {}, "faults[0].flood"),
        ("kill", "pi5-1", {}, "faults[0].kill.device"),
        ("partition", "broker", {}, "faults[0].partition.service"),
        ("cpu_slowdown", "pi4-1", {"factor": 2}, "faults[0].cpu_slowdown.factor"),
        ("churn", "*", {"every": "24 h", "down": "1 s", "during": "1 s"}, "faults[0].churn"),
        ("random", "*", {"count": 1, "kinds": ["kill"], "during": "1 s"}, "faults[0].random"),
        ("link_change", "zero-1", {"link": {"up": "5 Mbps"}}, "faults[0].link_change.link.up"),
    ],
)
def test_what_is_wrong_is_named(kind: str, target: str, keys: dict[str, Any], path: str) -> None:
    with pytest.raises(TopologyErrors) as caught:
        planned(FILE, kind, target, keys, None)
    assert path in {error.path for error in caught.value.errors}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1:30", "1:30"), ("no", "no"), ("0.5", 0.5), ("true", True), ("{up: 1 Mbit/s}", {"up": "1 Mbit/s"})],
)
def test_a_setting_is_what_it_would_be_in_a_file(text: str, value: object) -> None:
    assert _setting(f"key={text}") == ("key", value)


@pytest.mark.parametrize(
    "text", ["factor", "=1", "factor=[", "factor={a: 1, a: 2}", "factor=!!python/name:os", "factor=\x00"]
)
def test_a_setting_that_is_no_value_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        _setting(text)
    assert caught.value.exit_code == 2
