"""Replace float weights by integer codes and scales, and the nodes that turn them into a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import Constants
from dyncompress.deployment.storage import store_codes
from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.types import Encoding

GATES = "gates:"  # prefix of the layout of a recurrent weight


@dataclass(frozen=True)
class StoredWeight:
    """An encoding in the layout of the initializer that it replaces.

    Attributes:
        name: of the float initializer.
        codes: int8, the initializer's shape.
        scale: float32; `[channels]`, `[]` for one scale, or `[out, blocks]` for groups of inputs.
        axis: of the channels in `codes`; None if there is no single axis that the scales belong to.
        bits: width at which the codes are stored.
        encoding: in the canonical layout `(out, in / groups, *kernel)`.
        layout: of the initializer, see `types.Placement`.
        groups: convolution groups (of layout conv_transpose only).
    """

    name: str
    codes: np.ndarray
    scale: np.ndarray
    axis: int | None
    bits: int
    encoding: Encoding
    layout: str
    groups: int = 1

    @property
    def per_channel(self) -> np.ndarray | None:
        """The scales, if a DequantizeLinear with one axis (or none) can hold them, else None."""
        return None if self.encoding.group or (self.scale.ndim == 1 and self.axis is None) else self.scale


def stored_weight(name: str, shape: tuple[int, ...], encoding: Encoding, layout: str, groups: int = 1) -> StoredWeight:
    """Convert an encoding from the canonical layout to that of the initializer.

    Args:
        name: of the initializer.
        shape: of the initializer.
        encoding: with codes `(out, in / groups, *kernel)`.
        layout: `as_is`, `transposed`, `conv_transpose`, or `gates:i,j,...`, which means blocks of rows in that order, behind an
            axis of length 1.
        groups: of a transposed convolution.

    Returns:
        The stored weight.

    Raises:
        InvalidRequest: shapes, widths or scales don't fit together.
        Unsupported: the layout is unknown, or doesn't allow scales for groups of inputs.
    """
    codes, scale = np.asarray(encoding.codes), np.asarray(encoding.scale, np.float32)
    _check(name, codes, scale, encoding)
    if layout == "as_is":
        placed, axis = codes, 0
    elif layout == "transposed":
        placed, axis = np.ascontiguousarray(codes.T), 1
    elif layout == "conv_transpose":
        placed, axis = _conv_transpose(codes, groups), (1 if groups == 1 else None)
    elif layout.startswith(GATES):
        order = [int(gate) for gate in layout.removeprefix(GATES).split(",")]
        placed, axis = _reorder_blocks(codes, order)[None], 1
        scale = scale if scale.size == 1 else _reorder_blocks(scale, order)
        if encoding.group:
            raise Unsupported(f"initializer '{name}': recurrent weights take one scale per row; use granularity 'channel'.")
    else:
        raise Unsupported(f"initializer '{name}': unknown layout '{layout}'; use as_is, transposed, conv_transpose or gates.")
    if shape == (1, *placed.shape):  # the axis of directions of a recurrent weight
        placed, axis = placed[None], (None if axis is None else axis + 1)
    if placed.shape != shape:
        raise InvalidRequest(
            f"initializer '{name}' has shape {list(shape)}, its codes are {list(placed.shape)} in layout '{layout}'; "
            "encode the weight of this model."
        )
    if scale.size == 1:
        scale, axis = scale.reshape(()), None
    return StoredWeight(name, placed.astype(np.int8), scale, axis, encoding.bits, encoding, layout, groups)


def _reorder_blocks(rows: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Split rows into equal blocks and concatenate them in another order."""
    return np.concatenate([np.split(rows, len(order))[block] for block in order])


