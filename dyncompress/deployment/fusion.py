"""The fusion audit: what onnxruntime itself puts on integer kernels, read from the graph it saves after optimizing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from dyncompress.deployment.session import _loaded, options
from dyncompress.types import Target

_KERNELS = {  # operator -> (names of its integer kernels, names of its float ones)
    "Conv": ({"QLinearConv", "ConvInteger"}, {"Conv", "FusedConv", "NhwcFusedConv"}),
    "Gemm": ({"QGemm"}, {"Gemm", "FusedGemm"}),
    "MatMul": ({"QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}, {"MatMul", "FusedMatMul", "MatMulNBits"}),
    "Add": ({"QLinearAdd"}, {"Add"}),
}


def optimized(body: bytes, target: Target) -> onnx.ModelProto:
    """The graph as onnxruntime runs it on this machine with the target's options."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        made = options(target)
        made.optimized_model_filepath = str(path)
        _loaded(body, made)
        return onnx.load(path)


def audit(body: bytes, target: Target) -> dict[str, tuple[int, int]]:
    """Operators on integer kernels, against all of their kind.

    Sums of an activation and a constant aren't counted as Add: they are biases. MatMulNBits, which unpacks weights but
    takes float activations, counts as float.

    Args:
        body: the file.
        target: session options.

    Returns:
        operator -> (integer, all), for operators that occur.
    """
    graph = optimized(body, target).graph
    constants = {tensor.name for tensor in graph.initializer}
    counts = {}
    for op, (integer, floating) in _KERNELS.items():
        on_integers = sum(node.op_type in integer for node in graph.node)
        on_floats = sum(node.op_type in floating and not (op == "Add" and set(node.input) & constants) for node in graph.node)
        if on_integers + on_floats:
            counts[op] = (on_integers, on_integers + on_floats)
    return counts
