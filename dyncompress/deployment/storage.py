"""How the codes of weights are stored in the file: as bytes, 4-bit integers, bit-planes, or a mask and the non-zero codes.

For every width the graph converts the stored form into an int8 tensor, by operators that onnxruntime folds when it loads the
file, before it fuses integer kernels. The file therefore has `bits` bits for a weight, and the kernels read int8.

    8               int8 initializer
    4               int4 initializer -> Cast; without the Cast where a float product reads it (MatMulNBits keeps 4 bits in memory)
    2, 3, 5, 6, 7   uint8 planes [bits, ceil(n / 8), 1] -> function `u` (unpack); plane i holds bit i of the two's complement
    sparse          a mask plane, and the non-zero codes stored at their width -> function `x` (expand), which computes the
                    index of a code as the running count of the mask

The two functions are part of the file as ONNX local functions, so a layer takes one node instead of ten.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx.parser
import onnx_ir as ir

from dyncompress.deployment.constants import Constants

DOMAIN = "d"

# Both functions take the bits of a byte, least significant first, as `(p >> [0..7]) & 1`.
_UNPACK = """
<opset_import: ["" : %d], domain: "d">
u <s> (p, k) => (w) {
  a = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
  b = Constant <value = uint8 {1}> ()
  c = BitShift <direction = "RIGHT"> (p, a)
  e = BitwiseAnd (c, b)
  f = Cast <to = 6> (e)
  g = Mul (f, k)
  z = Constant <value_ints = [0]> ()
  h = ReduceSum <keepdims = 0> (g, z)
  i = Cast <to = 3> (h)
  m = Constant <value_ints = [-1]> ()
  j = Reshape (i, m)
  s = Constant <value_ints: ints = @s> ()
  n = ReduceProd (s)
  l = Slice (j, z, n)
  w = Reshape (l, s)
}
"""
_EXPAND = """
<opset_import: ["" : %d], domain: "d">
x <s> (p, v) => (w) {
  a = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
  b = Constant <value = uint8 {1}> ()
  c = BitShift <direction = "RIGHT"> (p, a)
  e = BitwiseAnd (c, b)
  f = Cast <to = 6> (e)
  m = Constant <value_ints = [-1]> ()
  g = Reshape (f, m)
  z = Constant <value_ints = [0]> ()
  y = Constant <value = int64 {0}> ()
  h = CumSum (g, y)
  i = Mul (g, h)
  j = Gather (v, i)
  s = Constant <value_ints: ints = @s> ()
  n = ReduceProd (s)
  l = Slice (j, z, n)
  w = Reshape (l, s)
}
"""
_FUNCTIONS = {"u": _UNPACK, "x": _EXPAND}


def planes(codes: np.ndarray, bits: int) -> np.ndarray:
    """The bit-planes of codes in two's complement, `[bits, ceil(n / 8), 1]` uint8, least significant bit first in a byte.

    Example:
        >>> planes(np.array([1, -1, 0], np.int8), 2).ravel().tolist()  # binary 01, 11, 00
        [3, 2]
    """
    flat = codes.reshape(-1).astype(np.uint8)
    return np.stack([np.packbits((flat >> i) & 1, bitorder="little") for i in range(bits)])[:, :, None]


def plane_weights(bits: int) -> np.ndarray:
    """The weight of each plane, `[bits, 1, 1]` int32: 1, 2, 4, ..., and -2^(bits-1) for the sign."""
    weights = 2 ** np.arange(bits, dtype=np.int32)
    weights[-1] *= -1
    return weights[:, None, None]


def dense_bytes(count: int, bits: int) -> int:
    """Bytes of `count` codes of `bits` bits, padding included."""
    return bits * math.ceil(count / 8) if bits not in (4, 8) else math.ceil(count * bits / 8)


def sparse_bytes(count: int, nonzero: int, bits: int) -> int:
    """Bytes of a mask plane and the non-zero codes, with one code more: the zero that the mask refers to."""
    return math.ceil(count / 8) + dense_bytes(nonzero + 1, bits)


def is_sparse(count: int, nonzero: int, bits: int) -> bool:
    """Whether a mask and the non-zero codes take fewer bytes than all codes."""
    return sparse_bytes(count, nonzero, bits) + SPARSE_NODE < dense_bytes(count, bits)


SPARSE_NODE = 55  # bytes of an `expand` node and its mask's header


def store_codes(constants: Constants, codes: np.ndarray, bits: int, before: ir.Node) -> ir.Value:
    """Add codes to the graph in the form that takes the fewest bytes.

    Args:
        constants: of the graph.
        codes: int8, within `bits` bits, any shape.
        bits: 2 to 8.
        before: the node that reads the codes.

    Returns:
        An int8 value in the shape of `codes`.
    """
    if constants.dense or not is_sparse(codes.size, int(np.count_nonzero(codes)), bits):
        return _store_dense(constants, codes, bits, before)
    flat = codes.reshape(-1)
    mask = constants.tensor(np.packbits(flat != 0, bitorder="little")[:, None])
    table = _store_dense(constants, np.concatenate([np.zeros(1, np.int8), flat[flat != 0]]), bits, before)
    return constants.node("x", [mask, table], before, {"s": list(codes.shape)}, DOMAIN)


def before_cast(codes: ir.Value) -> ir.Value:
    """The 4-bit integers that a Cast turns into codes, for readers of 4 bits; the codes themselves if there is no Cast."""
    cast = codes.producer()
    packed = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    return packed if packed is not None and packed.dtype == ir.DataType.INT4 else codes


def _store_dense(constants: Constants, codes: np.ndarray, bits: int, before: ir.Node) -> ir.Value:
    """Add all codes to the graph, as bytes, 4-bit integers or bit-planes."""
    if bits == 8 or constants.dense:
        return constants.tensor(codes.astype(np.int8))
    if bits == 4:
        packed = constants.tensor(codes.astype(ml_dtypes.int4), ir.DataType.INT4)
        return constants.node("Cast", [packed], before, {"to": int(ir.DataType.INT8)})
    stack = constants.tensor(planes(codes, bits))
    return constants.node("u", [stack, constants.tensor(plane_weights(bits))], before, {"s": list(codes.shape)}, DOMAIN)


def functions(names: set[str], opset: int) -> list[ir.Function]:
    """The local functions among `names` (`u`: unpack, `x`: expand), written for an opset."""
    texts = [_FUNCTIONS[name] % opset for name in sorted(names & _FUNCTIONS.keys())]
    return [ir.serde.deserialize_function(onnx.parser.parse_function(text)) for text in texts]
