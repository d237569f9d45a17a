"""The state of a conversion: where each ONNX value is stored, and which nodes an operator of LiteRT has taken in.

A value behind a DequantizeLinear is known by its codes. An operator of LiteRT computes on integers where all its inputs are known
by codes and a QuantizeLinear, perhaps behind a Relu or Clip, is all that reads its output: it takes these nodes in. Elsewhere the
codes are dequantized, and the operator computes in float, as ONNX defines it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import constant
from dyncompress.deployment.conversion.litert.flatbuffer import Quantization, Writer, options
from dyncompress.deployment.conversion.litert.graph import given_constant, input_of, place, shape_of
from dyncompress.deployment.conversion.litert.tensors import Order, Stored, reshape, tensor_in, tensor_in_sequence
from dyncompress.errors import Unsupported

_SHIFT = 128  # from uint8 codes to int8
TYPES = ("float32", "int32", "int64", "int8", "bool")
_FUSED = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


@dataclass(frozen=True)
class Ending:
    """Where an operator of LiteRT ends.

    Attributes:
        value: of the ONNX graph that it computes.
        absorbed: nodes behind its own that it takes in.
        activation: that it applies: `NONE` or a fused one.
        grid: of `value`, if that is quantized.
    """

    value: ir.Value
    absorbed: tuple[ir.Node, ...] = ()
    activation: str = "NONE"
    grid: Quantization | None = None


@dataclass(frozen=True)
class Weight:
    """A constant of the ONNX graph as integers.

    Attributes:
        codes: int8, zero point 0, in ONNX's layout.
        scale: one, or one for each index along `axis`.
        axis: of `codes`.
    """

    codes: np.ndarray
    scale: tuple[float, ...]
    axis: int


@dataclass
class Translation:
    """What is known while nodes are translated, in the order of the graph.

    Attributes:
        outputs: of the graph.
        free_batch: whether the batch may be resized.
        writer: of the file.
        stored: value -> where it is; the codes of quantized values.
        codes: float value behind a DequantizeLinear -> its codes.
        done: nodes that an operator has taken in.
    """

    outputs: frozenset[ir.Value]
    free_batch: bool
    writer: Writer = field(default_factory=Writer)
    stored: dict[ir.Value, Stored] = field(default_factory=dict)
    codes: dict[ir.Value, Stored] = field(default_factory=dict)
    done: set[ir.Node] = field(default_factory=set)

    # What a node reads.

    def value(self, value: ir.Value | None) -> Stored:
        """A value as a node reads it that computes in float, or that moves codes which it reads itself."""
        assert value is not None
        if value not in self.stored:
            if value in self.codes:
                self.stored[value] = self.apply("DEQUANTIZE", [self.codes[value]], Stored(self.codes[value].shape, "float32"))
            else:
                array = self.array(value)
                if array is None:
                    raise Unsupported(f"'{value.name}' isn't among the values that LiteRT computes; export the model without it.")
                self.stored[value] = constant_value(array)
        return self.stored[value]

    def array(self, value: ir.Value | None) -> np.ndarray | None:
        """A constant as ONNX reads it, dequantized where it is stored as codes; None if the graph computes it."""
        array = constant(value)
        if array is not None or value is None or _producer(value, "DequantizeLinear") is None:
            return array
        return _dequantized(value.producer())

    def weight(self, value: ir.Value | None) -> Weight | None:
        """A constant that is stored as codes of 8 bits; None if it isn't, or in blocks.

        Raises:
            Unsupported: the codes aren't symmetric.
        """
        node = None if value is None else _producer(value, "DequantizeLinear")
        if node is None or node.attributes.get_int("block_size", 0):
            return None
        codes, scale, zero = (constant(input_of(node, index)) for index in range(3))
        if codes is None or scale is None or codes.dtype not in (np.int8, np.uint8):
            return None
        shift = _SHIFT if codes.dtype == np.uint8 else 0
        shifted = codes.astype(np.int16) - shift
        if (zero is None and shift) or (zero is not None and (zero.astype(np.int16) != shift).any()) or (shifted < -127).any():
            name = node.inputs[0].name if node.inputs[0] is not None else ""
            raise Unsupported(
                f"weight '{name}' has a zero point or the code -128, and LiteRT takes symmetric weights from -127 to 127; "
                "compress the model for target 'litert'."
            )
        axis = node.attributes.get_int("axis", 1) % max(codes.ndim, 1)
        return Weight(shifted.astype(np.int8), tuple(map(float, scale.reshape(-1))), axis if scale.size > 1 else 0)

    def known_codes(self, values: Sequence[ir.Value | None]) -> list[Stored] | None:
        """The codes of float values, constants included; None if one isn't known by codes."""
        found = [self.codes.get(value) or _constant_codes(value) for value in values if value is not None]
        known = [stored for stored in found if stored is not None]
        return known if len(known) == len(values) else None

    # Where an operator ends.

    def only_reader(self, value: ir.Value, places: tuple[int, ...] = (0,)) -> ir.Node | None:
        """The node that alone reads a value, as one of these inputs; None if there is another reader."""
        uses = list(value.uses())
        return uses[0].node if len(uses) == 1 and value not in self.outputs and uses[0].idx in places else None

    def integer_ending(self, node: ir.Node) -> Ending | None:
        """The end of a node that computes on integers; None if its output is read as float."""
        last, absorbed, activation, limits = node, (), "NONE", None
        reader = self.only_reader(node.outputs[0])
        if reader is not None and reader.op_type in ("Relu", "Clip"):
            limits = limits_of(reader)
            activation, last, absorbed = _FUSED.get(limits, ""), reader, (reader,)
            reader = self.only_reader(reader.outputs[0])
        if reader is None or reader.op_type != "QuantizeLinear":
            return None
        grid = grid_of(reader)
        if not activation:
            half, ends = 0.51 * grid.scale[0], [(end - grid.zero_point[0]) * grid.scale[0] for end in (-128, 127)]
            if limits is None or ends[0] < limits[0] - half or ends[1] > limits[1] + half:
                return None
            activation = "NONE"
        assert last is not node or not absorbed
        return Ending(reader.outputs[0], (*absorbed, reader), activation, grid)

    def float_ending(self, node: ir.Node) -> Ending:
        """The end of a node that computes in float."""
        reader = self.only_reader(node.outputs[0])
        if reader is not None and reader.op_type in ("Relu", "Clip") and limits_of(reader) in _FUSED:
            return Ending(reader.outputs[0], (reader,), _FUSED[limits_of(reader)])
        return Ending(node.outputs[0])

    def bind(self, ending: Ending, stored: Stored) -> None:
        """Note where the value of an ending is, and that the nodes before it are done."""
        self.stored[ending.value] = stored
        self.done.update(ending.absorbed)

    def result(self, ending: Ending) -> Stored:
        """The value of an ending, not computed yet."""
        return Stored(shape_of(ending.value), "float32" if ending.grid is None else "int8", ending.grid)

    # Writing operators.

    def tensor(self, value: Stored, order: Order | None = None) -> int:
        """The tensor that holds a value in an order of its axes; None: the order in which it was computed."""
        return tensor_in(self.writer, value, value.order if order is None else order, self.free_batch)

    def sequence(self, value: Stored) -> int:
        """A tensor that holds the elements of a value in ONNX's sequence."""
        return tensor_in_sequence(self.writer, value, self.free_batch)

    def emit(self, name: str, inputs: Sequence[int], result: Stored, order: Order, table: Any = None) -> Stored:
        """Write an operator that computes a value in an order of its axes; returns the value."""
        index = self.writer.tensor(result.lengths(order), result.dtype, result.quantization)
        self.writer.operator(name, inputs, index, table)
        result.tensors[order] = index
        return result

    def apply(self, name: str, inputs: Sequence[Stored], result: Stored, table: Any = None) -> Stored:
        """Write an operator that works element by element, in the order of axes of its first computed input."""
        order = next((value.order for value in inputs if value.data is None), inputs[0].order)
        return self.emit(name, [self.tensor(value, order) for value in inputs], result, order, table)

    def reshaped(self, value: Stored, shape: tuple[int, ...]) -> Stored:
        """A value with another shape and the same sequence of elements."""
        result = Stored(shape, value.dtype, value.quantization)
        source = self.sequence(value)
        index = result.tensors[result.plain] = self.writer.tensor(shape, value.dtype, value.quantization)
        keeps = self.free_batch and bool(shape) and value.shape[:1] == shape[:1] == (1,)
        reshape(self.writer, (source, index), list(shape), keeps)
        return result

    def requantized(self, value: Stored, grid: Quantization) -> Stored:
        """Codes on another grid."""
        if value.quantization == grid:
            return value
        return self.apply("QUANTIZE", [value], Stored(value.shape, "int8", grid), options("QuantizeOptions"))

    def moved(self, node: ir.Node, move: Callable[[Stored], Stored]) -> None:
        """Translate a node that moves elements: it works on the codes where its input is known by codes."""
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        if source in self.codes:
            self.codes[output] = move(self.codes[source])
        else:
            self.stored[output] = move(self.value(source))


