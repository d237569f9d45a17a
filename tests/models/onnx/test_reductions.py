"""Reductions: older versions against onnxruntime, nothing to reduce, unsigned integers, order of equal elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.backend import compare

X = np.array([[[1.5, 2.0], [0.5, 3.0], [2.0, 2.0]], [[4.0, 1.0], [0.25, 3.0], [1.0, 0.5]]], np.float32)
NAMES = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
NONE = np.zeros(0, np.int64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("version", "attributes"), [(7, {"axes": [1]}), (7, {"keepdims": 0}), (11, {"axes": [-1, 0], "keepdims": 0})]
)
def test_axes_as_attribute(name: str, version: int, attributes: dict[str, Any]) -> None:
    agrees(f"Reduce{name}", version, [X], **attributes)


@pytest.mark.parametrize("name", NAMES)
def test_axes_as_input(name: str) -> None:
    version = 13 if name == "Sum" else 18
    agrees(f"Reduce{name}", version, [X, np.array([-1, 0])], keepdims=0)
    agrees(f"Reduce{name}", version, [X])
    agrees(f"Reduce{name}", version, [X, NONE])
    agrees(f"Reduce{name}", version, [np.float32(2.5)])


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("L1", np.abs),
        ("L2", np.abs),
        ("LogSum", np.log),
        ("LogSumExp", np.asarray),
        ("SumSquare", np.square),
        ("Prod", np.asarray),
    ],
)
def test_over_no_axes_the_other_steps_stay(name: str, function: Any) -> None:
    (found,) = interpreted(f"Reduce{name}", 18, [torch.from_numpy(X), torch.from_numpy(NONE)], noop_with_empty_axes=1)
    compare(found, function(X), 1e-6, 0)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("Sum", 0), ("Prod", 1), ("LogSum", -np.inf), ("LogSumExp", -np.inf), ("Max", -np.inf), ("Min", np.inf), ("L2", 0)],
)
def test_of_no_elements(name: str, wanted: float) -> None:
    (found,) = interpreted(f"Reduce{name}", 18, [torch.zeros(2, 0, 3), torch.tensor([1])])
    compare(found, np.full((2, 1, 3), wanted, np.float32), 0, 0)


def test_the_maximum_of_no_integers_is_the_lowest() -> None:
    (found,) = interpreted("ReduceMax", 18, [torch.zeros(0, 2, dtype=torch.int8), torch.tensor([0])], keepdims=0)
    assert found.tolist() == [-128, -128] and found.dtype == torch.int8


@pytest.mark.parametrize("name", ["Max", "Min", "Sum", "Prod", "Mean"])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64"])
def test_integers_keep_their_type(name: str, dtype: str) -> None:
    numbers = np.array([[3, 5], [2, np.iinfo(dtype).max // 4]], dtype)
    functions = {"Max": np.max, "Min": np.min, "Sum": np.sum, "Prod": np.prod, "Mean": lambda x, axis: x.sum(axis) // 2}
    (found,) = interpreted(f"Reduce{name}", 18, [torch.from_numpy(numbers), torch.tensor([0])], keepdims=0)
    compare(found, functions[name](numbers, axis=0).astype(dtype), 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_half_floats_are_summed_in_float32(name: str) -> None:
    x = torch.full((3000,), 1.0, dtype=torch.float16)
    (found,), (wanted,) = interpreted(f"Reduce{name}", 18, [x]), interpreted(f"Reduce{name}", 18, [x.float()])
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), wanted, rtol=2e-3, atol=0)


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize(
    ("version", "attributes"),
    [(7, {}), (11, {"axis": -1, "keepdims": 0}), (12, {"axis": 1, "select_last_index": 1}), (13, {"axis": -2})],
)
def test_places_of_extremes(operator: str, version: int, attributes: dict[str, Any]) -> None:
    agrees(operator, version, [np.array([[2, 1, 2], [1, 1, 3]], np.float32)], **attributes)


@pytest.mark.parametrize("attributes", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
def test_running_sums(attributes: dict[str, Any]) -> None:
    for x in (X, X.astype(np.int64), np.zeros((2, 0), np.float32)):
        agrees("CumSum", 11, [x, np.array(-1, np.int32)], **attributes)


@pytest.mark.parametrize(
    ("version", "inputs", "attributes"),
    [
        (7, [X], {"k": 2, "axis": 1}),
        (10, [X, np.array([2])], {"axis": -2}),
        (11, [X, np.array([1])], {"largest": 0}),
        (11, [np.array([3, 1, 3, 3, 1]), np.array([4])], {}),
        (11, [np.array([3, 1, 3, 3, 1]), np.array([4])], {"largest": 0}),
        (11, [np.arange(60) % 3, np.array([50])], {}),
        (11, [np.arange(60) % 3, np.array([50])], {"largest": 0}),
        (11, [X.astype(np.float16), np.array([0])], {}),
    ],
)
def test_largest_elements(version: int, inputs: list[np.ndarray], attributes: dict[str, Any]) -> None:
    agrees("TopK", version, inputs, outputs=2, **attributes)


def test_largest_of_unsigned_integers() -> None:
    numbers = torch.tensor([1, 2**64 - 1, 2**63], dtype=torch.uint64)
    values, places = interpreted("TopK", 24, [numbers, torch.tensor([2])], outputs=2)
    assert values.tolist() == [2**64 - 1, 2**63] and places.tolist() == [1, 2]


@pytest.mark.parametrize("ordered", [0, 1])
@pytest.mark.parametrize(
    ("x", "axis"),
    [
        (np.array([2, 1, 1, 3, 4, 3], np.int64), None),
        (np.array([[2.0, 1.0], [1.0, 1.0], [2.0, 1.0]], np.float32), None),
        (np.array([[2.0, 1.0], [1.0, 1.0], [2.0, 1.0]], np.float32), 0),
        (np.array([[2.0, 1.0, 2.0], [1.0, 1.0, 1.0]], np.float32), -1),
        (np.array(["b", "a", "b"], object), None),
    ],
)
def test_distinct_elements(x: np.ndarray, axis: int | None, ordered: int) -> None:
    agrees("Unique", 11, [x], outputs=4, sorted=ordered, **({} if axis is None else {"axis": axis}))


def test_distinct_complex_numbers() -> None:
    x = torch.tensor([2 + 1j, 1 + 5j, 2 + 1j, 1 - 5j])
    values, first, inverse, counts = interpreted("Unique", 28, [x], outputs=4)
    assert values.tolist() == [1 - 5j, 1 + 5j, 2 + 1j]
    assert first.tolist() == [3, 1, 0] and inverse.tolist() == [2, 1, 2, 0] and counts.tolist() == [1, 1, 2]


def test_places_of_numbers_and_determinants() -> None:
    agrees("NonZero", 9, [np.array([[0, 1], [2, 0]], np.int32)])
    agrees("NonZero", 9, [np.zeros((0, 2), np.float32)])
    agrees("Det", 11, [np.stack([X[0, :2], X[1, :2]])])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow(name: str) -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)
    (y,) = interpreted(f"Reduce{name}", 18, [x if name != "LogSum" else x + 1, torch.tensor([1])])
    y.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad[1].abs().sum() > 0
