"""Weights and biases that a graph in plain form stores as codes: which values they are, and their scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import constant, remove_unread


@dataclass(frozen=True)
class StoredCodes:
    """A constant as integers: its values are `(codes - zero_point) * scale` in float32.

    Attributes:
        codes: int8, uint8, int16, uint16 or int32, in the constant's shape.
        scale: float32, `[]`, `[channels]`, or, with blocks, in the shape of `codes` but for `axis`, along which it has one number
            for each block.
        zero_point: as `scale`, in the type of `codes`.
        axis: of the channels or blocks; None: one scale for all.
        block: number of consecutive codes along `axis` that share a scale; 0: `axis` is that of channels.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None
    block: int = 0

    @property
    def values(self) -> np.ndarray:
        """The float32 values, as DequantizeLinear computes them."""
        scale, zero = (self._spread(part) for part in (self.scale, self.zero_point))
        return (self.codes.astype(np.int64) - zero).astype(np.float32) * scale

    def _spread(self, numbers: np.ndarray) -> np.ndarray:
        """Scales or zero points in a shape that fits the codes."""
        if self.axis is None:
            return numbers.reshape(())
        if self.block:
            return np.repeat(numbers, self.block, self.axis).take(range(self.codes.shape[self.axis]), self.axis)
        return numbers.reshape([-1 if axis == self.axis else 1 for axis in range(self.codes.ndim)])


def stored_codes(graph: ir.Graph) -> dict[ir.Value, StoredCodes]:
    """The float values of a graph that are computed from stored codes alone, by a DequantizeLinear or by Cast and Mul.

    Args:
        graph: of a model in plain form.

    Returns:
        Value -> its codes, in the order of the graph. Codes whose scales belong to groups across several axes aren't among them.
    """
    found = {}
    for node in graph:
        value = _dequantized(node) if node.op_type == "DequantizeLinear" else _product(node) if node.op_type == "Mul" else None
        if value is not None:
            found[node.outputs[0]] = value
        elif node.op_type == "Transpose" and node.inputs[0] in found:
            found[node.outputs[0]] = _transposed(found[node.inputs[0]], node)
        elif node.op_type == "Reshape" and (blocks := _blocks(node)) is not None:
            found.pop(node.inputs[0], None)  # a Mul over groups of inputs
            found[node.outputs[0]] = blocks
    return found


def _dequantized(node: ir.Node) -> StoredCodes | None:
    """The codes of a DequantizeLinear that reads constants alone."""
    codes, scale = constant(node.inputs[0]), constant(node.inputs[1])
    if codes is None or scale is None:
        return None
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(scale.shape)
    if zero is None:
        return None
    codes = _whole(codes)
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    block = node.attributes["block_size"].as_int() if "block_size" in node.attributes else 0
    if scale.size == 1 and not block:
        return StoredCodes(codes, scale.reshape(()), zero.astype(codes.dtype).reshape(()), None)
    return StoredCodes(codes, scale, _whole(zero).astype(codes.dtype), axis % codes.ndim, block)


def _transposed(stored: StoredCodes, node: ir.Node) -> StoredCodes:
    """The codes behind a Transpose."""
    axes = list(range(stored.codes.ndim))
    order = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else axes[::-1]
    axis = None if stored.axis is None else order.index(stored.axis)
    scale, zero = ((part.transpose(order) if stored.block else part) for part in (stored.scale, stored.zero_point))
    return StoredCodes(np.ascontiguousarray(stored.codes.transpose(order)), scale, zero, axis, stored.block)


def _whole(codes: np.ndarray) -> np.ndarray:
    """Codes in a type of numpy's own: those of fewer than 8 bits become int8 or uint8."""
    narrow = {"int4": np.int8, "int2": np.int8, "uint4": np.uint8, "uint2": np.uint8}
    return codes.astype(narrow.get(codes.dtype.name, codes.dtype))


