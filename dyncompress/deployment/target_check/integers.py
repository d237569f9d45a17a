"""Rules about integers: grids that a target refuses, and nodes that compute in float although integers surround them.

A product (Conv, Gemm, MatMul) runs on an integer kernel where DequantizeLinear (DQ) computes its input and its weight, its bias
is int32 with the scale input_scale * weight_scale, and, for a Conv, QuantizeLinear (Q) reads its output.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from dyncompress.deployment.domain import PRODUCTS
from dyncompress.deployment.target_check.graph import View, attribute, place, type_bits, type_name
from dyncompress.deployment.target_check.report import FILE, Finding
from dyncompress.types import Target

BIAS_TOLERANCE = 0.01  # relative; onnxruntime doesn't fuse beyond it (microsoft/onnxruntime PR 28229)
EIGHT_BITS = (TensorProto.INT8, TensorProto.UINT8)
Reason = tuple[str, str]  # severity and sentence


def grid_findings(view: View, target: Target) -> Iterator[Finding]:
    """QuantizeLinear and DequantizeLinear nodes whose scale or zero point the target doesn't take."""
    known = set()  # the Q and DQ of a value share their grid, which is reported once
    for node in view.model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for severity, text in _grid_reasons(node, view, target):
            if (*node.input[1:], text) not in known:
                known.add((*node.input[1:], text))
                yield Finding(severity, place(node), node.op_type, text)


def _grid_reasons(node: onnx.NodeProto, view: View, target: Target) -> Iterator[Reason]:
    """What the target doesn't take about the grid of one node."""
    if not view.is_constant(node, 1) or (len(node.input) > 2 and node.input[2] and not view.is_constant(node, 2)):
        yield (
            "float",
            "The graph computes its scale or zero point, and integer kernels need constants; calibrate, and store the scale in "
            "the file.",
        )
        return
    scale = view.value(node.input[1])
    zero = view.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    kind, is_bias = view.code_type(node), view.code_type(node) == TensorProto.INT32
    middle = 128 if kind == TensorProto.UINT8 else 32768 if kind == TensorProto.UINT16 else 0
    if target.element_types and type_name(kind) not in target.element_types and node.input[0] not in view.tensors:
        yield "refused", f"Its codes are {type_name(kind)}, which '{target.name}' doesn't read; quantize to {_wanted(target)}."
        return
    if target.activation_symmetric and zero is not None and not is_bias and (zero != middle).any():
        yield (
            "refused",
            f"Its zero point is {int(zero.reshape(-1)[0])}, and '{target.name}' takes symmetric grids alone (zero point {middle})"
            "; calibrate with symmetric activations.",
        )
    if scale is None:
        return
    if target.power_of_two_scales and (np.frexp(scale)[0] != 0.5).any():
        odd = scale[np.frexp(scale)[0] != 0.5].reshape(-1)[0]
        yield (
            "refused",
            f"Its scale is {odd:.6g}, and '{target.name}' takes powers of two alone; round scales to powers of two before "
            "rounding the values.",
        )
    if target.weight_granularity == "tensor" and scale.size > 1 and not is_bias and view.is_constant(node, 0):
        yield (
            "refused",
            f"The weight has {scale.size} scales, and '{target.name}' takes one for each tensor; set quantize.granularity = "
            '"tensor".',
        )


def _wanted(target: Target) -> str:
    """The activation types with integer kernels, in words."""
    return " or ".join(accepted_activations(target))


def accepted_activations(target: Target) -> tuple[str, ...]:
    """The element types of activations for which the target has integer kernels.

    Example:
        >>> accepted_activations(Target("t", "", "schema", activation_dtype="int8"))
        ('int8',)
    """
    return target.activation_types or (target.activation_dtype,)


def has_quantized_activations(view: View) -> bool:
    """Whether the graph quantizes a value that depends on its inputs."""
    quantizers = ("QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM", "QLinearConv", "QLinearMatMul")
    return any(node.op_type in quantizers and not view.is_constant(node, 0) for node in view.model.graph.node)


def node_findings(view: View, target: Target) -> Iterator[Finding]:
    """Nodes that compute in float or slowly, tables that are decoded whole, and weights off the target's widths."""
    if target.activation_dtype == "float32":
        return
    quantized = has_quantized_activations(view)
    if not quantized:
        yield from _whole_in_float(view)
    for node in view.model.graph.node:
        reason = None
        if node.op_type in PRODUCTS and not node.domain:
            reason = product_reason(node, view, target) if quantized or _is_decoded(node, view, target) else None
        elif node.op_type == "Add" and "Add" in target.integer_ops:
            reason = sum_reason(node, view, target)
        elif node.op_type == "ConvInteger":
            reason = (
                "slow",
                "ConvInteger has no optimised kernel and takes more time than Conv in float; quantize statically, with "
                "QuantizeLinear and DequantizeLinear.",
            )
        elif node.op_type == "Gather":
            reason = _table_reason(node, view)
        if reason is not None:
            yield Finding(reason[0], place(node), node.op_type, reason[1])
        if node.op_type in (*PRODUCTS, "MatMulInteger"):
            yield from _weight_notes(node, view, target)


