"""Rows that a TopK puts in order are compared as a set; rows that are missing, and outputs of other graphs, aren't."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.deployment.row_order import row_order
from tests.deployment.graphs import graph

RNG = np.random.default_rng(0)
SCORES, BOXES = RNG.normal(size=(5, 30, 4)).astype(np.float32), RNG.uniform(size=(5, 30, 4)).astype(np.float32)


def with_topk() -> bytes:
    nodes = [helper.make_node("TopK", ["x", "k"], ["y", "indices"])]
    return graph(nodes, {"k": np.array([3], np.int64)}, {"x": ["n", 8]}, {"y": ["n", 3]})


def without() -> bytes:
    return graph([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["n", 8]}, {"y": ["n", 8]})


def test_exchanged_rows_come_back_for_all_outputs_together() -> None:
    order = np.stack([RNG.permutation(30) for _ in range(5)])
    rows = np.arange(5)[:, None]
    noise = RNG.normal(size=SCORES.shape).astype(np.float32) * 1e-3
    moved = (SCORES[rows, order] + noise, BOXES[rows, order])
    scores, boxes = row_order(with_topk(), (SCORES, BOXES)).matched(moved)
    assert np.array_equal(boxes, BOXES) and np.abs(scores - SCORES).max() < 0.01


def test_a_row_that_is_missing_stays_an_error() -> None:
    other = SCORES.copy()
    other[2, 7] = 5.0
    scores, _ = row_order(with_topk(), (SCORES, BOXES)).matched((other, BOXES))
    assert np.array_equal(scores, other)


@pytest.mark.parametrize("content", [without(), with_topk()])
def test_other_outputs_stay_as_they_are(content: bytes) -> None:
    table = SCORES[:, :, 0]
    (found,) = row_order(content, (table,)).matched((table[:, ::-1],))
    assert np.array_equal(found, table[:, ::-1])
    if content == without():
        assert np.array_equal(row_order(content, (SCORES,)).matched((SCORES[:, ::-1],))[0], SCORES[:, ::-1])


class Queries(nn.Module):
    """Scores 40 places of an image and returns the scores and the features of the best 12."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.score, self.box = nn.Linear(16, 32), nn.Linear(32, 3), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.relu(self.features(x))
        scores = self.score(found)
        best = scores.max(-1).values.topk(12, dim=1).indices[..., None]
        chosen = found.gather(1, best.expand(-1, -1, 32))
        return scores.gather(1, best.expand(-1, -1, 3)), self.box(chosen).sigmoid()


def test_a_detector_that_chooses_its_queries_is_compressed() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, x = Queries().eval(), torch.randn(64, 40, 16)
    x[:, 1] = x[:, 0] + 1e-6  # scores that a rounding error exchanges
    file = dc.compress(net, "edge-int8", calibration=x)
    assert file.parity.float_error < 1e-3 and not any(output.lost for output in file.parity.outputs)
    assert [output.relative_error < 0.2 for output in file.parity.outputs] == [True, True]
