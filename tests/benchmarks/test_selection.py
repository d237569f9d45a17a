"""The benchmark of model selection: its cells, and pages that agree with the results."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import selection_tables
from benchmarks.selection import NORMS, NULLS, Run, batches, measures, norms, perceptron
from benchmarks.selection_tables import BEGIN, END, cell, pages
from dyncompress.measures import MEASURES
from dyncompress.recording.torch_callback import layer_weights


def test_cells() -> None:
    assert cell({"value": 0.5, "low": 0.25, "high": 0.75}) == "**+0.50 [+0.25, +0.75]**"
    assert cell({"value": -0.001, "low": -0.25, "high": 0.75}) == "+0.00 [-0.25, +0.75]"
    assert cell({"value": None, "low": None, "high": None}) == cell(None) == "–"


def test_pages_hold_what_was_measured() -> None:
    for page, block in pages(json.loads(selection_tables.RESULTS.read_text())).items():
        text = page.read_text()
        assert text.split(BEGIN)[1].split(END)[0].strip() == block.strip(), f"{page}: run python -m benchmarks.selection_tables"


def test_every_row_has_a_sign_or_none_on_purpose() -> None:
    found = json.loads(selection_tables.RESULTS.read_text())
    for result in found.values():
        for rows in result["correlations"].values():
            assert set(rows) == {*measures(Run("mnist", 0.1, 32, 1, 0)), *NORMS, *NULLS}
            assert [name for name, part in rows.items() if part["sign"] == 0] == ["participation_ratio"]
    assert set(measures(Run("mnist", 0.1, 32, 1, 0))) <= set(MEASURES)


def test_epochs_go_through_all_images() -> None:
    draw = batches(10, 4, torch.Generator().manual_seed(0))
    first = torch.cat([next(draw) for _ in range(2)])
    assert len(set(first.tolist())) == 8


def test_norms_of_known_weights() -> None:
    model = perceptron(1)
    with torch.no_grad():
        for weight in layer_weights(model).values():
            weight.zero_()
            weight[0, 0], weight[1, 1] = 3.0, 4.0
    start = {name: torch.zeros_like(weight) for name, weight in layer_weights(model).items()}
    found = norms(model, start)
    assert found["Frobenius norm"] == found["distance from initialisation"] == pytest.approx(50**0.5)
    assert found["sum of log spectral norms"] == pytest.approx(2 * 1.386294, rel=1e-5)
    assert found["sum of log Frobenius norms"] == pytest.approx(2 * 1.609438, rel=1e-5)
