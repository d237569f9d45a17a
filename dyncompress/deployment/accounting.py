"""How many bytes a file has, and how many a layer will cost before the file is written."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from dyncompress.coding import pack
from dyncompress.deployment.activation_ranges import candidates
from dyncompress.deployment.fusion import optimized
from dyncompress.deployment.storage import SPARSE_NODE, dense_bytes, functions, is_sparse, sparse_bytes
from dyncompress.deployment.stripping import parse
from dyncompress.deployment.weights import GATES
from dyncompress.deployment.writer import Encodings, write
from dyncompress.types import FLOAT_BITS, Encoding, Placement, Sizes, Target

_PLAIN = Target(name="plain", summary="", verified="schema")
LAYER = 190  # bytes of a layer's two DequantizeLinear, its Mul, and the headers of codes, scales and bias
CAST = 30  # of int4 -> int8
UNPACK = 40  # of a call of the unpacking function
FLOAT_LAYER = 40  # headers of a float weight and its bias


def sizes(body: bytes, encodings: Encodings) -> Sizes:
    """Four sizes of a file.

    `resident` counts the constants of the graph as onnxruntime keeps it after folding: packed weights are int8 there.

    Args:
        body: the file.
        encodings: as given to `write`.

    Returns:
        The sizes.
    """
    model = parse(body)
    kept = optimized(body, _PLAIN)
    payload = sum(_tensor_bytes(tensor) for tensor in model.graph.initializer if _is_payload(tensor))
    widths = sorted({encoding.bits for encoding, _ in encodings.values()})
    integer = sum(node.op_type.startswith(("QLinear", "QGemm", "MatMulInteger")) for node in kept.graph.node)
    stored = f"weights stored at {', '.join(map(str, widths))} bits" if widths else "float32 weights"
    return Sizes(
        file=len(body),
        compressed=len(zlib.compress(body, 9)),
        resident=sum(_tensor_bytes(tensor) for tensor in kept.graph.initializer),
        payload=payload,
        compute=f"int8 in {integer} operators; {stored}" if integer else f"float32; {stored}",
    )


def _is_payload(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type != onnx.TensorProto.INT64 and math.prod(tensor.dims) > 1


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    return onnx.numpy_helper.to_array(tensor).nbytes


def storage_bytes(shape: Sequence[int], bits: int, granularity: str = "channel", sparsity: float = 0.0, bias: bool = True) -> int:
    """What a layer costs in the file: codes, scales, bias, and the nodes that turn them into a weight.

    Args:
        shape: of the weight, `(out, in / groups, *kernel)`.
        bits: 2 to 8, or 32 for float.
        granularity: of the scales.
        sparsity: share of zeros; storage turns to a mask and the non-zero codes where that is smaller.
        bias: whether it has one.

    Returns:
        Bytes; the file is these, summed over its layers, and `overhead`.
    """
    count, out = math.prod(shape), shape[0]
    biases = 4 * out if bias else 0
    if bits == FLOAT_BITS:
        return 4 * count + biases + FLOAT_LAYER
    nonzero = count - round(sparsity * count)
    packed, extra = dense_bytes(count, bits), 0
    if is_sparse(count, nonzero, bits):
        packed, extra = sparse_bytes(count, nonzero, bits), SPARSE_NODE
    extra += {4: CAST, 8: 0}.get(bits, UNPACK)
    return packed + 4 * _scales(shape, granularity) + biases + LAYER + extra


def _scales(shape: Sequence[int], granularity: str) -> int:
    if granularity == "tensor":
        return 1
    if granularity.startswith("group:"):
        return shape[0] * math.ceil(math.prod(shape[1:]) / int(granularity.removeprefix("group:")))
    return shape[0]


def overhead(float_file: bytes, placements: Mapping[str, Sequence[Placement]], target: Target) -> int:
    """Bytes of the file that no choice of widths changes: graph, activation grids, names, the unpacking functions.

    Two functions of 0.5 kB that unpack widths other than 4 and 8, and sparse layers, count whether a plan will need them or
    not: a budget that is met on paper is then met in the file.

    Found by writing the file once with 8-bit dummy codes and subtracting `storage_bytes` of all placed weights (with its
    default `bias=True`: a layer without one then counts alike in both).

    Args:
        float_file: the exported graph.
        placements: layer -> where its weight lies.
        target: of the file.

    Returns:
        Bytes, seal excluded.
    """
    written, shapes = _written(float_file, placements, target, _dummy)
    unpacking = {"x"} | ({"u"} if set(target.weight_bits) - {4, 8} else set())
    travelling = sum(_function_bytes(name, target.opset) for name in unpacking)
    return len(written) + travelling - sum(storage_bytes(shape, 8) for shape in shapes)


def packed_overhead(float_file: bytes, placements: Mapping[str, Sequence[Placement]], target: Target) -> int:
    """Bytes of the container that no choice of steps changes, found by packing a file of zeros once.

    Args:
        float_file: the exported graph.
        placements: layer -> where its weight lies.
        target: of the file.
    """
    return len(pack(_written(float_file, placements, dense(target), _zeros)[0]))


def dense(target: Target) -> Target:
    """The target of a file that will be packed: codes lie in it as whole bytes, since the coder knows what is rare."""
    return replace(target, weight_bits=(8,))


def _written(
    float_file: bytes,
    placements: Mapping[str, Sequence[Placement]],
    target: Target,
    dummy: Callable[[tuple[int, ...], int], Encoding],
) -> tuple[bytes, list[tuple[int, ...]]]:
    """The file with dummy codes of 8 bits, and the shapes of the placed weights."""
    model = parse(float_file)
    layouts = {place.initializer: place.layout for places in placements.values() for place in places}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in layouts}
    groups = {name: _groups(model, name) for name in tensors}
    shapes = {name: _canonical(tuple(tensor.dims), layouts[name], groups[name]) for name, tensor in tensors.items()}
    encodings = {name: (dummy(shape, index), layouts[name]) for index, (name, shape) in enumerate(shapes.items())}
    ranges = {name: (0.0, 1.0 + index / 1024) for index, name in enumerate(candidates(model))}
    allowed = target if 8 in target.weight_bits else replace(target, weight_bits=(*target.weight_bits, 8))
    return write(float_file, encodings, ranges, allowed), list(shapes.values())


def _function_bytes(name: str, opset: int) -> int:
    from onnx_ir import serde

    return sum(serde.serialize_function(function).ByteSize() + 4 for function in functions({name}, opset))


def _groups(model: onnx.ModelProto, name: str) -> int:
    for node in model.graph.node:
        if name in node.input:
            return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return 1


def _canonical(shape: tuple[int, ...], layout: str, groups: int) -> tuple[int, ...]:
    if layout == "transposed":
        return shape[::-1]
    if layout.startswith(GATES):
        return shape[1:]
    if layout == "conv_transpose":
        return (shape[1] * groups, shape[0] // groups, *shape[2:])
    return shape


def _zeros(shape: tuple[int, ...], index: int) -> Encoding:
    """Codes that cost a coder nothing, and scales that no other layer shares."""
    return Encoding(np.zeros(shape, np.int8), np.full(shape[0], 2.0 + index / 1024, np.float32), 8)


def _dummy(shape: tuple[int, ...], index: int) -> Encoding:
    """Codes without zeros, and both codes and scales that no other layer shares."""
    codes = ((np.arange(math.prod(shape)) + index) % 63 + 1).astype(np.int8).reshape(shape)
    return Encoding(codes, np.full(shape[0], 2.0 + index / 1024, np.float32), 8)
