"""The dynamic form of products and LSTMs: weights are integers in the file, activations are quantized at every run.

    MatMul(x, W)    codes, s, z = DynamicQuantizeLinear(x);  Cast(MatMulInteger(codes, W's codes, z)) * (s * W's scales)
    Gemm(x, W, b)   the same, plus b
    LSTM            com.microsoft.DynamicQuantizeLSTM, which quantizes its input and its state at every run

onnxruntime fuses the nodes of a product into one kernel. No range is calibrated, and no value is clipped: one grid covers all
values of x in a run. It therefore depends on all examples of a batch, and the outputs for one of them change a little with the
others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import Constants
from dyncompress.deployment.domain import has_integer_kernel
from dyncompress.deployment.weights import StoredWeight

MICROSOFT = "com.microsoft"
_SCALES = {1: 8, 2: 10}  # input of a DynamicQuantizeLSTM with codes -> that with their scales; zero points follow


def dynamic_nodes(graph: ir.Graph, weights: Mapping[str, StoredWeight]) -> set[ir.Node]:
    """The nodes of a float graph that have a dynamic form: products and LSTMs whose weights have one scale for each output.

    Args:
        graph: the float graph; nodes inside its branches and loops stay as they are.
        weights: the encoded initializers by name.

    Returns:
        MatMul, Gemm and LSTM nodes. Weights of more than two axes, and scales of groups or of inputs, have no such form.
    """
    return {node for node in graph if _is_product(node, weights) or _is_lstm(node, weights)}


def _is_product(node: ir.Node, weights: Mapping[str, StoredWeight]) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or not has_integer_kernel(node, weights.keys()):
        return False
    weight = _weight(node, 1, weights)
    outputs = 0 if _is_transposed(node) else 1
    return weight is not None and weight.codes.ndim == 2 and weight.axis in (None, outputs)


def _is_lstm(node: ir.Node, weights: Mapping[str, StoredWeight]) -> bool:
    if node.op_type != "LSTM" or node.domain or ("layout" in node.attributes and node.attributes["layout"].as_int()):
        return False
    both = [_weight(node, index, weights) for index in _SCALES]
    return all(weight is not None and weight.codes.ndim == 3 and weight.axis in (None, 1) for weight in both)


def _weight(node: ir.Node, index: int, weights: Mapping[str, StoredWeight]) -> StoredWeight | None:
    """The encoding of an input of a node, if it has scales of channels or of the tensor."""
    value = node.inputs[index] if len(node.inputs) > index else None
    weight = weights.get(value.name or "") if value is not None and value.is_initializer() else None
    return weight if weight is not None and weight.per_channel is not None else None


def _is_transposed(node: ir.Node) -> bool:
    return "transB" in node.attributes and bool(node.attributes["transB"].as_int())


def quantize_at_run(constants: Constants, weight: StoredWeight, codes: ir.Value, node: ir.Node, index: int) -> None:
    """Give one of `dynamic_nodes` its dynamic form, in place; for an LSTM one of its two weights at a time.

    The outputs of the node and their names stay.

    Args:
        constants: of the graph.
        weight: that the node reads.
        codes: the value that holds its codes in the initializer's shape, in front of the node.
        node: a MatMul, Gemm or LSTM.
        index: of the weight among the node's inputs.
    """
    if node.op_type in ("MatMul", "Gemm"):
        _quantize_product(constants, weight, codes, node)
        return
    node.op_type, node.domain = "DynamicQuantizeLSTM", MICROSOFT
    constants.graph.opset_imports[MICROSOFT] = 1
    node.attributes.pop("layout", None)
    node.resize_inputs(12)
    directions = len(weight.codes)
    scales = weight.scale.reshape(directions, -1) if weight.scale.ndim else np.full(directions, weight.scale, np.float32)
    node.replace_input_with(index, _transposed(constants, codes, node, [0, 2, 1]))
    node.replace_input_with(_SCALES[index], constants.tensor(scales))
    node.replace_input_with(_SCALES[index] + 1, constants.tensor(np.zeros(scales.shape, np.int8)))


def _quantize_product(constants: Constants, weight: StoredWeight, codes: ir.Value, node: ir.Node) -> None:
    """Put the integer product in front of a node, which becomes the last Mul of it or the Add of its bias."""
    data = node.inputs[0]
    assert data is not None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    matrix = _transposed(constants, codes, node, [1, 0]) if _is_transposed(node) else codes
    quantized, step, zero = _quantized(constants.graph, data)
    total = constants.node("MatMulInteger", [quantized, matrix, zero], node)
    as_float = constants.node("Cast", [total], node, {"to": int(ir.DataType.FLOAT)})
    scale = constants.node("Mul", [step, constants.tensor(weight.scale)], node)
    node.attributes.clear()
    node.resize_inputs(2)
    if bias is None:
        node.op_type, terms = "Mul", (as_float, scale)
    else:
        node.op_type, terms = "Add", (constants.node("Mul", [as_float, scale], node), bias)
    for place, value in enumerate(terms):
        node.replace_input_with(place, value)


def _transposed(constants: Constants, codes: ir.Value, node: ir.Node, order: list[int]) -> ir.Value:
    """The codes with their axes in another order; onnxruntime transposes them once, at load."""
    return constants.node("Transpose", [codes], node, {"perm": order})


def _quantized(graph: ir.Graph, value: ir.Value) -> tuple[ir.Value, ...]:
    """Codes, scale and zero point of a value at run time; all its readers share one DynamicQuantizeLinear."""
    known = next((use.node for use in value.uses() if use.node.op_type == "DynamicQuantizeLinear"), None)
    if known is None:
        known = ir.node("DynamicQuantizeLinear", [value], num_outputs=3)
        for index, out in enumerate(known.outputs):
            out.name = f"{value.name}__dynamic{index}"
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], known)
        else:
            graph.insert_after(producer, known)
    return tuple(known.outputs)
