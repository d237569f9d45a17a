"""Read an ONNX file for the conversion: no functions, a batch of one, constants computed, and all shapes known."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import optimizer

from dyncompress.coding.external import refuse_external
from dyncompress.deployment.constants import constant
from dyncompress.deployment.stripping import parse
from dyncompress.errors import Unsupported

_ANY_SIZE = 1 << 62  # bytes of constants that are computed


def read(content: bytes) -> tuple[ir.Graph, bool]:
    """Read a file.

    Args:
        content: the bytes of an ONNX file.

    Returns:
        Its graph, and whether the batch size was free. DequantizeLinear of weights and biases aren't computed.

    Raises:
        InvalidRequest: the bytes aren't an ONNX file, or its weights lie in other files.
        Unsupported: an axis other than the batch has no fixed length.
    """
    proto = parse(content)
    refuse_external(content, "the ONNX file")
    free_batch = _fix_batch(proto.graph)
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")  # inferred for the batch of one
    model = ir.serde.deserialize_model(proto)
    optimizer.inline(model)
    _fold(model)
    _unify_dequantizers(model.graph)
    _fold(model)
    return model.graph, free_batch


def _fold(model: ir.Model) -> None:
    """Infer shapes and compute constants, in place."""
    optimizer.fold_constants(
        model, onnx_shape_inference=True, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE, should_fold=_should_fold
    )
    optimizer.remove_unused_nodes(model)


def _unify_dequantizers(graph: ir.Graph) -> None:
    """Replace a Cast and Mul that dequantize a constant by a DequantizeLinear; where none computes the same, by their result."""
    for cast in [node for node in graph if node.op_type == "Cast"]:
        codes, readers = constant(cast.inputs[0]), cast.outputs[0].consumers()
        if codes is None:
            continue
        for node in readers:
            scale = constant(node.inputs[1]) if node.op_type == "Mul" and node.inputs[0] is cast.outputs[0] else None
            if scale is None:
                continue
            axes = [axis + codes.ndim - scale.ndim for axis, length in enumerate(scale.shape) if length > 1]
            product = codes.astype(np.float32) * scale
            if len(axes) < 2 and product.shape == codes.shape and codes.dtype == np.int8:
                inputs = [cast.inputs[0], _initializer(graph, scale.reshape(-1) if axes else scale.reshape(()), node)]
                new = ir.node("DequantizeLinear", inputs, {"axis": axes[0]} if axes else None)
                graph.insert_before(node, new)
                value = new.outputs[0]
                value.name, value.shape, value.dtype = (
                    f"{node.outputs[0].name}_dequantized",
                    node.outputs[0].shape,
                    ir.DataType.FLOAT,
                )
            else:
                value = _initializer(graph, product, node)
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            graph.remove(node, safe=True)


def _initializer(graph: ir.Graph, array: np.ndarray, node: ir.Node) -> ir.Value:
    """Store a constant that takes the place of an input or of the output of a node."""
    value = ir.Value(name=f"{node.outputs[0].name}_stored", const_value=ir.tensor(array), shape=ir.Shape(array.shape))
    value.dtype = ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value


def _decodes(node: ir.Node) -> bool:
    """Whether a node turns codes into floats."""
    return node.op_type == "DequantizeLinear" or (
        node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.FLOAT and constant(node.inputs[0]) is not None
    )


def _should_fold(node: ir.Node) -> bool | None:
    """Every node that reads constants alone, except those that dequantize codes; None: as the library decides."""
    if _decodes(node):
        return False
    return True if node.inputs and all(value is None or value.const_value is not None for value in node.inputs) else None


def _fix_batch(graph: onnx.GraphProto) -> bool:
    """Set free batch sizes to 1, in place; returns whether there was one."""
    stored, free_batch = {tensor.name for tensor in graph.initializer}, False
    for value in graph.input:
        tensor = value.type.tensor_type
        if value.name in stored:
            continue
        if not tensor.HasField("shape"):
            raise Unsupported(f"input '{value.name}' has no shape; export the model with shapes of its inputs.")
        for axis, length in enumerate(tensor.shape.dim):
            if length.HasField("dim_value"):
                continue
            if axis > 0:
                name = f" ('{length.dim_param}')" if length.dim_param else ""
                raise Unsupported(
                    f"axis {axis}{name} of input '{value.name}' takes any length, and LiteRT wants fixed ones except for the "
                    "batch on axis 0; export the model with that length fixed."
                )
            length.dim_value, free_batch = 1, True
    return free_batch


def place(node: ir.Node) -> str:
    """How messages name a node: by its name, or by its first output."""
    return f"node '{node.name or node.outputs[0].name}' ({node.op_type})"


def shape_of(value: ir.Value | None) -> tuple[int, ...]:
    """The shape of a value.

    Raises:
        Unsupported: it isn't known.
    """
    lengths = None if value is None or value.shape is None else value.shape.dims
    if value is None or lengths is None or not all(isinstance(length, int) for length in lengths):
        name = "" if value is None else value.name
        raise Unsupported(
            f"the shape of '{name}' depends on the inputs, and LiteRT wants fixed ones; export the model without it."
        )
    return tuple(int(length) for length in lengths)  # pyright: ignore[reportArgumentType]


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """An input of a node; None if it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def given_constant(node: ir.Node, index: int) -> np.ndarray | None:
    """A constant input of a node; None if it is absent.

    Raises:
        Unsupported: the graph computes it.
    """
    value = input_of(node, index)
    if value is None:
        return None
    array = constant(value)
    if array is None:
        raise Unsupported(
            f"{place(node)}: input {index} is computed, and LiteRT wants a constant there; export the model with one."
        )
    return array
