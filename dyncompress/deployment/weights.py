"""Weights: integer codes and scales in place of float initializers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import Constants
from dyncompress.deployment.storage import stored
from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.types import Encoding

GATES = "gates:"  # how the layout of a recurrent weight begins


@dataclass(frozen=True)
class StoredWeight:
    """One encoding in the initializer's own layout.

    Attributes:
        name: of the float initializer.
        codes: int8, the initializer's shape.
        scale: float32; `[channels]`, `[]` for the tensor, or `[.., groups]` by groups of inputs.
        axis: of the channels in `codes`; None where no single axis carries the scales.
        bits: stored width.
        encoding: as given, canonical layout.
        layout: of types.Placement.
        groups: convolution groups (conv_transpose only).
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
        """Scales that a DequantizeLinear with one axis (or none) can hold, else None."""
        return None if self.encoding.group or (self.scale.ndim == 1 and self.axis is None) else self.scale


def stored_weight(name: str, shape: tuple[int, ...], encoding: Encoding, layout: str, groups: int = 1) -> StoredWeight:
    """Translate an encoding from the canonical layout to that of the initializer.

    Args:
        name: of the initializer.
        shape: of the initializer.
        encoding: codes `(out, in / groups, *kernel)`.
        layout: `as_is`, `transposed`, `conv_transpose`, or `gates:i,j,...`: blocks of rows in that order, behind an axis of one.
        groups: of a transposed convolution.

    Returns:
        The stored weight.

    Raises:
        InvalidRequest: shapes, widths or scales don't fit together.
        Unsupported: unknown layout.
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
        placed, axis = _reordered(codes, order)[None], 1
        scale = scale if scale.size == 1 else _reordered(scale, order)
        if encoding.group:
            raise Unsupported(f"initializer '{name}': recurrent weights have a scale a row; use granularity 'channel'.")
    else:
        raise Unsupported(f"initializer '{name}': unknown layout '{layout}'; use as_is, transposed, conv_transpose or gates.")
    if shape == (1, *placed.shape):  # an axis of directions
        placed, axis = placed[None], (None if axis is None else axis + 1)
    if placed.shape != shape:
        raise InvalidRequest(
            f"initializer '{name}' is {list(shape)} but its codes are {list(placed.shape)} as '{layout}'; "
            "encode this model's own weight."
        )
    if scale.size == 1:
        scale, axis = scale.reshape(()), None
    return StoredWeight(name, placed.astype(np.int8), scale, axis, encoding.bits, encoding, layout, groups)


def _reordered(rows: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Equal blocks of rows in another order."""
    return np.concatenate([np.split(rows, len(order))[block] for block in order])


def _check(name: str, codes: np.ndarray, scale: np.ndarray, encoding: Encoding) -> None:
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
    allowed = [by_group] if by_group else [(1,), (codes.shape[0],)]
    if scale.shape not in allowed:
        raise InvalidRequest(
            f"initializer '{name}' has scales {list(scale.shape)}, its codes want one of {allowed}; quantize it again."
        )