def _parts(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes and scales of a Mul that multiplies cast codes by constants."""
    cast = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if cast is None or cast.op_type != "Cast":
        return None
    codes, scale = constant(cast.inputs[0]), constant(node.inputs[1])
    if codes is None or scale is None or scale.dtype != np.float32:
        return None
    codes = _whole(codes)
    return (codes, scale) if codes.dtype in (np.int8, np.uint8) else None


def _product(node: ir.Node) -> StoredCodes | None:
    """The codes of a Mul, where its scales are for one axis or for the tensor."""
    parts = _parts(node)
    if parts is None:
        return None
    codes, scale = parts
    axes = [axis - scale.ndim for axis, length in enumerate(scale.shape) if length > 1]
    if len(axes) > 1:
        return None
    flat = scale.reshape(()) if not axes else scale.reshape(-1)
    return StoredCodes(codes, flat, np.zeros(flat.shape, codes.dtype), axes[0] % codes.ndim if axes else None)


def _blocks(node: ir.Node) -> StoredCodes | None:
    """The codes of a matrix that a Reshape makes of a Mul whose scales are for groups along one axis of it."""
    product, shape = node.inputs[0], constant(node.inputs[1])
    made = product.producer() if product is not None else None
    parts = _parts(made) if made is not None and made.op_type == "Mul" else None
    if parts is None or shape is None or len(shape) != 2:
        return None
    codes, scale = parts
    if codes.ndim != 3 or scale.ndim != 3:
        return None
    grouped = next((axis for axis in (1, 2) if scale.shape[axis] == 1 and codes.shape[axis] > 1), None)
    if grouped is None:
        return None
    axis = 1 if grouped == 2 else 0  # rows of groups `[out, groups, inputs]`, or groups of rows `[groups, inputs, out]`
    numbers = np.squeeze(scale, grouped)
    matrix = codes.reshape([int(n) for n in shape])
    return StoredCodes(matrix, numbers, np.zeros(numbers.shape, codes.dtype), axis, codes.shape[grouped])


def decode_tables_first(graph: ir.Graph) -> None:
    """Let a Gather read decoded rows, where the graph gathers codes and decodes them afterwards, in place.

    `Cast(Gather(codes, i)) * Gather(scales, i)` becomes `Gather(DequantizeLinear(codes, scales), i)`, with the same values.

    Args:
        graph: of a model in plain form.
    """
    for product in [node for node in graph if node.op_type == "Mul"]:
        cast = _producer(product, 0, "Cast")
        gather = None if cast is None else _producer(cast, 0, "Gather")
        if (
            gather is None
            or constant(gather.inputs[0]) is None
            or ("axis" in gather.attributes and gather.attributes["axis"].as_int())
        ):
            continue
        factors = _producer(product, 1, "Gather")
        same = factors is not None and factors.inputs[1] is gather.inputs[1]
        scale = constant(factors.inputs[0] if same and factors is not None else product.inputs[1])
        if scale is None or scale.size not in (1, len(constant(gather.inputs[0]))):  # type: ignore[arg-type]
            continue
        rows = ir.Value(
            name=f"{product.outputs[0].name}_scale", const_value=ir.tensor(scale.reshape(-1) if same else scale.reshape(()))
        )
        graph.register_initializer(rows)
        table = ir.node("DequantizeLinear", [gather.inputs[0], rows], {"axis": 0})
        table.outputs[0].name = f"{product.outputs[0].name}_table"
        decoded = ir.node("Gather", [table.outputs[0], gather.inputs[1]])
        graph.insert_before(product, [table, decoded])
        ir.convenience.replace_nodes_and_values(graph, product, [product], [decoded], product.outputs, decoded.outputs)
        remove_unread(graph)


def _producer(node: ir.Node, index: int, operator: str) -> ir.Node | None:
    """The node that computes an input, if it has this operator."""
    value = node.inputs[index] if index < len(node.inputs) else None
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == operator else None
