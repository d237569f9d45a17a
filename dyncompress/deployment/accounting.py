"""The sizes of a written file, and a prediction of a layer's bytes before the file is written."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from dyncompress.coding import pack
from dyncompress.deployment.activation_ranges import candidates
from dyncompress.deployment.faster_form import Shapes
from dyncompress.deployment.float_graph import FloatGraph
from dyncompress.deployment.fusion import INTEGER_KERNELS, optimized_model
from dyncompress.deployment.session import PLAIN
from dyncompress.deployment.storage import SPARSE_NODE, dense_bytes, functions, is_sparse, sparse_bytes
from dyncompress.deployment.stripping import parse
from dyncompress.deployment.weights import GATES
from dyncompress.deployment.writer import Encodings, write
from dyncompress.types import FLOAT_BITS, Encoding, Placement, Sizes, Target

# Bytes in the graph of:
LAYER = 190  # a layer's two DequantizeLinear nodes, its Mul, and the headers of codes, scales and bias
CAST = 30  # the Cast of int4 to int8
UNPACK = 40  # a call of the unpacking function
FLOAT_LAYER = 40  # the headers of a float weight and its bias


def sizes(body: bytes, encodings: Encodings) -> Sizes:
    """The sizes of a file in bytes: whole, compressed by zlib, resident in memory, and payload.

    `resident` counts the constants of the graph that onnxruntime keeps after constant folding; packed weights are int8 there.

    Args:
        body: the file, unsealed.
        encodings: as passed to `write`.

    Returns:
        The sizes, with a phrase about the types that the file computes in.
    """
    model = parse(body)
    optimized = optimized_model(body, PLAIN)
    payload = sum(_tensor_bytes(tensor) for tensor in model.graph.initializer if _is_payload(tensor))
    widths = sorted({encoding.bits for encoding, _ in encodings.values()})
    integer = sum(node.op_type.startswith(INTEGER_KERNELS) for node in optimized.graph.node)
    stored = f"weights stored at {', '.join(map(str, widths))} bits" if widths else "float32 weights"
    return Sizes(
        file=len(body),
        compressed=len(zlib.compress(body, 9)),
        resident=sum(_tensor_bytes(tensor) for tensor in optimized.graph.initializer),
        payload=payload,
        compute=f"int8 in {integer} operators; {stored}" if integer else f"float32; {stored}",
    )


def _is_payload(tensor: onnx.TensorProto) -> bool:
    """Whether an initializer holds weights, scales or biases, and not a shape or a scalar."""
    return tensor.data_type != onnx.TensorProto.INT64 and math.prod(tensor.dims) > 1


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    return onnx.numpy_helper.to_array(tensor).nbytes


def storage_bytes(shape: Sequence[int], bits: int, granularity: str = "channel", sparsity: float = 0.0, bias: bool = True) -> int:
    """Predict the bytes of a layer in the file: codes, scales, bias, and the nodes that turn them into a weight.

    Args:
        shape: of the weight, `(out, in / groups, *kernel)`.
        bits: 2 to 8, or 32 for float32.
        granularity: of the scales: "tensor", "channel" or "group:N".
        sparsity: share of zeros in [0, 1]; a mask and the non-zero codes are stored where that takes fewer bytes.
        bias: whether the layer has a bias.

    Returns:
        Bytes. The size of a file is their sum over its layers plus `overhead`.

    Example:
        Halving the width of 36 864 weights saves half their bytes, less the Cast that 4-bit codes need.

        >>> storage_bytes((64, 64, 3, 3), 8) - storage_bytes((64, 64, 3, 3), 4)
        18402
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


