"""Shapes and layouts: versions of the operators that ONNX's own tests leave out, against onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from dyncompress.models.onnx.interpreter import Interpreter
from tests.models.onnx.backend import compare, value


def model_of(
    operator: str,
    inputs: Sequence[Any],
    attributes: dict[str, Any],
    version: int,
    outputs: int = 1,
    domain: str = "",
) -> onnx.ModelProto:
    """A model of one node."""
    node = helper.make_node(
        operator,
        ["" if array is None else f"x{place}" for place, array in enumerate(inputs)],
        [f"y{place}" for place in range(outputs)],
        domain=domain,
        **attributes,
    )
    given = [
        helper.make_tensor_value_info(
            f"x{place}",
            onnx.TensorProto.STRING if array.dtype == object else helper.np_dtype_to_tensor_dtype(array.dtype),
            array.shape,
        )
        for place, array in enumerate(inputs)
        if array is not None
    ]
    graph = helper.make_graph([node], "graph", given, [onnx.ValueInfoProto(name=name) for name in node.output])
    versions = [helper.make_opsetid(domain, version)] + ([helper.make_opsetid("", 13)] if domain else [])
    return helper.make_model(graph, opset_imports=versions, ir_version=8)


def agrees(model: onnx.ModelProto, arrays: Sequence[Any], tolerance: float = 1e-6) -> None:
    """Raise where the interpreter's outputs aren't onnxruntime's."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = [array for array in arrays if array is not None]
    wanted = session.run(None, {entry.name: array for entry, array in zip(model.graph.input, arrays, strict=True)})
    versions = {entry.domain: entry.version for entry in model.opset_import}
    found = Interpreter(model.graph, versions).run([value(array) for array in arrays])
    for own, other in zip(found, wanted, strict=True):
        compare(own, other, tolerance, tolerance)


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).integers(-50, 50, shape).astype(dtype)


def ints(*items: int) -> np.ndarray:
    return np.array(items, dtype=np.int64)


def words(*shape: int) -> np.ndarray:
    return np.array([f"word {number}" for number in range(int(np.prod(shape)))], dtype=object).reshape(shape)


# Operator, inputs, attributes, version of the operator set, number of outputs.
CASES: list[tuple[str, list[Any], dict[str, Any], int, int]] = [
    ("Reshape", [numbers(2, 3, 4), ints(0, -1)], {}, 7, 1),
    ("Reshape", [numbers(0, 3), ints(3, 0)], {"allowzero": 1}, 14, 1),
    ("Reshape", [numbers(0, 4), ints(-1, 2)], {}, 13, 1),
    ("Reshape", [numbers(1), ints()], {}, 13, 1),
    ("Reshape", [words(2, 3), ints(3, 2)], {}, 13, 1),
    ("Transpose", [numbers(2, 3, 4)], {}, 7, 1),
    ("Transpose", [words(2, 3)], {"perm": [1, 0]}, 13, 1),
    ("Concat", [numbers(2, 3), numbers(2, 0)], {"axis": 1}, 7, 1),
    ("Concat", [words(2, 3), words(1, 3)], {"axis": -2}, 13, 1),
    ("Split", [numbers(5, 2)], {"split": [2, 3]}, 7, 2),
    ("Split", [numbers(2, 4)], {"axis": -1}, 11, 2),
    ("Split", [numbers(2, 5), ints(1, 0, 4)], {"axis": -1}, 13, 3),
    ("Split", [numbers(2, 6)], {"axis": 1}, 13, 3),
    ("Split", [numbers(7)], {"num_outputs": 3}, 18, 3),
    ("Slice", [numbers(4, 5)], {"starts": [1, -3], "ends": [1000, -1]}, 7, 1),
    ("Slice", [numbers(4, 5)], {"starts": [-100], "ends": [3], "axes": [1]}, 9, 1),
    ("Slice", [numbers(4, 5), ints(-1, 9), ints(-9, -100), ints(1, -2), ints(-2, -1)], {}, 10, 1),
    ("Slice", [numbers(5), ints(-100), ints(-200), ints(0), ints(-1)], {}, 13, 1),
    ("Slice", [numbers(4, 5), ints(3, 2), ints(1, 2**63 - 1), None, ints(1, 2)], {}, 13, 1),
    ("Slice", [numbers(0, 5), ints(9), ints(-9), ints(0), ints(-1)], {}, 13, 1),
    ("Slice", [words(2, 3), ints(2), ints(0), ints(1), ints(-1)], {}, 13, 1),
    ("Pad", [numbers(2, 3)], {"pads": [1, 0, 2, -1], "value": 1.5}, 7, 1),
    ("Pad", [numbers(2, 1, 4, 3)], {"pads": [0, 0, 3, 2, 0, 0, 1, 0], "mode": "reflect"}, 10, 1),
    ("Pad", [numbers(4, 3)], {"pads": [3, -1, 1, 2], "mode": "edge"}, 10, 1),
    ("Pad", [numbers(4, 5), ints(2, -1, -1, 2)], {"mode": "reflect"}, 13, 1),
    ("Pad", [numbers(2, 3, dtype=np.int64), ints(1, 0, 0, 2), np.array(2**62 + 1)], {}, 13, 1),
    ("Pad", [numbers(2, 3, dtype=np.float16), ints(1, 0, 0, 2), np.array(0.5, dtype=np.float16)], {}, 13, 1),
    ("Pad", [numbers(2, 3, 2), ints(1, 2), None, ints(-2)], {"mode": "edge"}, 18, 1),
    ("Pad", [numbers(2, 3, 2), ints(2, -1, 3, 3), None, ints(-2, 0)], {"mode": "wrap"}, 19, 1),
    ("Pad", [numbers(0, 3), ints(1, 1, 0, 0)], {}, 13, 1),
    ("Squeeze", [numbers(1, 2, 1)], {"axes": [0]}, 7, 1),
    ("Squeeze", [numbers(1, 2, 1)], {}, 7, 1),
    ("Squeeze", [numbers(1, 2, 1)], {"axes": [-1]}, 11, 1),
    ("Unsqueeze", [numbers(2, 3)], {"axes": [3, 0]}, 7, 1),
    ("Unsqueeze", [numbers(2, 3)], {"axes": [-1, 1]}, 11, 1),
    ("Flatten", [numbers(2, 3, 4)], {"axis": -1}, 11, 1),
    ("Flatten", [numbers(2, 3, 4)], {"axis": 3}, 7, 1),
    ("Flatten", [numbers(2, 0, 4)], {"axis": 0}, 9, 1),
    ("Expand", [numbers(3, 1), ints(2, 1, 4)], {}, 8, 1),
    ("Expand", [numbers(1, 3), ints(0, 1)], {}, 8, 1),
    ("Tile", [numbers(2, 3), ints(0, 2)], {}, 7, 1),
    ("DepthToSpace", [numbers(1, 8, 2, 3)], {"blocksize": 2}, 7, 1),
    ("DepthToSpace", [numbers(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}, 11, 1),
    ("SpaceToDepth", [numbers(2, 3, 4, 6)], {"blocksize": 2}, 7, 1),
    ("Trilu", [numbers(2, 3, 4), np.array(-1)], {"upper": 0}, 14, 1),
    ("Trilu", [numbers(2, 0, 4)], {}, 14, 1),
    ("CenterCropPad", [numbers(5, 4, 3), ints(2, 6)], {"axes": [0, -1]}, 18, 1),
    ("ReverseSequence", [numbers(3, 4, 2), ints(0, 4, 2)], {"batch_axis": 0, "time_axis": 1}, 10, 1),
    ("Upsample", [numbers(1, 2, 3, 4)], {"scales": [1.0, 1.0, 1.3, 2.5]}, 7, 1),
    ("Upsample", [numbers(1, 2, 3, 4)], {"scales": [1.0, 1.0, 1.3, 2.5], "mode": "linear"}, 8, 1),
    ("Upsample", [numbers(2, 3, dtype=np.int32), np.float32([2, 1])], {}, 9, 1),
    ("Upsample", [numbers(2, 3), np.float32([2, 1.7])], {"mode": "linear"}, 9, 1),
]


@pytest.mark.parametrize(("operator", "inputs", "attributes", "version", "outputs"), CASES)
def test_onnxruntime_agrees(operator: str, inputs: list[Any], attributes: dict[str, Any], version: int, outputs: int) -> None:
    agrees(model_of(operator, inputs, attributes, version, outputs), inputs)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint64, torch.bfloat16, torch.bool, torch.float8_e4m3fn])
