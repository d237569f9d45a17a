"""Products with a constant weight: convolutions of signals and images, Gemm and MatMul."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.conversion.litert.flatbuffer import Quantization, activation, options, padding
from dyncompress.deployment.conversion.litert.graph import input_of, place, shape_of
from dyncompress.deployment.conversion.litert.movement import part
from dyncompress.deployment.conversion.litert.tensors import Stored
from dyncompress.deployment.conversion.litert.translation import Ending, Translation, Weight
from dyncompress.deployment.conversion.litert.windows import image_order, padded, transposed_window, window_of
from dyncompress.errors import Unsupported

_LARGEST = 2**31 - 1  # code of a bias
Arrange = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Operands:
    """What a product reads and where it ends.

    Attributes:
        data: its input, as codes or floats.
        weight: tensor of the weight.
        bias: tensor of the bias; zeros where there is none, since not every kernel does without.
        ending: of the product.
    """

    data: Stored
    weight: int
    bias: int
    ending: Ending


@dataclass(frozen=True)
class Layout:
    """How LiteRT lays a weight out.

    Attributes:
        arrange: from ONNX's layout to LiteRT's.
        channels: axis of the output channels in ONNX's layout.
        axis: the same in LiteRT's.
    """

    arrange: Arrange
    channels: int
    axis: int


def convolution(state: Translation, node: ir.Node) -> None:
    """Translate a Conv of signals or images."""
    shape, weights = shape_of(node.inputs[0]), shape_of(node.inputs[1])
    if len(shape) not in (3, 4):
        raise Unsupported(f"{place(node)}: LiteRT's convolutions take signals and images, this input has shape {list(shape)}.")
    group = node.attributes.get_int("group", 1)
    depthwise = group == shape[1] and weights[1] == 1 and group > 1
    layout = Layout(_depthwise, 0, 3) if depthwise else Layout(_channels_last, 0, 0)
    operands = _operands(state, node, _given_bias(state, node), layout)
    order, window = image_order(len(shape)), window_of(node, weights[2:])
    data, mode = padded(state, operands.data, window, 0)
    fields = {
        "padding": padding(mode),
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "dilationHFactor": window.dilations[0],
        "dilationWFactor": window.dilations[1],
        "fusedActivationFunction": activation(operands.ending.activation),
    }
    if depthwise:
        table = options("DepthwiseConv2DOptions", depthMultiplier=weights[0] // group, **fields)
    else:
        table = options("Conv2DOptions", **fields)
    name, inputs = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [data, operands.weight, operands.bias]
    result = state.emit(name, inputs, state.result(operands.ending), order, table)
    state.bind(operands.ending, result)


def transposed_convolution(state: Translation, node: ir.Node) -> None:
    """Translate a ConvTranspose of signals or images, in float; its batch can't be resized."""
    shape, weights, made = shape_of(node.inputs[0]), shape_of(node.inputs[1]), shape_of(node.outputs[0])
    window = transposed_window(node, weights[2:])
    if len(shape) not in (3, 4) or node.attributes.get_int("group", 1) != 1 or window.dilations != (1, 1):
        raise Unsupported(
            f"{place(node)}: LiteRT has it of signals and images, without groups and dilations; export it in that form."
        )
    layout, order = Layout(lambda weight: _image(weight).transpose(1, 2, 3, 0), 1, 0), image_order(len(shape))
    weight, bias = state.weight(node.inputs[1]), _given_bias(state, node)
    floats = _float_weight(state, node, weight if _is_by_channel(weight, layout) else None, layout)
    computed = tuple(end if window.mode == "SAME" else size for size, end in zip(window.full, made[2:], strict=True))
    result = Stored((*made[:2], *computed), "float32")
    inputs = [
        state.writer.constant(np.array(result.lengths(order), np.int32)),
        floats,
        state.tensor(state.value(node.inputs[0]), order),
    ]
    if bias is not None:
        inputs.append(state.writer.constant(bias.astype(np.float32)))
    fields = {"padding": padding(window.mode), "strideH": window.strides[0], "strideW": window.strides[1]}
    result = state.emit("TRANSPOSE_CONV", inputs, result, order, options("TransposeConvOptions", **fields))
    ranges = {axis + 2: (b, b + made[axis + 2], 1) for axis, b in enumerate(window.begin) if computed[axis] != made[axis + 2]}
    state.stored[node.outputs[0]] = part(state, result, ranges, made) if ranges else result


def gemm(state: Translation, node: ir.Node) -> None:
    """Translate a Gemm with a constant weight."""
    get = node.attributes
    if get.get_int("transA", 0) or get.get_float("alpha", 1.0) != 1.0 or get.get_float("beta", 1.0) != 1.0:
        raise Unsupported(
            f"{place(node)}: alpha, beta and transA other than 1, 1 and 0 aren't translated; export it as a linear layer."
        )
    _fully_connected(state, node, _given_bias(state, node), bool(get.get_int("transB", 0)))


def matmul(state: Translation, node: ir.Node) -> None:
    """Translate a MatMul: with a constant matrix as a linear layer, which takes in a sum with a constant bias."""
    second = node.inputs[1]
    if state.array(second) is not None and len(shape_of(second)) == 2:
        reader = state.only_reader(node.outputs[0], (0, 1))
        bias = None if reader is None else _added(state, reader, node.outputs[0])
        if reader is None or bias is None:
            _fully_connected(state, node, None, False)
        else:
            state.done.add(reader)
            _fully_connected(state, node, bias, False, reader)
        return
    ending = Ending(node.outputs[0])
    operands = [state.value(value) for value in node.inputs]
    result = state.result(ending)
    table = options("BatchMatMulOptions")
    state.bind(ending, state.emit("BATCH_MATMUL", [state.tensor(v, v.plain) for v in operands], result, result.plain, table))