def _conv_transpose(codes: np.ndarray, groups: int) -> np.ndarray:
    """`(out, in / groups, *k)` -> `(in, out / groups, *k)`; channels of one group lie together on both axes."""
    out, fan, *kernel = codes.shape
    blocks = codes.reshape(groups, out // groups, fan, *kernel).swapaxes(1, 2)
    return np.ascontiguousarray(blocks.reshape(groups * fan, out // groups, *kernel))


def dequantized(constants: Constants, weight: StoredWeight, codes: ir.Value, before: ir.Node) -> ir.Value:
    """Codes -> DequantizeLinear, per tensor, per channel or in blocks: what runtimes fuse into integer kernels.

    Raises:
        Unsupported: the scales follow no axis of this weight.
    """
    if weight.encoding.group and weight.layout in ("as_is", "transposed") and weight.codes.ndim == 2:
        by_rows = weight.layout == "as_is"
        scale = constants.tensor(np.ascontiguousarray(weight.scale if by_rows else weight.scale.T))
        return constants.node(
            "DequantizeLinear", [codes, scale], before, {"axis": int(by_rows), "block_size": weight.encoding.group}
        )
    if weight.per_channel is None:
        raise Unsupported(f"initializer '{weight.name}': scales by groups need two axes; use granularity 'channel'.")
    return scaled(constants, weight, codes, constants.tensor(weight.scale), before)


def scaled(constants: Constants, weight: StoredWeight, codes: ir.Value, scale: ir.Value, before: ir.Node) -> ir.Value:
    """DequantizeLinear with scales along the weight's axis, or one scale.

    Conv goes without a zero point (zero is the default); Gemm and MatMul get theirs written out, because onnxruntime leaves
    them in float otherwise.
    """
    axis = {} if weight.axis in (None, 1) else {"axis": weight.axis}  # 1 is the operator's default
    inputs = [codes, scale]
    if before.op_type != "Conv":
        inputs.append(_zeros(constants, weight.scale.shape, before))
    return constants.node("DequantizeLinear", inputs, before, axis)


def _zeros(constants: Constants, shape: tuple[int, ...], before: ir.Node) -> ir.Value:
    """int8 zeros; many of them are expanded from one at load."""
    if sum(shape) <= 64 or constants.plain:
        return constants.tensor(np.zeros(shape, np.int8))
    one, size = constants.tensor(np.zeros((), np.int8)), constants.tensor(np.array(shape, np.int64))
    return constants.node("Expand", [one, size], before)


def folded(constants: Constants, weight: StoredWeight, stored_codes: ir.Value | None, before: ir.Node) -> ir.Value:
    """Codes -> Cast -> Mul (-> Reshape): float at load, for operators without an integer kernel.

    A DequantizeLinear here would run at every inference (onnxruntime doesn't fold it); Cast and Mul are folded, and the
    product is the same float32 number.

    Args:
        constants: of the graph.
        weight: what to store.
        stored_codes: its codes where they are in the graph already, in the initializer's shape.
        before: the node that reads the weight.

    Raises:
        Unsupported: groups of inputs that don't divide the row of a convolution.
    """
    shape = weight.codes.shape
    codes, scale = weight.codes, weight.scale
    if weight.encoding.group:
        codes, scale = _grouped(weight)
    elif weight.axis is not None:
        scale = scale.reshape([-1 if i == weight.axis else 1 for i in range(len(shape))])
    elif scale.ndim:  # a grouped transposed convolution: (groups, in / groups, out / groups, *k)
        groups = weight.groups
        codes = codes.reshape(groups, shape[0] // groups, *shape[1:])
        scale = scale.reshape(groups, 1, shape[1], *[1] * (len(shape) - 2))
    if stored_codes is None or codes.shape != shape:
        stored_codes = stored(constants, codes, weight.bits, before)
    as_float = constants.node("Cast", [stored_codes], before, {"to": int(ir.DataType.FLOAT)})
    product = constants.node("Mul", [as_float, constants.tensor(np.ascontiguousarray(scale))], before)
    if codes.shape == shape:
        return product
    return constants.node("Reshape", [product, constants.tensor(np.array(shape, np.int64))], before)


def _grouped(weight: StoredWeight) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales by groups of inputs, shaped to broadcast against each other."""
    group, rows = weight.encoding.group, weight.codes.shape[0]
    if weight.layout == "transposed":
        inputs, out = weight.codes.shape
        if inputs % group == 0:
            return weight.codes.reshape(-1, group, out), np.ascontiguousarray(weight.scale.T)[:, None, :]
    elif weight.layout == "as_is" and (weight.codes.size // rows) % group == 0:
        return weight.codes.reshape(rows, -1, group), weight.scale[:, :, None]
    raise Unsupported(
        f"initializer '{weight.name}' {list(weight.codes.shape)}: rows can't be cut into groups of {group}; "
        "use granularity 'channel'."
    )
