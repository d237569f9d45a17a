"""Run LiteRT files in tests, and list their operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.running import session_of

Inputs = Mapping[str, np.ndarray]


def outputs(content: bytes, inputs: Inputs, kernels: str = "AUTO") -> dict[str, np.ndarray]:
    """What LiteRT computes, resized to the inputs' batch; `AUTO` kernels are those of XNNPACK where it has them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    chosen = OpResolverType[kernels]
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=chosen)
    return interpreter.get_signature_runner()(**inputs)


def difference(onnx_file: bytes, litert_file: bytes, inputs: Inputs, kernels: str = "AUTO") -> float:
    """The largest difference of LiteRT's outputs from onnxruntime's, as a share of their range."""
    session, found, gaps = session_of(onnx_file), outputs(litert_file, inputs, kernels), []
    names = [value.name for value in session.get_outputs()]
    for name, wanted in zip(names, session.run(None, dict(inputs)), strict=True):
        value = np.asarray(wanted)
        assert found[name].shape == value.shape and found[name].dtype == value.dtype
        gaps.append(np.abs(found[name] - value).max() / max(float(np.ptp(value)), 1e-6))
    assert found.keys() == set(names)
    return float(max(gaps))


def parsed(content: bytes) -> tuple[Any, list[tuple[str, str]]]:
    """A file as the schema reads it, and the name of each operator with the type of what it reads first."""
    from ai_edge_litert import schema_py_generated as schema

    read: Any = schema.ModelT.InitFromPackedBuf(content)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    types = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    graph = read.subgraphs[0]
    kinds = [types[graph.tensors[operator.inputs[0]].type] for operator in graph.operators]
    codes = [names[read.operatorCodes[operator.opcodeIndex].builtinCode] for operator in graph.operators]
    return read, list(zip(codes, kinds, strict=True))
