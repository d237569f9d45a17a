"""The precision that a file really has: bytes by stored type, and the share of its work that integer kernels do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Set

import onnx

from dyncompress.deployment.domain import PRODUCTS
from dyncompress.deployment.stripping import nodes_of
from dyncompress.deployment.target_check.graph import (
    View,
    attribute,
    place,
    stored_tensors,
    tensor_bytes,
    type_name,
)
from dyncompress.deployment.target_check.integers import has_quantized_activations
from dyncompress.deployment.target_check.report import Precision

INTEGER_FORMS = ("QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger")  # operators that are integer products themselves


def precision(view: View, in_float: Set[str]) -> Precision:
    """Bytes by stored type, and the share of products on integer kernels.

    Args:
        view: of the graph.
        in_float: places of the products that compute in float.

    Returns:
        The share is of multiply-accumulates, or of weight bytes if a shape isn't known.
    """
    stored: Counter[str] = Counter()
    for tensor in stored_tensors(view.model.graph):
        stored[type_name(tensor.data_type)] += tensor_bytes(tensor)
    products = [node for node in view.model.graph.node if node.op_type in PRODUCTS + INTEGER_FORMS]
    work, unit = [macs(node, view) for node in products], "multiply-accumulates"
    if None in work:
        work, unit = [weight_bytes(node, view) for node in products], "weight bytes"
    everywhere = [node for node in nodes_of(view.model.graph) if node.op_type in PRODUCTS + INTEGER_FORMS]
    unit += " of the main graph" if len(everywhere) > len(products) else ""
    total = sum(amount or 0 for amount in work)
    on_integers = sum(amount or 0 for node, amount in zip(products, work, strict=True) if place(node) not in in_float)
    share = on_integers / total if total else float("nan")
    return Precision(dict(stored.most_common()), share, unit, has_quantized_activations(view))


def macs(node: onnx.NodeProto, view: View) -> int | None:
    """Multiply-accumulates of a convolution or product for a batch of one; None if a shape isn't known."""
    operand = node.input[_weight_index(node)]
    shape, output = view.shapes.get(operand), view.shapes.get(node.output[0])
    if node.op_type == "ConvTranspose":
        output = view.shapes.get(node.input[0])  # every input value meets the whole kernel
    if shape is None or output is None or None in shape or None in output or len(shape) < 2:
        return None
    known = [size or 0 for size in shape]
    if "Conv" in node.op_type:
        taps = math.prod(known[1:])
    else:
        taps = known[-1] if node.op_type == "Gemm" and attribute(node, "transB", 0) else known[-2]
    return math.prod(size or 0 for size in output) * taps


def weight_bytes(node: onnx.NodeProto, view: View) -> int:
    """Bytes that the file stores for the weight of a product; 0 where it isn't constant."""
    value = node.input[_weight_index(node)]
    return sum(map(tensor_bytes, view.stored(value))) if value in view.constants else 0


def _weight_index(node: onnx.NodeProto) -> int:
    """The position of the weight among the inputs."""
    return 3 if node.op_type.startswith("QLinear") else 1