def _whole_in_float(view: View) -> Iterator[Finding]:
    """A file without quantized activations, whose products all compute in float whatever their weights are stored as."""
    products = [node for node in view.model.graph.node if node.op_type in PRODUCTS and not node.domain]
    if products:
        yield Finding(
            "float",
            FILE,
            "",
            f"None of its convolutions and products ({len(products)}) reads quantized activations, so that they compute in "
            "float; calibrate and quantize activations if integer kernels are wanted.",
        )


def product_reason(node: onnx.NodeProto, view: View, target: Target) -> Reason | None:
    """Why a product doesn't run on an integer kernel; None if it does.

    Args:
        node: Conv, ConvTranspose, Gemm or MatMul.
        view: of its graph.
        target: whose activation types and session options count.

    Returns:
        `float` or `slow`, and a sentence; or None.
    """
    data, weight = view.dequantizer(node, 0), view.dequantizer(node, 1)
    if data is not None and view.is_constant(node, 0):
        data = None
    if weight is not None and data is None and view.is_constant(node, 1):
        return _weight_only(node, view, target)
    if weight is None and _is_decoded(node, view, target):
        return (
            "slow",
            f"'{target.name}' doesn't fold constants, so that the nodes in front of its weight decode it at every run; store the "
            "weight as int8 with one DequantizeLinear, or as float.",
        )
    if data is None or weight is None:
        what = "its weight" if data is not None else "its input"
        change = "quantize the weight too" if data is not None else "quantize what computes it, or accept a layer in float"
        return "float", f"It computes in float, since no DequantizeLinear computes {what}; {change}."
    return (
        _code_reason(data, weight, view, target)
        or _bias_reason(node, data, weight, view)
        or (_output_reason(node, view) if node.op_type.startswith("Conv") else None)
    )


def _is_decoded(node: onnx.NodeProto, view: View, target: Target) -> bool:
    """Whether the weight of a product is decoded at every run, by a DequantizeLinear or by nodes that the target doesn't fold."""
    if view.dequantizer(node, 1) is not None:
        return True
    return view.is_constant(node, 1) and node.input[1] not in view.tensors and not target.folds_constants


def _weight_only(node: onnx.NodeProto, view: View, target: Target) -> Reason:
    """What happens to integer weights whose product reads float activations."""
    if target.folds_constants and target.session.get("session.disable_quant_qdq") == "1":
        return "float", "Its weight is decoded to float32 when the file is loaded, and it computes in float; quantize its input."
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
        return "float", "Its weight stays packed, and its activations are float; quantize its input for an integer kernel."
    return (
        "slow",
        "Its weight is decoded to float32 at every run, which takes more time than a float weight; quantize its input as well, "
        "or store the weight as float.",
    )


def _code_reason(data: onnx.NodeProto, weight: onnx.NodeProto, view: View, target: Target) -> Reason | None:
    """Why the codes of a product's input or weight have no integer kernel."""
    codes, kind = view.code_type(weight), view.code_type(data)
    if 0 < type_bits(codes) < 8:
        return (
            "slow",
            f"Its weight is {type_name(codes)} up to the DequantizeLinear, for which there is no integer kernel: it computes in "
            "float from weights decoded at every run; insert a Cast to int8 in front of the DequantizeLinear.",
        )
    if codes not in EIGHT_BITS:
        return "float", f"Its weight has codes of {type_name(codes)}, for which there is no integer kernel; use int8."
    if attribute(weight, "block_size", 0):
        return "float", "Its weight has scales of blocks, for which there is no integer kernel; use one scale for each channel."
    if type_name(kind) not in accepted_activations(target):
        return (
            "float",
            f"Its input is {type_name(kind)}, for which '{target.name}' lists no integer kernel; quantize activations to "
            f"{_wanted(target)}.",
        )
    if not all(view.is_constant(node, 1) for node in (data, weight)):
        return "float", "The graph computes the scale of its input or weight, so that it isn't fused; store constant scales."
    return None


def _bias_reason(node: onnx.NodeProto, data: onnx.NodeProto, weight: onnx.NodeProto, view: View) -> Reason | None:
    """Why the bias of a product keeps it from its integer kernel."""
    if len(node.input) < 3 or not node.input[2]:
        return None
    bias = view.dequantizer(node, 2)
    if bias is None or view.code_type(bias) != TensorProto.INT32:
        return (
            "float",
            "Its bias isn't int32 behind a DequantizeLinear; quantize the bias with the scale input_scale * weight_scale.",
        )
    scale, of_data, of_weight = (view.value(n.input[1]) for n in (bias, data, weight))
    if scale is None or of_data is None or of_weight is None:
        return None
    expected = np.broadcast_to(np.float64(of_data) * np.float64(of_weight), np.broadcast_shapes(scale.shape, of_weight.shape))
    off = float(np.max(np.abs(scale - expected) / np.maximum(np.abs(expected), 1e-300), initial=0.0))
    if off <= BIAS_TOLERANCE:
        return None
    return (
        "float",
        f"The scale of its bias differs from input_scale * weight_scale by {100 * off:.3g} %, more than the 1 % up to which "
        "runtimes fuse it; compute the bias codes again with that product.",
    )