def _check(name: str, codes: np.ndarray, scale: np.ndarray, encoding: Encoding) -> None:
    """Check the width, the codes and the scales of an encoding.

    Raises:
        InvalidRequest: they don't fit together.
    """
    bits = encoding.bits
    if not 2 <= bits <= 8:
        raise InvalidRequest(f"initializer '{name}' has {bits} bits; integers have 2 to 8.")
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if codes.size and (codes.min() < lowest or codes.max() > highest):
        raise InvalidRequest(
            f"initializer '{name}' has codes from {codes.min()} to {codes.max()}, {bits} bits hold {lowest} to {highest}; "
            "quantize it again."
        )
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise InvalidRequest(f"initializer '{name}' has scales that aren't positive and finite; quantize it again.")
    fan_in = codes.size // max(codes.shape[0], 1)
    by_group = (codes.shape[0], -(-fan_in // encoding.group)) if encoding.group else None
    shapes = [by_group] if by_group else [(1,), (codes.shape[0],)]
    if scale.shape not in shapes:
        raise InvalidRequest(
            f"initializer '{name}' has scales of shape {list(scale.shape)}, its codes need one of {shapes}; quantize it again."
        )


def _conv_transpose(codes: np.ndarray, groups: int) -> np.ndarray:
    """Codes `(out, in / groups, *k)` as `(in, out / groups, *k)`; the channels of one group are contiguous on both axes."""
    out, fan, *kernel = codes.shape
    blocks = codes.reshape(groups, out // groups, fan, *kernel).swapaxes(1, 2)
    return np.ascontiguousarray(blocks.reshape(groups * fan, out // groups, *kernel))


def dequantize(constants: Constants, weight: StoredWeight, codes: ir.Value, before: ir.Node) -> ir.Value:
    """Add a DequantizeLinear for the codes, per tensor, per channel or in blocks; runtimes fuse it into integer kernels.

    Args:
        constants: of the graph.
        weight: that the codes belong to.
        codes: the value of the graph that holds them.
        before: the node that reads the weight.

    Returns:
        The float value that takes the weight's place among the node's inputs.

    Raises:
        Unsupported: the scales don't belong to an axis of this weight.
    """
    if weight.encoding.group and weight.layout in ("as_is", "transposed") and weight.codes.ndim == 2:
        by_rows = weight.layout == "as_is"
        scale = constants.tensor(np.ascontiguousarray(weight.scale if by_rows else weight.scale.T))
        return constants.node(
            "DequantizeLinear", [codes, scale], before, {"axis": int(by_rows), "block_size": weight.encoding.group}
        )
    if weight.per_channel is None:
        raise Unsupported(
            f"initializer '{weight.name}': scales for groups of inputs need a weight of two axes; use granularity 'channel'."
        )
    return dequantize_by(constants, weight, codes, constants.tensor(weight.scale), before)


def dequantize_by(constants: Constants, weight: StoredWeight, codes: ir.Value, scale: ir.Value, before: ir.Node) -> ir.Value:
    """Add a DequantizeLinear with the given scales, along the weight's axis or one for the tensor.

    For a Conv the zero point is left out (its default is zero). For Gemm and MatMul it is written out, since onnxruntime
    otherwise runs them in float; 4-bit codes are read by float products alone.
    """
    axis = {} if weight.axis in (None, 1) else {"axis": weight.axis}  # 1 is the operator's default
    inputs = [codes, scale]
    if before.op_type != "Conv" and codes.dtype != ir.DataType.INT4:
        inputs.append(_zeros(constants, weight.scale.shape, before))
    return constants.node("DequantizeLinear", inputs, before, axis)


def _zeros(constants: Constants, shape: tuple[int, ...], before: ir.Node) -> ir.Value:
    """int8 zeros of a shape; more than 64 of them are expanded from one when the file is loaded."""
    if sum(shape) <= 64 or constants.plain:
        return constants.tensor(np.zeros(shape, np.int8))
    one, size = constants.tensor(np.zeros((), np.int8)), constants.tensor(np.array(shape, np.int64))
    return constants.node("Expand", [one, size], before)


def float_at_load(constants: Constants, weight: StoredWeight, stored_codes: ir.Value | None, before: ir.Node) -> ir.Value:
    """Add Cast and Mul (and Reshape) for the codes, which become a float weight at load; for operators without integer kernels.

    A DequantizeLinear would run at every inference, because onnxruntime doesn't fold it. Cast and Mul are folded, and their
    result is the same float32 weight.

    Args:
        constants: of the graph.
        weight: that is stored.
        stored_codes: the value that holds its codes in the initializer's shape; None: they are stored here.
        before: the node that reads the weight.

    Returns:
        The float value that takes the weight's place among the node's inputs.

    Raises:
        Unsupported: scales are for groups of inputs that don't divide a row.
    """
    shape = weight.codes.shape
    codes, scale = weight.codes, weight.scale
    if weight.encoding.group:
        codes, scale = _split_into_groups(weight)
    elif weight.axis is not None:
        scale = scale.reshape([-1 if i == weight.axis else 1 for i in range(len(shape))])
    elif scale.ndim:  # a transposed convolution with groups: (groups, in / groups, out / groups, *k)
        groups = weight.groups
        codes = codes.reshape(groups, shape[0] // groups, *shape[1:])
        scale = scale.reshape(groups, 1, shape[1], *[1] * (len(shape) - 2))
    if stored_codes is None or codes.shape != shape:
        stored_codes = store_codes(constants, codes, weight.bits, before)
    as_float = constants.node("Cast", [stored_codes], before, {"to": int(ir.DataType.FLOAT)})
    product = constants.node("Mul", [as_float, constants.tensor(np.ascontiguousarray(scale))], before)
    if codes.shape == shape:
        return product
    return constants.node("Reshape", [product, constants.tensor(np.array(shape, np.int64))], before)


def _split_into_groups(weight: StoredWeight) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales with an axis for the groups of inputs, in shapes that broadcast against each other."""
    group, rows = weight.encoding.group, weight.codes.shape[0]
    if weight.layout == "transposed":
        inputs, out = weight.codes.shape
        if inputs % group == 0:
            return weight.codes.reshape(-1, group, out), np.ascontiguousarray(weight.scale.T)[:, None, :]
    elif weight.layout == "as_is" and (weight.codes.size // rows) % group == 0:
        return weight.codes.reshape(rows, -1, group), weight.scale[:, :, None]
    raise Unsupported(
        f"initializer '{weight.name}' of shape {list(weight.codes.shape)}: rows can't be split into groups of {group} inputs; "
        "use granularity 'channel'."
    )