def overhead(
    float_file: bytes, placements: Mapping[str, Sequence[Placement]], target: Target, shapes: Shapes | None = None
) -> int:
    """Bytes of the file that don't depend on the widths of its weights: graph, activation grids, names, unpacking functions.

    The two functions of 0.5 kB each that unpack sparse layers and widths other than 4 and 8 are always counted, whether a plan
    needs them or not, so that a plan within its budget gives a file within it.

    They are computed by writing the file once with 8-bit dummy codes and subtracting `storage_bytes` of all placed weights
    (with its default `bias=True`: the error for a layer without a bias cancels in the sum).

    Args:
        float_file: the exported float32 graph.
        placements: layer name -> the initializers that hold its weight.
        target: that the file is written for.
        shapes: of activations for one example, as for `writer.write`.

    Returns:
        Bytes, without the seal.
    """
    body, weights = _file_with_dummies(float_file, placements, target, (_dummy, shapes))
    names = {"x"} | ({"u"} if set(target.weight_bits) - {4, 8} else set())
    unpacking = sum(_function_bytes(name, target.opset) for name in names)
    return len(body) + unpacking - sum(storage_bytes(shape, 8) for shape in weights)


def packed_overhead(
    float_file: bytes, placements: Mapping[str, Sequence[Placement]], target: Target, shapes: Shapes | None = None
) -> int:
    """Bytes of the container that don't depend on the step sizes, computed by packing a file whose codes are all zero.

    Args:
        float_file: the exported float32 graph.
        placements: layer name -> the initializers that hold its weight.
        target: that the file is written for.
        shapes: of activations for one example, as for `writer.write`.

    Returns:
        Bytes.
    """
    return len(pack(_file_with_dummies(float_file, placements, byte_target(target), (_zeros, shapes))[0]))


def byte_target(target: Target) -> Target:
    """The target for a file that will be packed: every code is a whole byte, which the container's entropy coder shortens."""
    return replace(target, weight_bits=(8,))


def _file_with_dummies(
    float_file: bytes,
    placements: Mapping[str, Sequence[Placement]],
    target: Target,
    form: tuple[Callable[[tuple[int, ...], int], Encoding], Shapes | None],
) -> tuple[bytes, list[tuple[int, ...]]]:
    """The file with dummy codes of 8 bits, and the shapes of the placed weights.

    Args:
        float_file, placements, target: as for `overhead`.
        form: makes the dummies; and the shapes of activations.
    """
    dummy, activations = form
    graph = FloatGraph.of(float_file)
    model = graph.model
    layouts = {place.initializer: place.layout for places in placements.values() for place in places}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in layouts}
    groups = {name: _groups(model, name) for name in tensors}
    shapes = {name: _canonical(tuple(tensor.dims), layouts[name], groups[name]) for name, tensor in tensors.items()}
    encodings = {name: (dummy(shape, index), layouts[name]) for index, (name, shape) in enumerate(shapes.items())}
    ranges = {name: (0.0, 1.0 + index / 1024) for index, name in enumerate(candidates(graph))}
    with_bytes = target if 8 in target.weight_bits else replace(target, weight_bits=(*target.weight_bits, 8))
    return write(float_file, encodings, ranges, with_bytes, activations), list(shapes.values())


def _function_bytes(name: str, opset: int) -> int:
    from onnx_ir import serde

    return sum(serde.serialize_function(function).ByteSize() + 4 for function in functions({name}, opset))


def _groups(model: onnx.ModelProto, name: str) -> int:
    """The `group` attribute of the node that reads an initializer."""
    for node in model.graph.node:
        if name in node.input:
            return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return 1


def _canonical(shape: tuple[int, ...], layout: str, groups: int) -> tuple[int, ...]:
    """The shape `(out, in / groups, *kernel)` of a weight that is stored in a layout."""
    if layout == "transposed":
        return shape[::-1]
    if layout.startswith(GATES):
        return shape[1:]
    if layout == "conv_transpose":
        return (shape[1] * groups, shape[0] // groups, *shape[2:])
    return shape


def _zeros(shape: tuple[int, ...], index: int) -> Encoding:
    """Codes that take no bits in a container, and scales that differ from those of every other layer."""
    return Encoding(np.zeros(shape, np.int8), np.full(shape[0], 2.0 + index / 1024, np.float32), 8)


def _dummy(shape: tuple[int, ...], index: int) -> Encoding:
    """Codes without zeros; codes and scales differ from those of every other layer, so that none is stored once for two."""
    codes = ((np.arange(math.prod(shape)) + index) % 63 + 1).astype(np.int8).reshape(shape)
    return Encoding(codes, np.full(shape[0], 2.0 + index / 1024, np.float32), 8)
