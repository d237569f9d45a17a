"""The benchmark of model selection on checkpoints of Adam: its rows, and a page that agrees with the results."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks import selection_adam
from benchmarks.selection import NORMS, NULLS, Run
from benchmarks.selection_adam import BEGIN, END, MEASURES, PAGE, RESULTS, page, trained
from dyncompress.measures import MEASURES as KNOWN
from dyncompress.recording.training_states import load_training_state


def test_the_page_holds_what_was_measured() -> None:
    text = PAGE.read_text().split(BEGIN)[1].split(END)[0].strip()
    assert text == page(json.loads(RESULTS.read_text())).strip(), "run python -m benchmarks.selection_adam --only-tables"


def test_every_row_has_the_sign_of_its_prediction() -> None:
    for table in json.loads(RESULTS.read_text())["correlations"].values():
        assert set(table) == {*MEASURES, *NORMS, *NULLS}
        assert all(table[name]["sign"] == 1 for name in MEASURES)
    assert set(MEASURES) <= set(KNOWN)


def test_a_run_leaves_a_checkpoint_of_its_last_step(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 1, 28, 28, generator=draw), torch.randint(0, 10, (64,), generator=draw)
    model, start, path, steps = trained(Run("adam", 0.003, 16, 1, 0), x, y, tmp_path)
    state = load_training_state(path)
    assert state.steps == steps + selection_adam.RECORDS
    assert (model[1].weight.detach().numpy() == state.parameters["1.weight"].values[0]).all()
    assert not torch.equal(start["1"], model[1].weight)