def constant_value(array: np.ndarray) -> Stored:
    """A constant of the ONNX graph as a value; codes aren't meant.

    Raises:
        Unsupported: LiteRT has no such type, e.g. float64.
    """
    if array.dtype.name not in TYPES:
        raise Unsupported(
            f"the graph holds {array.dtype.name}, and this conversion knows {', '.join(TYPES)}; export it in float32."
        )
    return Stored(array.shape, array.dtype.name, None, array)


def limits_of(node: ir.Node) -> tuple[float, float]:
    """The limits of a Relu or Clip."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    low, high = given_constant(node, 1), given_constant(node, 2)
    return -np.inf if low is None else float(low.reshape(())), np.inf if high is None else float(high.reshape(()))


def grid_of(node: ir.Node) -> Quantization:
    """The grid of a QuantizeLinear or DequantizeLinear of an activation, for int8 codes.

    Raises:
        Unsupported: codes that aren't of 8 bits, or scales of channels.
    """
    scale, zero = given_constant(node, 1), given_constant(node, 2)
    codes = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    dtype = codes.dtype.numpy() if codes is not None and codes.dtype is not None else np.dtype(np.uint8)
    if scale is None or scale.size != 1 or dtype not in (np.int8, np.uint8):
        raise Unsupported(
            f"{place(node)}: an activation has codes of type {dtype.name} with {0 if scale is None else scale.size} scales, and "
            "LiteRT takes 8 bits with one scale; compress the model for target 'litert'."
        )
    code = 0 if zero is None else int(zero.reshape(()))
    return Quantization((float(scale.reshape(())),), (code - (_SHIFT if dtype == np.uint8 else 0),))


def _constant_codes(value: ir.Value) -> Stored | None:
    """The codes of a constant that is quantized as activations are; None if it isn't."""
    node = _producer(value, "DequantizeLinear")
    codes, scale = (None, None) if node is None else (constant(node.inputs[0]), constant(node.inputs[1]))
    if node is None or codes is None or scale is None or scale.size > 1 or codes.dtype not in (np.int8, np.uint8):
        return None
    shifted = codes.astype(np.int16) - (_SHIFT if codes.dtype == np.uint8 else 0)
    return Stored(codes.shape, "int8", grid_of(node), shifted.astype(np.int8))


def _producer(value: ir.Value, op: str) -> ir.Node | None:
    node = value.producer()
    return node if node is not None and node.op_type == op else None


def _dequantized(node: ir.Node | None) -> np.ndarray | None:
    """The values of a DequantizeLinear that reads constants alone, per tensor, per channel or in blocks."""
    assert node is not None
    codes, scale, zero = (constant(input_of(node, index)) for index in range(3))
    if codes is None or scale is None:
        return None
    axis = node.attributes.get_int("axis", 1) % max(codes.ndim, 1)
    block = node.attributes.get_int("block_size", 0)

    def spread(array: np.ndarray) -> np.ndarray:
        if block:
            return np.repeat(array, block, axis=axis).take(range(codes.shape[axis]), axis=axis)
        return array.reshape([-1 if a == axis else 1 for a in range(codes.ndim)]) if array.size > 1 else array.reshape(())

    shifted = codes.astype(np.int32) - (0 if zero is None else spread(zero.astype(np.int32)))
    return (shifted.astype(np.float32) * spread(scale)).astype(np.float32)
