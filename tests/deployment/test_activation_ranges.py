from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from dyncompress.deployment import ranges
from dyncompress.errors import InvalidRequest
from tests.deployment.graphs import graph, images, residual, weight


def test_ranges_are_those_of_the_values_themselves() -> None:
    w = weight(4, 3, 3, 3)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    outputs = {"y": ["n", 4, 14, 14], "c": ["n", 4, 14, 14]}
    file = graph(nodes, {"w": w}, {"x": ["n", 3, 16, 16]}, outputs)
    batches = [images(4, seed=s) for s in range(3)]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    observed = ranges(file, iter(batches))
    runs: list[dict[str, Any]] = [dict(zip(outputs, session.run(list(outputs), b), strict=True)) | b for b in batches]
    assert set(observed) == {"x", "c", "y"}
    for name, (low, high) in observed.items():
        assert low == min(run[name].min() for run in runs) and high == max(run[name].max() for run in runs)


def test_more_batches_only_widen_ranges() -> None:
    file, _ = residual()
    few, many = ranges(file, [images(4)]), ranges(file, [images(4), images(4, seed=1)])
    assert few.keys() == many.keys() and all(many[k][0] <= few[k][0] and few[k][1] <= many[k][1] for k in few)


def test_no_batches_and_nan_are_refused() -> None:
    file, _ = residual()
    with pytest.raises(InvalidRequest, match="no calibration batch"):
        ranges(file, [])
    with pytest.raises(InvalidRequest, match="input 'x' isn't finite"):
        ranges(file, [{"x": np.full((2, 3, 16, 16), np.nan, np.float32)}])


def test_a_range_covers_all_examples_unless_a_share_may_be_clipped() -> None:
    file, _ = residual()
    plain = images(100)
    spiked = {"x": plain["x"].copy()}
    spiked["x"][17, 0, 3, 3] = 1e4
    assert ranges(file, [spiked])["x"][1] == pytest.approx(1e4), "one in a hundred may be the event that a detector is for"
    low, high = ranges(file, [spiked], share=0.98)["x"]
    assert high < 100 and low == ranges(file, [plain], share=0.98)["x"][0]
    many = {"x": plain["x"].copy()}
    many["x"][:5, 0, 3, 3] = 1e4
    assert ranges(file, [many], share=0.98)["x"][1] == pytest.approx(1e4), (
        "five in a hundred are more than the share that may be clipped"
    )
