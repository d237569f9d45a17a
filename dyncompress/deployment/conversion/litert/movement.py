"""Operators that move elements, and sums and means over axes. Those that move elements work on codes as on values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.conversion.litert.flatbuffer import options, tensor_type
from dyncompress.deployment.conversion.litert.graph import given_constant, input_of, place, shape_of
from dyncompress.deployment.conversion.litert.tensors import Order, Stored
from dyncompress.deployment.conversion.litert.translation import Ending, Translation, constant_value
from dyncompress.errors import Unsupported

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
REDUCTIONS = {
    **{"ReduceMean": "MEAN", "GlobalAveragePool": "MEAN", "ReduceSum": "SUM", "ReduceProd": "REDUCE_PROD"},
    **{"ReduceMax": "REDUCE_MAX", "GlobalMaxPool": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN"},
}


def reshape(state: Translation, node: ir.Node) -> None:
    """Translate a Reshape, Flatten, Squeeze or Unsqueeze."""
    shape = shape_of(node.outputs[0])
    state.moved(node, lambda value: state.reshaped(value, shape))


def transposed(value: Stored, axes: Sequence[int]) -> Stored:
    """A value with its axes in another order: the tensors stay, and their axes get other names."""
    shape = tuple(value.shape[axis] for axis in axes)
    if value.data is not None:
        return Stored(shape, value.dtype, value.quantization, value.data.transpose(axes))
    orders = {tuple(axes.index(axis) if axis >= 0 else -1 for axis in order): index for order, index in value.tensors.items()}
    return Stored(shape, value.dtype, value.quantization, None, orders)


def transpose(state: Translation, node: ir.Node) -> None:
    """Translate a Transpose."""
    axes = list(node.attributes.get_ints("perm", []) or reversed(range(len(shape_of(node.outputs[0])))))
    state.moved(node, lambda value: transposed(value, axes))


def depth_and_space(state: Translation, node: ir.Node) -> None:
    """Translate a DepthToSpace or SpaceToDepth: a transposition of blocks."""
    (n, channels, height, width), size = shape_of(node.inputs[0]), node.attributes.get_int("blocksize", 1) or 1
    shape = shape_of(node.outputs[0])
    if node.op_type == "SpaceToDepth":
        blocks, axes = (n, channels, height // size, size, width // size, size), [0, 3, 5, 1, 2, 4]
    elif node.attributes.get_string("mode", "DCR") == "DCR":
        blocks, axes = (n, size, size, channels // size**2, height, width), [0, 3, 4, 1, 5, 2]
    else:
        blocks, axes = (n, channels // size**2, size, size, height, width), [0, 1, 4, 2, 5, 3]
    state.moved(node, lambda value: state.reshaped(transposed(state.reshaped(value, blocks), axes), shape))


def expand(state: Translation, node: ir.Node) -> None:
    """Translate an Expand."""
    shape = shape_of(node.outputs[0])
    lengths = state.writer.constant(np.array(shape, np.int32))

    def move(value: Stored) -> Stored:
        value = state.reshaped(value, (1,) * (len(shape) - len(value.shape)) + value.shape)
        result = Stored(shape, value.dtype, value.quantization)
        return state.emit("BROADCAST_TO", [state.tensor(value, value.plain), lengths], result, result.plain)

    state.moved(node, move)


def arg_max(state: Translation, node: ir.Node) -> None:
    """Translate an ArgMax or ArgMin: the first of equal extrema."""
    if node.attributes.get_int("select_last_index", 0):
        raise Unsupported(f"{place(node)}: LiteRT finds the first of equal extrema, this node asks for the last.")
    name, value = {"ArgMax": "ARG_MAX", "ArgMin": "ARG_MIN"}[node.op_type], state.value(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % len(value.shape)
    table = options(f"{node.op_type}Options", outputType=tensor_type("int64"))
    result = Stored((*value.shape[:axis], *value.shape[axis + 1 :]), "int64")
    inputs = [state.tensor(value, value.plain), state.writer.constant(np.array([axis], np.int32))]
    result = state.emit(name, inputs, result, result.plain, table)
    state.stored[node.outputs[0]] = state.reshaped(result, shape_of(node.outputs[0]))


def concat(state: Translation, node: ir.Node) -> None:
    """Translate a Concat: on integers where all is quantized, after bringing the inputs to the grid of the output."""
    ending, operands = state.integer_ending(node), state.known_codes(node.inputs)
    if ending is None or operands is None or ending.grid is None or ending.activation != "NONE":
        ending, operands = Ending(node.outputs[0]), [state.value(value) for value in node.inputs]
        result = Stored(shape_of(ending.value), operands[0].dtype, operands[0].quantization)  # codes: all have one grid
    else:
        operands = [state.requantized(value, ending.grid) for value in operands]
        result = state.result(ending)
    if any(value.quantization != result.quantization for value in operands):
        raise Unsupported(f"{place(node)}: it joins codes of different grids; write a DequantizeLinear before each.")
    order = next((value.order for value in operands if value.data is None), operands[0].plain)
    axis = node.attributes.get_int("axis", 0) % len(result.shape)
    table = options("ConcatenationOptions", axis=order.index(axis))
    state.bind(ending, state.emit("CONCATENATION", [state.tensor(value, order) for value in operands], result, order, table))


def pad(state: Translation, node: ir.Node) -> None:
    """Translate a Pad with a constant or by reflection."""
    mode, output = node.attributes.get_string("mode", "constant"), node.outputs[0]
    shape, source = shape_of(output), node.inputs[0]
    pads, axes, fill = given_constant(node, 1), given_constant(node, 3), given_constant(node, 2)
    assert pads is not None and source is not None
    before, behind = pads.reshape(2, -1).astype(np.int32)
    amounts = np.zeros((len(shape), 2), np.int32)
    amounts[list(range(len(shape))) if axes is None else [int(a) % len(shape) for a in axes.reshape(-1)]] = np.stack(
        [before, behind], 1
    )
    if mode not in ("constant", "reflect") or (amounts < 0).any():
        raise Unsupported(
            f"{place(node)}: LiteRT pads with a constant or by reflection; mode '{mode}' or a negative amount isn't."
        )
    if source in state.codes and fill is not None and fill.any():
        state.stored[output] = _padded(state, state.value(source), amounts, mode, fill)
    else:
        state.moved(node, lambda value: _padded(state, value, amounts, mode, fill))


def _padded(state: Translation, value: Stored, amounts: np.ndarray, mode: str, fill: np.ndarray | None) -> Stored:
    """A value with padding; what is filled in is zero unless `fill` says another number."""
    shape = tuple(int(length) for length in np.array(value.shape) + amounts.sum(1))
    result, order = Stored(shape, value.dtype, value.quantization), value.order
    inputs = [
        state.tensor(value, order),
        state.writer.constant(np.array([[0, 0] if a < 0 else amounts[a] for a in order], np.int32)),
    ]
    if mode == "reflect":
        return state.emit("MIRROR_PAD", inputs, result, order, options("MirrorPadOptions", mode=0))
    grid = value.quantization
    if grid is not None and fill is not None and fill.dtype in (np.uint8, np.int8):
        code = int(fill.reshape(())) - (128 if fill.dtype == np.uint8 else 0)
        number = np.array([code], np.int8)
        zero = code == grid.zero_point[0]
    else:
        number = np.zeros(1, value.dtype) if fill is None else fill.reshape(1).astype(value.dtype)
        zero = not number.any()
    if zero:
        return state.emit("PAD", inputs, result, order, options("PadOptions"))
    return state.emit("PADV2", [*inputs, state.writer.constant(number, grid)], result, order, options("PadV2Options"))


def part(state: Translation, value: Stored, ranges: dict[int, tuple[int, int, int]], shape: tuple[int, ...]) -> Stored:
    """The part of a value from a begin to an end (excluded) with a step, along some axes."""
    order = value.order
    bounds = [ranges.get(axis, (0, 1 if axis < 0 else value.shape[axis], 1)) for axis in order]
    whole = sum(1 << place_of for place_of, axis in enumerate(order) if axis not in ranges)
    numbers = [state.writer.constant(np.array(column, np.int32)) for column in zip(*bounds, strict=True)]
    table = options("StridedSliceOptions", beginMask=whole, endMask=whole)
    result = Stored(shape, value.dtype, value.quantization)
    return state.emit("STRIDED_SLICE", [state.tensor(value, order), *numbers], result, order, table)


def cut(state: Translation, node: ir.Node) -> None:
    """Translate a Slice."""
    shape, given = shape_of(node.outputs[0]), shape_of(node.inputs[0])
    starts, ends, axes, steps = (given_constant(node, index) for index in range(1, 5))
    assert starts is not None and ends is not None
    numbers = range(len(starts)) if axes is None else [int(axis) % len(given) for axis in axes]
    ranges = {}
    for index, axis in enumerate(numbers):
        step = 1 if steps is None else int(steps[index])
        if step < 1:
            raise Unsupported(f"{place(node)}: a negative step isn't translated; export the model without flipping.")
        begin, end, _ = slice(int(starts[index]), int(ends[index]), step).indices(given[axis])
        ranges[axis] = (begin, end, step)
    state.moved(node, lambda value: part(state, value, ranges, shape))


def split(state: Translation, node: ir.Node) -> None:
    """Translate a Split: a part for each output."""
    source = node.inputs[0]
    assert source is not None
    axis = node.attributes.get_int("axis", 0) % len(shape_of(source))
    begin, known = 0, source in state.codes
    value = state.codes[source] if known else state.value(source)
    for output in node.outputs:
        shape = shape_of(output)
        cut_off = part(state, value, {axis: (begin, begin + shape[axis], 1)}, shape)
        (state.codes if known else state.stored)[output] = cut_off
        begin += shape[axis]


def gather(state: Translation, node: ir.Node) -> None:
    """Translate a Gather with constant indices, or of a constant table."""
    shape, given = shape_of(node.outputs[0]), shape_of(node.inputs[0])
    axis, indices = node.attributes.get_int("axis", 0) % len(given), state.array(input_of(node, 1))
    if indices is None:
        places = state.value(node.inputs[1])
    else:
        places = constant_value(np.where(indices < 0, indices + given[axis], indices).astype(np.int32))
    index = state.tensor(places, places.plain)
    table = options("GatherOptions", axis=axis)

    def move(value: Stored) -> Stored:
        result = Stored(shape, value.dtype, value.quantization)
        return state.emit("GATHER", [state.tensor(value, value.plain), index], result, result.plain, table)

    state.moved(node, move)


def reduce(state: Translation, node: ir.Node) -> None:
    """Translate a mean, sum, product or extremum over axes; a mean on integers where all is quantized."""
    name, rank = REDUCTIONS[node.op_type], len(shape_of(node.inputs[0]))
    ending, codes = state.integer_ending(node), state.known_codes(node.inputs[:1])
    if name != "MEAN" or ending is None or codes is None or ending.activation != "NONE":
        ending, value = Ending(node.outputs[0]), state.value(node.inputs[0])
    else:
        value = codes[0]
    axes, keep = _reduced_axes(node, rank)
    result = state.result(ending)
    result.dtype = value.dtype
    order, kept = value.order, value.order
    if not keep:
        kept = tuple(axis if axis < 0 else axis - sum(other < axis for other in axes) for axis in order if axis not in axes)
    places = state.writer.constant(np.array([order.index(axis) for axis in axes], np.int32))
    inputs, table = [state.tensor(value, order), places], options("ReducerOptions", keepDims=keep)
    state.bind(ending, state.emit(name, inputs, result, kept, table))


def _reduced_axes(node: ir.Node, rank: int) -> tuple[Sequence[int], bool]:
    """The axes of a reduction, and whether they stay with length 1."""
    if node.op_type.startswith("Global"):
        return range(2, rank), True
    given = given_constant(node, 1)
    axes = node.attributes.get_ints("axes", []) if given is None else given.reshape(-1)
    if not len(axes or ()) if given is None else not given.size:
        if node.attributes.get_int("noop_with_empty_axes", 0):
            raise Unsupported(f"{place(node)}: it reduces nothing; export the model without it.")
        axes = range(rank)
    return sorted(int(axis) % rank for axis in axes), bool(node.attributes.get_int("keepdims", 1))  # pyright: ignore


def resize(state: Translation, node: ir.Node) -> None:
    """Translate a Resize or Upsample of images to their nearest neighbours, or linear."""
    shape, given = shape_of(node.outputs[0]), shape_of(node.inputs[0])
    mode, get = node.attributes.get_string("mode", "nearest"), node.attributes.get_string
    places, rounding = get("coordinate_transformation_mode", "half_pixel"), get("nearest_mode", "round_prefer_floor")
    order: Order = (0, 2, 3, 1)
    whole = all(new % old == 0 for new, old in zip(shape, given, strict=True))
    nearest = mode == "nearest" and (whole if places != "asymmetric" else rounding == "floor") and places != "align_corners"
    linear = mode == "linear" and places in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    if len(given) != 4 or shape[:2] != given[:2] or not (nearest or linear):
        raise Unsupported(
            f"{place(node)}: mode '{mode}' with '{places}' from {list(given)} to {list(shape)} isn't translated; LiteRT resizes "
            "images to nearest neighbours or linearly."
        )
    sizes = state.writer.constant(np.array(shape[2:], np.int32))

    def move(value: Stored) -> Stored:
        result, inputs = Stored(shape, value.dtype, value.quantization), [state.tensor(value, order), sizes]
        if nearest:
            return state.emit("RESIZE_NEAREST_NEIGHBOR", inputs, result, order, options("ResizeNearestNeighborOptions"))
        fields = {"alignCorners": places == "align_corners", "halfPixelCenters": "half_pixel" in places}
        return state.emit("RESIZE_BILINEAR", inputs, result, order, options("ResizeBilinearOptions", **fields))

    if nearest:
        state.moved(node, move)
    else:
        state.stored[node.outputs[0]] = move(state.value(node.inputs[0]))


OPERATORS = {
    **dict.fromkeys(RESHAPES, reshape),
    **dict.fromkeys(REDUCTIONS, reduce),
    "Transpose": transpose,
    "DepthToSpace": depth_and_space,
    "SpaceToDepth": depth_and_space,
    "Expand": expand,
    "ArgMax": arg_max,
    "ArgMin": arg_max,
    "Concat": concat,
    "Pad": pad,
    "Slice": cut,
    "Split": split,
    "Gather": gather,
    "Resize": resize,
}
