"""The frame of the accuracy benchmark: cells are kept and resumed, the curve becomes a table and a plot of it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import accuracy
from benchmarks.accuracy import BASELINE, CHAINS, HEADLINE, POINTS, SEEDS, Cell, Cells, measure
from benchmarks.accuracy_plot import LEFT, WIDTH, Box, markdown, place, svg
from wire.codecs import make_chain


def fake(model: str, chain: str, rate: float, seed: int, data: object) -> Cell:
    """The baseline is best at 0.1; every other chain loses half a point and sends a hundredth."""
    best = 0.96 - abs(rate - 0.1) - (0.005 if chain != BASELINE else 0.0) + 0.001 * seed
    parameters = 1_000 if model == "mlp" else 10_000
    size = 4 * parameters / (1 if chain == BASELINE else 100)
    return Cell(last=(best, best, best), way=((8, 0.5),), update_bytes=size, parameters=parameters, cpu_s=1.0)


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cells:
    monkeypatch.setattr(accuracy, "train", fake)
    monkeypatch.setattr(accuracy, "load", lambda name: None)
    return Cells(tmp_path / "cells.json")


def test_the_baseline_is_tuned_and_the_keys_are_those_of_the_issue(cells: Cells) -> None:
    figures = measure(cells)
    assert figures["lr"] == 0.1
    assert figures["accuracy"] == pytest.approx(figures["baseline_accuracy"] - 0.005)
    assert figures["uplink_ratio"] == pytest.approx(100)
    assert [point["chain"] for point in figures["curve"]] == list(POINTS["cnn"])
    assert {BASELINE, HEADLINE} <= set(POINTS["cnn"]) & set(POINTS["mlp"])
    assert figures["mlp"]["curve"]


def test_an_interrupted_run_goes_on_where_it_was(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cells.get("mlp", BASELINE, 0.1, 1)
    monkeypatch.setattr(accuracy, "train", lambda *_: pytest.fail("measured again"))
    again = Cells(tmp_path / "cells.json")
    assert again.get("mlp", BASELINE, 0.1, 1) == first
    again.forget()
    assert not (tmp_path / "cells.json").exists()


def test_table_and_plot_hold_every_point(cells: Cells) -> None:
    figures = measure(cells)
    drawn = ElementTree.fromstring(svg(figures))
    circles = drawn.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(POINTS["cnn"]) + len(POINTS["mlp"])
    table = markdown(figures)
    assert table.count("| 0.50 |") == len(circles) - 2
    assert "100 ×" in table


def test_the_documents_are_those_of_the_recorded_figures() -> None:
    docs = Path(__file__).parents[2] / "docs"
    figures = json.loads((docs / "accuracy.json").read_text(encoding="utf-8"))
    assert (docs / "accuracy.md").read_text(encoding="utf-8") == markdown(figures)
    assert (docs / "accuracy.svg").read_text(encoding="utf-8") == svg(figures)


def test_labels_of_points_that_lie_together_do_not_cover_each_other() -> None:
    taken: list[Box] = []
    boxes = [place(300 + 3 * i, 200 + 2 * i, "top_k_10pct_int8", taken) for i in range(8)]
    assert taken == boxes
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert left >= LEFT
        assert right <= WIDTH
        assert all(right <= b[0] or b[2] <= left or bottom <= b[1] or b[3] <= top for b in boxes[i + 1 :])


@pytest.mark.parametrize("name", [name for name, spec in CHAINS.items() if spec is not None])
def test_every_chain_of_the_curve_can_be_made(name: str) -> None:
    assert len(SEEDS) == 3
    spec = CHAINS[name]
    assert spec is not None
    make_chain(spec)
