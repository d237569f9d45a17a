"""Reading and writing at indices: versions and element types that ONNX's own tests leave out, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dyncompress.models.onnx.interpreter import Interpreter
from tests.models.onnx.backend import compare, value
from tests.models.onnx.test_shapes import agrees, ints, model_of, numbers, words

BATCHES = np.array([[[0, -1], [1, 0]], [[1, 1], [0, 2]]])  # indices of tuples
ROWS = np.array([[0, -1, 1], [-2, 2, 0]])
TWICE = np.array([[0, -1, 0], [-2, 2, -3]])  # some more than once

# Operator, inputs, attributes, version of the operator set.
CASES: list[tuple[str, list[Any], dict[str, Any], int]] = [
    ("Gather", [numbers(3, 4), np.array([[0, -1], [2, -3]], dtype=np.int32)], {}, 7),
    ("Gather", [numbers(3, 4), np.array(-1)], {"axis": -1}, 13),
    ("Gather", [numbers(3, 0), ints(0, 2)], {}, 13),
    ("Gather", [numbers(3, 4), np.zeros((0, 2), dtype=np.int64)], {"axis": 1}, 13),
    ("Gather", [words(3), np.array([[2, 0]])], {}, 13),
    ("Gather", [words(3), np.array(1)], {}, 13),
    ("GatherElements", [numbers(3, 3), ROWS], {"axis": -1}, 11),
    ("GatherElements", [numbers(3, 3, dtype=np.uint32), ROWS], {}, 13),
    ("GatherElements", [words(3, 3), ROWS], {"axis": 1}, 13),
    ("GatherND", [numbers(2, 3, 4), BATCHES], {}, 11),
    ("GatherND", [numbers(2, 3, 4, 2), BATCHES], {"batch_dims": 1}, 12),
    ("GatherND", [numbers(2, 3, 4), ints(1, -1)], {}, 13),
    ("GatherND", [numbers(2, 3, 4), np.zeros((0, 2), dtype=np.int64)], {}, 13),
    ("Scatter", [numbers(3, 3), ROWS, numbers(2, 3)], {"axis": 1}, 9),
    ("ScatterElements", [numbers(4, 3), ROWS, numbers(2, 3)], {}, 11),
    ("ScatterElements", [words(3, 3), ROWS, words(2, 3)], {"axis": -1}, 13),
    ("ScatterElements", [numbers(4, 3), TWICE, numbers(2, 3)], {"reduction": "add"}, 16),
    ("ScatterElements", [numbers(4, 3, dtype=np.int64), TWICE, numbers(2, 3, dtype=np.int64)], {"reduction": "mul"}, 16),
    ("ScatterElements", [numbers(4, 3), TWICE, numbers(2, 3)], {"reduction": "min", "axis": -2}, 18),
    ("ScatterElements", [numbers(4, 3, dtype=np.float16), TWICE, numbers(2, 3, dtype=np.float16)], {"reduction": "max"}, 18),
    ("ScatterElements", [numbers(2, 3), np.zeros((0, 3), np.int64), numbers(0, 3)], {"reduction": "add"}, 18),
    ("ScatterND", [numbers(2, 3, 4), np.array([[1, -1], [0, 0]]), numbers(2, 4)], {}, 11),
    ("ScatterND", [numbers(2, 3, 4), np.array([[-1], [-1]]), numbers(2, 3, 4)], {"reduction": "add"}, 16),
    ("ScatterND", [numbers(5), np.array([[-1], [1], [-1]]), numbers(3)], {"reduction": "mul"}, 16),
    ("ScatterND", [numbers(5), np.array([[-1], [1], [-1]]), numbers(3)], {"reduction": "min"}, 18),
    ("ScatterND", [numbers(5), np.zeros((0, 1), dtype=np.int64), numbers(0)], {}, 18),
    ("ScatterND", [words(3, 2), np.array([[1], [-3]]), words(2, 2)], {}, 13),
    ("OneHot", [ints(0, 2, 5), np.array(3), numbers(2)], {}, 9),
    ("OneHot", [np.float32([[0, -1], [2, -4]]), np.float32([3]), numbers(2)], {"axis": -2}, 11),
    ("OneHot", [ints(1, 0), np.array(2), words(2)], {"axis": 0}, 11),
    ("OneHot", [ints(), np.array(3), numbers(2)], {"axis": 0}, 11),
    ("Compress", [numbers(3, 4), np.array([True, False, True])], {"axis": 1}, 9),
    ("Compress", [numbers(3, 4), np.array([False, True, True, False, True])], {}, 9),
    ("Compress", [words(3, 4), np.array([False, True])], {"axis": -2}, 11),
]


@pytest.mark.parametrize(("operator", "inputs", "attributes", "version"), CASES)
def test_onnxruntime_agrees(operator: str, inputs: list[Any], attributes: dict[str, Any], version: int) -> None:
    agrees(model_of(operator, inputs, attributes, version), inputs)


def test_slices_of_strings() -> None:
    x, indices = words(3, 2), ints(-1, 0)  # onnxruntime 1.32 leaves a part of each row empty
    (y,) = Interpreter(model_of("Gather", [x, indices], {}, 13).graph, {"": 13}).run([x, value(indices)])
    compare(y, x[[2, 0]], 0, 0)


@pytest.mark.parametrize("x", [numbers(4), numbers(2, 4), words(2, 3, 4)])
def test_array_feature_extractor(x: np.ndarray) -> None:
    inputs = [x, np.array([[0, 3]])]
    agrees(model_of("ArrayFeatureExtractor", inputs, {}, 1, domain="ai.onnx.ml"), inputs)


def test_one_hot_knows_no_negative_index_before_11() -> None:
    inputs = [ints(-1, 0), np.array(2), ints(7, 9)]
    for version, last in [(9, [7, 7]), (11, [7, 9])]:
        model = model_of("OneHot", inputs, {}, version)
        (y,) = Interpreter(model.graph, {"": version}).run([value(array) for array in inputs])
        assert y.tolist() == [last, [9, 7]]


@pytest.mark.parametrize(("reduction", "wanted"), [("none", 3), ("add", 1), ("mul", 2**64 - 6), ("max", 2**64 - 2), ("min", 3)])
def test_scatter_of_large_unsigned_integers(reduction: str, wanted: int) -> None:
    inputs = [np.array([2**64 - 2], dtype=np.uint64), ints(0), np.array([3], dtype=np.uint64)]
    model = model_of("ScatterElements", inputs, {"reduction": reduction}, 18)
    (y,) = Interpreter(model.graph, {"": 18}).run([value(array) for array in inputs])
    assert y.dtype == torch.uint64 and y.tolist() == [wanted]


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(axis: int, mode: str) -> None:
    cache, update = numbers(2, 4, 3), numbers(2, 2, 3)
    starts = ints(2, 3 if mode == "circular" else 0)
    if axis == -1:
        cache, update = np.swapaxes(cache, 1, 2), np.swapaxes(update, 1, 2)
    wanted = np.moveaxis(cache.copy(), axis, 1)
    for sample, start in enumerate(starts):
        for step in range(2):
            wanted[sample, (start + step) % 4] = np.moveaxis(update, axis, 1)[sample, step]
    model = model_of("TensorScatter", [cache, update, starts], {"axis": axis, "mode": mode}, 24)
    (y,) = Interpreter(model.graph, {"": 24}).run([value(cache), value(update), value(starts)])
    assert np.array_equal(y, np.moveaxis(wanted, 1, axis))


FLOATS = [case for case in CASES if case[1][0].dtype == np.float32 and case[1][0].size and case[0] != "OneHot"]


@pytest.mark.parametrize(("operator", "inputs", "attributes", "version"), FLOATS)
def test_gradients_flow_and_inputs_stay(operator: str, inputs: list[Any], attributes: dict[str, Any], version: int) -> None:
    given = [value(array) for array in inputs]
    floats = [one.requires_grad_() for one in given if one.is_floating_point()]
    before = [one.detach().clone() for one in given]
    (y,) = Interpreter(model_of(operator, inputs, attributes, version).graph, {"": version}).run(given)
    gradients = torch.autograd.grad(y.sum(), floats)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients) == (y.numel() > 0)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))
