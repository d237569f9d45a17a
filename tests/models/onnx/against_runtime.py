"""One operator of any version, computed by the interpreter and by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from dyncompress.models.onnx.interpreter import Interpreter
from tests.models.onnx.backend import compare, value


def model_of(operator: str, version: int, inputs: Sequence[Any], outputs: int, attributes: dict[str, Any]) -> onnx.ModelProto:
    """A model of one node; an input that is None is absent."""
    names = ["" if array is None else f"x{place}" for place, array in enumerate(inputs)]
    node = helper.make_node(operator, names, [f"y{place}" for place in range(outputs)], **attributes)
    given = [
        helper.make_tensor_value_info(name, element_type_of(array), array.shape)
        for name, array in zip(names, inputs, strict=True)
        if array is not None
    ]
    graph = helper.make_graph([node], "graph", given, [onnx.ValueInfoProto(name=name) for name in node.output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)


def element_type_of(array: np.ndarray) -> int:
    """ONNX's element type of an array."""
    return TensorProto.STRING if array.dtype == object else helper.np_dtype_to_tensor_dtype(array.dtype)


def interpreted(operator: str, version: int, inputs: Sequence[Any], outputs: int = 1, **attributes: Any) -> list[Any]:
    """What the interpreter computes of tensors, of which those that are None are absent."""
    names = ["" if x is None else f"x{place}" for place, x in enumerate(inputs)]
    node = helper.make_node(operator, names, [f"y{place}" for place in range(outputs)], **attributes)
    given = [onnx.ValueInfoProto(name=name) for name in names if name]
    graph = helper.make_graph([node], "graph", given, [onnx.ValueInfoProto(name=name) for name in node.output])
    return list(Interpreter(graph, {"": version}).run([x for x in inputs if x is not None]))


def agrees(operator: str, version: int, inputs: Sequence[Any], outputs: int = 1, **attributes: Any) -> None:
    """Fail unless the interpreter computes what onnxruntime does.

    Args:
        operator: of ONNX's own domain.
        version: of the operator set.
        inputs: arrays, None where one is absent.
        outputs: how many are asked for.
        attributes: of the node; `tolerance` is none of them, but how far numbers may differ.
    """
    tolerance = attributes.pop("tolerance", 1e-6)
    inputs = [x if x is None else np.asarray(x) for x in inputs]
    model = model_of(operator, version, inputs, outputs, attributes)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = [array for array in inputs if array is not None]
    wanted = session.run(None, {entry.name: array for entry, array in zip(model.graph.input, arrays, strict=True)})
    found = Interpreter(model.graph, {"": version}).run([value(array) for array in arrays])
    for own, other in zip(found, wanted, strict=True):
        compare(own, other, tolerance, tolerance)