def test_rare_element_types(dtype: torch.dtype) -> None:
    x = torch.arange(12).reshape(3, 4).to(dtype)
    for operator, inputs, attributes in [
        ("Pad", [ints(1, 2, 0, 0)], {}),
        ("Trilu", [], {}),
        ("Slice", [ints(-1), ints(-9), ints(1), ints(-2)], {}),
        ("CenterCropPad", [ints(4, 2)], {}),
        ("Tile", [ints(2, 1)], {}),
    ]:
        model = model_of(operator, [np.zeros((3, 4), np.float32), *inputs], attributes, 18)
        interpreter = Interpreter(model.graph, {"": 18})
        own, wide = (interpreter.run([one, *map(value, inputs)])[0] for one in (x, x.float()))
        assert own.dtype == dtype and torch.equal(own.float(), wide)


def test_reflection_goes_on_beyond_the_other_end() -> None:
    x = numbers(2, 4)  # onnxruntime doesn't take pads longer than the axis
    model = model_of("Pad", [x, ints(0, 9, 0, 8)], {"mode": "reflect"}, 13)
    (found,) = Interpreter(model.graph, {"": 13}).run([value(x), value(ints(0, 9, 0, 8))])
    compare(found, np.pad(x, [(0, 0), (9, 8)], mode="reflect"), 0, 0)


FLOATS = [case for case in CASES if case[1][0].dtype == np.float32 and case[1][0].size]


@pytest.mark.parametrize(("operator", "inputs", "attributes", "version", "outputs"), FLOATS)
def test_gradients_flow_and_inputs_stay(
    operator: str, inputs: list[Any], attributes: dict[str, Any], version: int, outputs: int
) -> None:
    x, *rest = [None if array is None else value(array) for array in inputs]
    x.requires_grad_()
    model = model_of(operator, inputs, attributes, version, outputs)
    before = x.detach().clone()
    given = [one for one in (x, *rest) if one is not None]
    found = Interpreter(model.graph, {"": version}).run(given)
    (gradient,) = torch.autograd.grad(sum(y.sum() for y in found), x)
    assert gradient.isfinite().all() and torch.equal(x, before)
    assert gradient.sum() > 0 or all(y.numel() == 0 for y in found)
