"""Count the operators that onnxruntime runs on integer kernels, in the graph that it saves after its own optimization."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from dyncompress.deployment.session import load, options
from dyncompress.types import Target

INTEGER_KERNELS = (  # beginnings of their names
    *("QLinear", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"),
)
_KERNELS = {  # operator -> (names of its integer kernels, names of its float ones)
    "Conv": ({"QLinearConv", "ConvInteger"}, {"Conv", "FusedConv", "NhwcFusedConv"}),
    "Gemm": ({"QGemm"}, {"Gemm", "FusedGemm"}),
    "MatMul": (
        {"QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"},
        {"MatMul", "FusedMatMul", "MatMulNBits"},
    ),
    "LSTM": ({"DynamicQuantizeLSTM"}, {"LSTM"}),
    "Add": ({"QLinearAdd"}, {"Add"}),
}


def optimized_model(body: bytes, target: Target) -> onnx.ModelProto:
    """The model that onnxruntime runs on this machine after its graph optimizations, with the target's session options."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        session_options = options(target)
        session_options.optimized_model_filepath = str(path)
        load(body, session_options)
        return onnx.load(path)


def audit(body: bytes, target: Target) -> dict[str, tuple[int, int]]:
    """Count the operators that run on integer kernels, and those that could.

    Only operators that could run on an integer kernel are counted: products with a constant weight, and sums with a dequantized
    term (a sum inside a float part of the graph isn't one). MatMulNBits, which unpacks integer weights but reads float
    activations, counts as float.

    Args:
        body: the file.
        target: whose session options are used.

    Returns:
        Operator -> (number on integer kernels, number of all), for the operators that occur.
    """
    graph = optimized_model(body, target).graph
    producers = {out: node.op_type for node in graph.node for out in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    counts = {}
    for op, (integer, floating) in _KERNELS.items():
        on_integers = sum(node.op_type in integer for node in graph.node)
        on_floats = sum(node.op_type in floating and _could_be_integer(node, op, producers, constants) for node in graph.node)
        if on_integers + on_floats:
            counts[op] = (on_integers, on_integers + on_floats)
    return counts


def float_operators(counts: Mapping[str, tuple[int, int]], target: Target) -> str:
    """A sentence about the operators that run in float where the target expects integer kernels; empty if there are none.

    Args:
        counts: as `audit` returns them.
        target: its `integer_ops` are expected on integer kernels, unless its activations are float32, or its kernel times decide.

    Example:
        >>> float_operators({"Conv": (3, 5)}, Target("t", "", "schema"))
        "2 of 5 Conv run in float, where target 't' expects integer kernels, and take more time than those would; a ..."
    """
    if target.activation_dtype == "float32" or target.kernel_times is not None:
        return ""
    in_float = [(op, of - on, of) for op in target.integer_ops for on, of in [counts.get(op, (0, 0))] if on < of]
    if not in_float:
        return ""
    listed = ", ".join(f"{floats} of {of} {op}" for op, floats, of in in_float)
    return (
        f"{listed} run in float, where target '{target.name}' expects integer kernels, and take more time than those would; a "
        "layer whose weights stay float, or whose scales are of groups, is one reason."
    )


def _could_be_integer(node: onnx.NodeProto, op: str, producers: dict[str, str], constants: set[str]) -> bool:
    """Whether a node that runs in float could have run on an integer kernel."""
    if op == "Add":
        return any(producers.get(name) == "DequantizeLinear" for name in node.input)
    return any(name in constants or producers.get(name) == "DequantizeLinear" for name in node.input[1:2])
