"""The fusion audit: what onnxruntime itself puts on integer kernels, read from the graph it saves after optimizing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from dyncompress.deployment.session import load, options
from dyncompress.types import Target

_KERNELS = {  # operator -> (names of its integer kernels, names of its float ones)
    "Conv": ({"QLinearConv", "ConvInteger"}, {"Conv", "FusedConv", "NhwcFusedConv"}),
    "Gemm": ({"QGemm"}, {"Gemm", "FusedGemm"}),
    "MatMul": (
        {"QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"},
        {"MatMul", "FusedMatMul", "MatMulNBits"},
    ),
    "Add": ({"QLinearAdd"}, {"Add"}),
}


def optimized(body: bytes, target: Target) -> onnx.ModelProto:
    """The graph as onnxruntime runs it on this machine with the target's options."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        made = options(target)
        made.optimized_model_filepath = str(path)
        load(body, made)
        return onnx.load(path)


def audit(body: bytes, target: Target) -> dict[str, tuple[int, int]]:
    """Operators on integer kernels, against all of their kind.

    Only what could be on an integer kernel counts: products with a constant weight, and sums of which a term was
    dequantized (sums inside a float part of the graph aren't failures). MatMulNBits, which unpacks weights but takes float
    activations, counts as float.

    Args:
        body: the file.
        target: session options.

    Returns:
        operator -> (integer, all), for operators that occur.
    """
    graph = optimized(body, target).graph
    makers = {out: node.op_type for node in graph.node for out in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    counts = {}
    for op, (integer, floating) in _KERNELS.items():
        on_integers = sum(node.op_type in integer for node in graph.node)
        on_floats = sum(node.op_type in floating and _expected(node, op, makers, constants) for node in graph.node)
        if on_integers + on_floats:
            counts[op] = (on_integers, on_integers + on_floats)
    return counts


def float_operators(counts: Mapping[str, tuple[int, int]], target: Target) -> str:
    """A sentence about the operators that run in float where the target expects integer kernels; empty where there are none.

    Args:
        counts: of `audit`.
        target: its `integer_ops` are expected on integers, unless activations stay float.

    Example:
        >>> float_operators({"Conv": (3, 5)}, Target("t", "", "schema"))
        "2 of 5 Conv run in float, where target 't' expects integer kernels, and take more time than those would; a ..."
    """
    if target.activation_dtype == "float32":
        return ""
    left = [(op, of - on, of) for op in target.integer_ops for on, of in [counts.get(op, (0, 0))] if on < of]
    if not left:
        return ""
    found = ", ".join(f"{floats} of {of} {op}" for op, floats, of in left)
    return (
        f"{found} run in float, where target '{target.name}' expects integer kernels, and take more time than those would; a "
        "layer whose weights stay float, or whose scales are of groups, is one reason."
    )


def _expected(node: onnx.NodeProto, op: str, makers: dict[str, str], constants: set[str]) -> bool:
    """Whether a float node could have been on an integer kernel."""
    if op == "Add":
        return any(makers.get(name) == "DequantizeLinear" for name in node.input)
    return any(name in constants or makers.get(name) == "DequantizeLinear" for name in node.input[1:2])