def _output_reason(node: onnx.NodeProto, view: View) -> Reason | None:
    """Why the output of a Conv keeps it from its integer kernel, which has no float output."""
    ends = fused_outputs(node, view)
    readers = view.readers.get(ends[-1], ())
    producer = view.producers.get(ends[-1])
    if producer is not None and producer.op_type == "QuantizeLinear":
        return None
    if any(reader.op_type == "QuantizeLinear" for reader in readers):
        return None
    return "float", "No QuantizeLinear reads its output, which the integer kernel needs; quantize its output."


def fused_outputs(node: onnx.NodeProto, view: View) -> list[str]:
    """The output of a node, and those of the Relu or Clip and the QuantizeLinear that follow it and may be fused into it."""
    values = [node.output[0]]
    for followers in (("Relu", "Clip"), ("QuantizeLinear",)):
        readers = view.readers.get(values[-1], ())
        if len(readers) == 1 and readers[0].op_type in followers:
            values.append(readers[0].output[0])
    return values


def sum_reason(node: onnx.NodeProto, view: View, target: Target) -> Reason | None:
    """Why a sum in the quantized part of a graph computes in float; None if it doesn't, or lies in a float part."""
    terms = [None if view.is_constant(node, index) else view.dequantizer(node, index) for index in (0, 1)]
    known = [term for term in terms if term is not None]
    if not known:
        return None
    if len(known) < 2:
        return "float", "One of its terms isn't quantized, so that it computes in float; quantize both terms."
    kinds = {type_name(view.code_type(term)) for term in known}
    if not kinds <= set(accepted_activations(target)):
        return (
            "float",
            f"Its terms are {' and '.join(sorted(kinds))}, for which '{target.name}' lists no integer kernel; quantize "
            f"activations to {_wanted(target)}.",
        )
    return _output_reason(node, view)


def _table_reason(node: onnx.NodeProto, view: View) -> Reason | None:
    """A table of integers that is decoded as a whole although a few of its rows are read."""
    if view.dequantizer(node, 0) is None or not view.is_constant(node, 0):
        return None
    return (
        "slow",
        "The whole table is decoded to float32 at every run; gather rows of codes first, and put the DequantizeLinear behind.",
    )


def _weight_notes(node: onnx.NodeProto, view: View, target: Target) -> Iterator[Finding]:
    """Weights of 8 bits where 16-bit sums saturate, and numbers of channels off the target's multiple."""
    weight = view.dequantizer(node, 1)
    stored = node.input[1] if node.op_type == "MatMulInteger" else weight.input[0] if weight is not None else ""
    codes = view.value(stored) if target.reduce_range else None
    if codes is not None and codes.dtype == np.int8 and codes.size and (codes.min() < -64 or codes.max() > 64):
        yield Finding(
            "note",
            place(node),
            node.op_type,
            f"Its weights use 8 bits, and sums of 16 bits on '{target.name}' may saturate, which makes outputs wrong; quantize "
            "with 7 bits (reduce_range).",
        )
    shape = view.shapes.get(node.input[1], ()) if view.is_constant(node, 1) else ()
    channels = _channels(node, shape)
    if channels and channels % target.channel_multiple and _feeds_another(node, view):
        yield Finding(
            "note",
            place(node),
            node.op_type,
            f"Its number of output channels, {channels}, isn't a multiple of {target.channel_multiple}; '{target.name}' runs "
            "multiples fast, so prune or widen it to one.",
        )


def _channels(node: onnx.NodeProto, shape: tuple[int | None, ...]) -> int:
    """Number of output channels; 0 if it isn't known, or for a grouped transposed convolution."""
    if len(shape) < 2 or (node.op_type == "ConvTranspose" and attribute(node, "group", 1) > 1):
        return 0
    first = node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0))
    return (shape[0] if first else shape[1] if node.op_type == "ConvTranspose" else shape[-1]) or 0


def _feeds_another(node: onnx.NodeProto, view: View) -> bool:
    """Whether the graph reads the output of a node, directly or not, in another product: the number of classes can't change."""
    pending, seen = list(node.output), set()
    while pending:
        for reader in view.readers.get(pending.pop(), ()):
            if reader.op_type in PRODUCTS:
                return True
            if id(reader) not in seen:
                seen.add(id(reader))
                pending += reader.output
    return False
