"""What the code chooses is what the recorded benchmark found fastest (python -m benchmarks.gradient_forms --write)."""

from __future__ import annotations

import json

import pytest

from benchmarks.gradient_forms import DEPTHWISE, LAYERS, RECORDED, chosen

SLACK = 1.25  # of the fastest form: below that two forms are as good as each other on this kind of machine
ROWS = json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("layer", [*LAYERS, *DEPTHWISE], ids=lambda layer: layer[0])
def test_the_chosen_form_is_the_fastest_recorded(layer):
    times = ROWS[layer[0]]["ms"]
    assert len(times) > 1, "a choice needs two forms"
    assert times[chosen(layer)] <= SLACK * min(times.values())
