"""No bound and no chosen plan fails more often than with probability delta; benchmarks/violation.py runs more repetitions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import bdtrc

violation = pytest.importorskip("benchmarks.violation")

QUICK = [cell for cell in violation.cells() if cell.n <= 400]


@pytest.mark.parametrize("index", range(len(QUICK)))
def test_no_cell_fails_more_often_than_delta(index):
    result = violation.outcome(QUICK[index], index, 40)  # the slow test runs each cell a thousand times
    assert result.p_value >= 0.001 / len(QUICK), result


@pytest.mark.slow
def test_all_cells_at_full_length():
    listed = list(violation.cells())
    result = [violation.outcome(cell, index, violation.REPETITIONS) for index, cell in enumerate(listed)]
    assert all(one.p_value >= violation.LEVEL / len(result) for one in result)


def test_the_cells_can_tell_a_bound_that_lies():
    cell = violation.Cell("best of three orders", "", 300, 0.1, lambda rng, n: int(rng.binomial(n, 0.25)))
    assert violation.outcome(cell, 0, 400).p_value < 0.001


def test_every_bound_and_the_whole_procedure_have_cells():
    assert {cell.procedure for cell in violation.cells()} == {
        *violation.BOUNDS,
        "certificate",
        "fixed_sequence",
        "chosen_certificate",
    }


def test_the_committed_result_is_of_these_cells_and_none_is_flagged():
    table = json.loads(violation.RESULT.read_text())
    listed = list(violation.cells())
    keys = [(c["procedure"], c["law"], c["n"], c["delta"]) for c in table["cells"]]
    assert keys == [(c.procedure, c.law, c.n, c.delta) for c in listed]
    assert table["flagged"] == 0
    for cell in table["cells"]:
        assert cell["repetitions"] >= 1000
        p = float(bdtrc(cell["violations"] - 1, cell["repetitions"], cell["delta"])) if cell["violations"] else 1.0
        assert p == pytest.approx(cell["p_value"], rel=1e-3)
        assert p >= table["level"] / len(listed)
        assert np.isclose(cell["rate"], cell["violations"] / cell["repetitions"])
