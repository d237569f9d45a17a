"""Operators that slide a window over signals or images: their padding, and pooling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.conversion.litert.flatbuffer import options, padding
from dyncompress.deployment.conversion.litert.graph import place, shape_of
from dyncompress.deployment.conversion.litert.tensors import Order, Stored
from dyncompress.deployment.conversion.litert.translation import Ending, Translation
from dyncompress.errors import Unsupported

_LOWEST_CODE = -128
Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A window over images; a signal is an image of height 1.

    Attributes:
        kernel, strides, dilations: along height and width.
        begin, end: padding along height and width, as far as windows reach.
        mode: `VALID` or `SAME` where LiteRT pads in this way itself, else empty.
    """

    kernel: Pair
    strides: Pair
    dilations: Pair
    begin: Pair
    end: Pair
    mode: str


def image_order(rank: int) -> Order:
    """Channels last, as an image: of a signal `[n, channels, length]` or an image `[n, channels, height, width]`."""
    return (0, -1, 2, 1) if rank == 3 else (0, 2, 3, 1)


def window_of(node: ir.Node, kernel: tuple[int, ...]) -> Window:
    """The window of a Conv or of a pooling."""
    given, made = shape_of(node.inputs[0])[2:], shape_of(node.outputs[0])[2:]
    axes, get = len(given), node.attributes.get_ints
    strides, dilations = tuple(get("strides", [1] * axes) or ()), tuple(get("dilations", [1] * axes) or ())
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    begin, ends = _pads(node, given, made, list(zip(reach, strides, strict=True)))
    modes = []
    for axis in range(axes):
        length, stride = given[axis], strides[axis]
        if begin[axis] == 0 and made[axis] == (length - reach[axis]) // stride + 1:
            modes.append({"VALID", "SAME"} if made[axis] == -(-length // stride) else {"VALID"})
        elif made[axis] == -(-length // stride) and begin[axis] == max((made[axis] - 1) * stride + reach[axis] - length, 0) // 2:
            modes.append({"SAME"})
        else:
            modes.append(set())
    shared = sorted(set.intersection(*modes), reverse=True)
    return Window(
        _pair(kernel, 1), _pair(strides, 1), _pair(dilations, 1), _pair(begin, 0), _pair(ends, 0), shared[0] if shared else ""
    )


@dataclass(frozen=True)
class Spread:
    """The window of a transposed convolution.

    Attributes:
        strides, dilations: along height and width.
        begin: what is cut off the full result before each axis of the value.
        full: lengths of the result of which that is cut off.
        mode: `SAME` where LiteRT computes the cut result itself, else `VALID`.
    """

    strides: Pair
    dilations: Pair
    begin: tuple[int, ...]
    full: tuple[int, ...]
    mode: str


def transposed_window(node: ir.Node, kernel: tuple[int, ...]) -> Spread:
    """The window of a ConvTranspose."""
    given, made = shape_of(node.inputs[0])[2:], shape_of(node.outputs[0])[2:]
    axes, get = len(given), node.attributes.get_ints
    strides, dilations = tuple(get("strides", [1] * axes) or ()), tuple(get("dilations", [1] * axes) or ())
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or node.attributes.get_ints("output_shape", []):
        raise Unsupported(f"{place(node)}: auto_pad and output_shape aren't translated; export it with pads.")
    begin = tuple(get("pads", [0] * 2 * axes) or ())[:axes]
    full = [(length - 1) * s + k for length, s, k in zip(given, strides, kernel, strict=True)]
    same = all(
        -(-out // s) == length and begin_of == max(size - out, 0) // 2
        for out, s, length, begin_of, size in zip(made, strides, given, begin, full, strict=True)
    )
    size = tuple(max(size, b + out) for size, b, out in zip(full, begin, made, strict=True))
    return Spread(_pair(strides, 1), _pair(dilations, 1), begin, size, "SAME" if same else "VALID")


def _pads(node: ir.Node, given: tuple[int, ...], made: tuple[int, ...], windows: list[Pair]) -> tuple[list[int], list[int]]:
    """The padding before and behind each axis, as far as windows (their reach and stride) extend."""
    needed = [
        max((out - 1) * stride + reach - length, 0) for out, length, (reach, stride) in zip(made, given, windows, strict=True)
    ]
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto == "SAME_UPPER":
        begin = [total // 2 for total in needed]
    elif auto == "SAME_LOWER":
        begin = [total - total // 2 for total in needed]
    else:
        begin = list(node.attributes.get_ints("pads", [0] * 2 * len(given)) or ())[: len(given)]
    return begin, [max(total - first, 0) for total, first in zip(needed, begin, strict=True)]


def _pair(values: list[int] | tuple[int, ...], height: int) -> Pair:
    """Values along height and width; a signal has only a width."""
    numbers = (height, *values)[-2:]
    return int(numbers[0]), int(numbers[1])


def padded(state: Translation, value: Stored, window: Window, fill: float) -> tuple[int, str]:
    """The tensor that a window slides over, channels last, and LiteRT's mode of padding.

    Args:
        state: of the conversion.
        value: signals or images.
        window: over them.
        fill: what is padded: 0, or -inf for the smallest number.
    """
    order = image_order(len(value.shape))
    data = state.tensor(value, order)
    if window.mode:
        return data, window.mode
    amounts = np.array([[0, 0], *zip(window.begin, window.end, strict=True), [0, 0]], np.int32)
    lengths = [int(length) for length in value.lengths(order) + amounts.sum(1)]
    result = state.writer.tensor(lengths, value.dtype, value.quantization)
    if fill == 0:
        state.writer.operator("PAD", [data, state.writer.constant(amounts)], result, options("PadOptions"))
    else:
        number = np.array([_LOWEST_CODE if value.dtype == "int8" else np.finfo(np.float32).min], value.dtype)
        inputs = [data, state.writer.constant(amounts), state.writer.constant(number, value.quantization)]
        state.writer.operator("PADV2", inputs, result, options("PadV2Options"))
    return result, "VALID"


def max_pool(state: Translation, node: ir.Node) -> None:
    """Translate a MaxPool, which works on codes as on values."""
    window = _pooling_window(node)
    if len([value for value in node.outputs if list(value.uses())]) > 1:
        raise Unsupported(f"{place(node)}: LiteRT's pooling has no indices of maxima; export the model without them.")

    def pool(value: Stored) -> Stored:
        return _pooled(state, value, window, Stored(shape_of(node.outputs[0]), value.dtype, value.quantization))

    state.moved(node, pool)


def average_pool(state: Translation, node: ir.Node) -> None:
    """Translate an AveragePool: on integers where its grid stays the same, else in float."""
    window = _pooling_window(node)
    counts_padding = node.attributes.get_int("count_include_pad", 0)
    pads = any((*window.begin, *window.end))
    if (pads and counts_padding and node.attributes.get_int("ceil_mode", 0)) or (pads and not counts_padding and not window.mode):
        raise Unsupported(f"{place(node)}: LiteRT can't average windows that reach over this edge; pool without padding.")
    if pads and counts_padding:
        window = Window(window.kernel, window.strides, window.dilations, window.begin, window.end, "")
    ending, codes = state.integer_ending(node), state.known_codes(node.inputs)
    if ending is None or codes is None or codes[0].quantization != ending.grid or ending.activation != "NONE":
        ending, value = Ending(node.outputs[0]), state.value(node.inputs[0])
    else:
        value = codes[0]
    state.bind(ending, _pooled(state, value, window, state.result(ending), "AVERAGE_POOL_2D"))


def _pooling_window(node: ir.Node) -> Window:
    kernel = tuple(node.attributes.get_ints("kernel_shape", []) or ())
    if len(kernel) not in (1, 2):
        raise Unsupported(f"{place(node)}: LiteRT pools signals and images; export it without pooling of volumes.")
    window = window_of(node, kernel)
    if window.dilations != (1, 1):
        raise Unsupported(f"{place(node)}: LiteRT has no pooling with dilations; export the model without them.")
    return window


def _pooled(state: Translation, value: Stored, window: Window, result: Stored, name: str = "MAX_POOL_2D") -> Stored:
    data, mode = padded(state, value, window, 0 if name == "AVERAGE_POOL_2D" else -np.inf)
    (height, width), (rows, columns) = window.kernel, window.strides
    table = options("Pool2DOptions", padding=padding(mode), strideH=rows, strideW=columns, filterHeight=height, filterWidth=width)
    return state.emit(name, [data], result, image_order(len(value.shape)), table)
