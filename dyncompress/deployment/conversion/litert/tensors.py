"""Values of the ONNX graph as tensors of the LiteRT file, in one or more orders of their axes.

LiteRT's convolutions want channels last, ONNX has them first. A value therefore remembers in which orders of axes it is stored,
and a transposition is written only where a reader wants another one: there is none between convolutions, nor around operators
that work element by element.

An order lists the value's axes as the tensor has them, and -1 for an additional axis of length 1: `(0, -1, 2, 1)` is a signal
`[n, channels, length]` as an image `[n, 1, length, channels]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dyncompress.deployment.conversion.litert.flatbuffer import Quantization, Writer, options

Order = tuple[int, ...]


@dataclass
class Stored:
    """A value of the ONNX graph in the LiteRT file.

    Attributes:
        shape: as ONNX has it.
        dtype: `int8` for quantized values, else that of ONNX.
        quantization: of a quantized value, one scale for all.
        data: of a constant, in ONNX's order.
        tensors: order of axes -> index of the tensor; the first is the one that was computed.
    """

    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None
    data: np.ndarray | None = None
    tensors: dict[Order, int] = field(default_factory=dict)

    @property
    def plain(self) -> Order:
        """ONNX's order."""
        return tuple(range(len(self.shape)))

    @property
    def order(self) -> Order:
        """The order in which it was computed; ONNX's for a constant."""
        return next(iter(self.tensors), self.plain)

    def lengths(self, order: Order) -> list[int]:
        """The shape of a tensor in an order."""
        return [1 if axis < 0 else self.shape[axis] for axis in order]

    def with_rank(self, rank: int) -> Stored:
        """A constant with axes of length 1 in front, as broadcasting adds them."""
        assert self.data is not None
        shape = (1,) * (rank - len(self.shape)) + self.shape
        return replace(self, shape=shape, data=self.data.reshape(shape), tensors={})


def long_axes(value: Stored, order: Order) -> Order:
    """The axes in an order whose place matters: those longer than 1, and the batch."""
    return tuple(axis for axis in order if axis == 0 or (axis > 0 and value.shape[axis] > 1))


def tensor_in(writer: Writer, value: Stored, order: Order, free_batch: bool) -> int:
    """The tensor that holds a value in an order of its axes; operators are added where there is none yet.

    Args:
        writer: of the file.
        value: any.
        order: of its axes.
        free_batch: whether the batch may be resized.
    """
    if order in value.tensors:
        return value.tensors[order]
    if value.data is not None:
        array = value.data.transpose([axis for axis in order if axis >= 0]).reshape(value.lengths(order))
        index = writer.constant(array, value.quantization)
    else:
        wanted = long_axes(value, order)
        same = next((known for known in value.tensors if long_axes(value, known) == wanted), None)
        bare = tuple(axis for axis in order if axis >= 0)
        if same is not None:
            index = _reshaped(writer, value, (same, order), free_batch)
        elif bare != order:
            tensor_in(writer, value, bare, free_batch)
            index = _reshaped(writer, value, (bare, order), free_batch)
        else:
            source = tuple(axis for axis in value.order if axis >= 0)
            index = writer.tensor(value.lengths(order), value.dtype, value.quantization)
            places = np.array([source.index(axis) for axis in order], np.int32)
            known = tensor_in(writer, value, source, free_batch)
            writer.operator("TRANSPOSE", [known, writer.constant(places)], index, options("TransposeOptions"))
    value.tensors[order] = index
    return index


def tensor_in_sequence(writer: Writer, value: Stored, free_batch: bool) -> int:
    """A tensor whose elements are in ONNX's sequence, whatever axes of length 1 it has."""
    for order, index in value.tensors.items():
        if long_axes(value, order) == long_axes(value, value.plain):
            return index
    return tensor_in(writer, value, value.plain, free_batch)


def reshape(writer: Writer, tensors: tuple[int, int], shape: list[int], keeps_batch: bool) -> None:
    """Write a RESHAPE from one tensor to another of a shape; `keeps_batch`: whatever batch size the inputs are resized to."""
    lengths = np.array([-1, *shape[1:]] if keeps_batch else shape, np.int32)
    table = options("ReshapeOptions", newShape=lengths)
    writer.operator("RESHAPE", [tensors[0], writer.constant(lengths)], tensors[1], table)


def _reshaped(writer: Writer, value: Stored, orders: tuple[Order, Order], free_batch: bool) -> int:
    """The value in the second order, whose elements have the same sequence in the first."""
    source, order = orders
    index = writer.tensor(value.lengths(order), value.dtype, value.quantization)
    keeps = free_batch and source[:1] == order[:1] == (0,) and value.shape[0] == 1
    reshape(writer, (value.tensors[source], index), value.lengths(order), keeps)
    return index