def _added(state: Translation, node: ir.Node, product: ir.Value) -> np.ndarray | None:
    """The constant that a node adds to a product, if it is one number or one for each channel."""
    if node.op_type != "Add":
        return None
    bias, shape = state.array(node.inputs[1] if node.inputs[0] is product else node.inputs[0]), shape_of(product)
    fits = (
        bias is not None and bias.ndim <= len(shape) and bias.shape[-1:] in ((), (1,), shape[-1:]) and bias.size in (1, shape[-1])
    )
    return bias if fits else None


def _fully_connected(
    state: Translation, node: ir.Node, bias: np.ndarray | None, transposed: bool, last: ir.Node | None = None
) -> None:
    """Write a linear layer; `transposed`: the weight is `[out, in]`; `last`: the node that adds the bias."""
    layout = Layout(np.asarray, 0, 0) if transposed else Layout(np.transpose, 1, 0)
    operands = _operands(state, node, bias, layout, last)
    result = state.result(operands.ending)
    fused = activation(operands.ending.activation)
    table = options("FullyConnectedOptions", fusedActivationFunction=fused, keepNumDims=len(result.shape) != 2)
    inputs = [state.tensor(operands.data, operands.data.plain), operands.weight, operands.bias]
    state.bind(operands.ending, state.emit("FULLY_CONNECTED", inputs, result, result.plain, table))


def _operands(
    state: Translation, node: ir.Node, bias: np.ndarray | None, layout: Layout, last: ir.Node | None = None
) -> Operands:
    """What a product reads: on integers where its input, its weight and its output are quantized, else floats."""
    data, weight = node.inputs[0], state.weight(node.inputs[1])
    ending, codes = state.integer_ending(last or node), state.known_codes([data])
    channels = shape_of(node.inputs[1])[layout.channels]
    bias = np.broadcast_to(np.zeros(1) if bias is None else bias.reshape(-1), (channels,)).astype(np.float32)
    by_channel = _is_by_channel(weight, layout)
    if ending is None or codes is None or weight is None or not by_channel:
        floats = _float_weight(state, node, weight if by_channel else None, layout)
        return Operands(state.value(data), floats, state.writer.constant(bias), state.float_ending(last or node))
    index = _integer_weight(state, weight, layout)
    grid = codes[0].quantization
    assert grid is not None
    return Operands(codes[0], index, _integer_bias(state, node, bias, (weight, grid)), ending)


def _given_bias(state: Translation, node: ir.Node) -> np.ndarray | None:
    """The bias of a node, its third input; None if it has none."""
    if input_of(node, 2) is None:
        return None
    bias = state.array(input_of(node, 2))
    if bias is None:
        raise Unsupported(f"{place(node)}: its bias is computed, and LiteRT wants a constant; export it as a sum.")
    return bias


def _is_by_channel(weight: Weight | None, layout: Layout) -> bool:
    """Whether a weight has one scale, or one for each output channel."""
    return weight is not None and (len(weight.scale) == 1 or weight.axis == layout.channels)


def _integer_weight(state: Translation, weight: Weight, layout: Layout) -> int:
    """The codes of a weight in LiteRT's layout."""
    scales = weight.scale
    grid = Quantization(scales, (0,) * len(scales), layout.axis if len(scales) > 1 else 0)
    return state.writer.constant(np.ascontiguousarray(layout.arrange(weight.codes)), grid)


def _float_weight(state: Translation, node: ir.Node, weight: Weight | None, layout: Layout) -> int:
    """A weight that is read as float: dequantized when the file is loaded, or stored as float."""
    if weight is None:
        array = state.array(node.inputs[1])
        if array is None:
            raise Unsupported(f"{place(node)}: its weight is computed, and LiteRT wants a constant; export the model with one.")
        return state.writer.constant(np.ascontiguousarray(layout.arrange(array).astype(np.float32)))
    codes = _integer_weight(state, weight, layout)
    floats = state.writer.tensor(layout.arrange(weight.codes).shape, "float32")
    state.writer.operator("DEQUANTIZE", [codes], floats, options("DequantizeOptions"))
    return floats


def _integer_bias(state: Translation, node: ir.Node, bias: np.ndarray, grids: tuple[Weight, Quantization]) -> int:
    """A bias as int32, in steps of the input's scale times the weight's, in which LiteRT adds products up."""
    weight, data = grids
    steps = np.float32(data.scale[0]) * np.array(weight.scale, np.float32)
    codes = np.rint(bias.astype(np.float64) / steps.astype(np.float64))
    if not (np.abs(codes) <= _LARGEST).all():
        raise Unsupported(f"{place(node)}: a bias is too large for int32 in steps of its weight; compress the model again.")
    grid = Quantization(tuple(map(float, steps)), (0,) * len(steps))
    return state.writer.constant(codes.astype(np.int32), replace(grid, axis=0))


def _image(weight: np.ndarray) -> np.ndarray:
    """The weight of a convolution of signals as that of one of images of height 1."""
    return weight[:, :, None, :] if weight.ndim == 3 else weight


def _channels_last(weight: np.ndarray) -> np.ndarray:
    """From `[out, in / groups, h, w]` to `[out, h, w, in / groups]`."""
    return _image(weight).transpose(0, 2, 3, 1)


def _depthwise(weight: np.ndarray) -> np.ndarray:
    """From `[out, 1, h, w]` to `[1, h, w, out]`."""
    return _image(weight).transpose(1, 2, 3, 0)
