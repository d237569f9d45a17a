"""Codes, scales and the order of operators as NumPy arrays, for FPGA flows and code of one's own on microcontrollers.

The `.npz` file holds `NAME.codes`, `NAME.scale` and `NAME.zero_point` for every weight and bias that is stored as integers, and
`NAME` for every other constant, such as a shape. Values are `(codes - zero_point) * scale`. Its member `graph.json` holds the
rest:

    inputs, outputs   name, type and shape; a word stands for an axis of any length
    constants         NAME -> axis of the scales (null: one scale), and block: codes along it that share one (0: one channel)
    nodes             operator, inputs, outputs and attributes of every node, in an order in which they can be computed

A QuantizeLinear or DequantizeLinear of activations has its scale, zero_point and dtype among its attributes, and one input.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import constant, remove_unread
from dyncompress.deployment.conversion import Converted, Inputs
from dyncompress.deployment.conversion.plain_graph import plain_model
from dyncompress.deployment.conversion.stored_codes import StoredCodes, decode_tables_first, stored_codes
from dyncompress.errors import Unsupported

GRAPH, VERSION = "graph.json", 1


def convert(content: bytes, inputs: Inputs | None = None) -> Converted:
    """The constants and the nodes of an ONNX file.

    Args:
        content: the bytes of the file.
        inputs: not used, since nothing is computed.

    Returns:
        `model.npz`.

    Raises:
        InvalidRequest: the bytes aren't an ONNX file.
        Unsupported: the graph has branches or loops, or computes the scale of an activation.
    """
    model = ir.serde.deserialize_model(plain_model(content))
    graph = model.graph
    decode_tables_first(graph)
    codes = {value.name or "": stored for value, stored in stored_codes(graph).items()}
    for value in stored_codes(graph):
        _store(graph, value)
    remove_unread(graph)
    nodes = [_described(node) for node in graph]
    read = {name for node in nodes for name in node["inputs"]} | {value.name or "" for value in graph.outputs}
    plain = {
        name: value.const_value.numpy() for name, value in graph.initializers.items() if value.const_value and name not in codes
    }
    whole = {name: array for name, array in plain.items() if name in read}
    listed = {name: stored for name, stored in codes.items() if name in read}
    parts = {f"{name}.{word}": array for name, stored in listed.items() for word, array in _arrays(stored).items()}
    described = {
        "version": VERSION,
        "inputs": [_value(value) for value in graph.inputs],
        "outputs": [_value(value) for value in graph.outputs],
        "constants": {name: {"axis": stored.axis, "block": stored.block} for name, stored in listed.items()},
        "nodes": nodes,
    }
    note = f"{len(listed)} constants are stored as codes, {len(whole)} as they are; nodes: {len(nodes)}."
    return Converted({"model.npz": _packed(whole | parts, described)}, (note,))


def _arrays(stored: StoredCodes) -> Mapping[str, np.ndarray]:
    return {"codes": stored.codes, "scale": stored.scale, "zero_point": stored.zero_point}


def _store(graph: ir.Graph, value: ir.Value) -> None:
    """Let the readers of decoded codes read a constant of the same name, in place."""
    name = value.name
    value.name = f"{name}_node"
    stored = ir.Value(name=name, const_value=ir.tensor(np.zeros(0, np.float32)))
    graph.register_initializer(stored)
    value.replace_all_uses_with(stored, replace_graph_outputs=True)


def _packed(arrays: Mapping[str, np.ndarray], described: Mapping[str, Any]) -> bytes:
    """The bytes of the `.npz` file; equal content gives equal bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)
        archive.writestr(zipfile.ZipInfo(GRAPH), json.dumps(described, indent=1), zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _value(value: ir.Value) -> dict[str, Any]:
    """Name, type and shape of an input or output."""
    shape = None if value.shape is None else [size if isinstance(size, int) else str(size.value) for size in value.shape]
    return {"name": value.name, "type": None if value.dtype is None else value.dtype.name.lower(), "shape": shape}


def _described(node: ir.Node) -> dict[str, Any]:
    """A node as JSON values.

    Raises:
        Unsupported: it has a branch or a loop body, or its scale isn't constant.
    """
    inputs = ["" if value is None else value.name for value in node.inputs]
    attributes = {name: _attribute(node, one) for name, one in node.attributes.items()}
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        given = len(node.inputs) > 2 and node.inputs[2] is not None
        scale, zero = constant(node.inputs[1]), constant(node.inputs[2]) if given else np.zeros((), np.uint8)
        if scale is None or zero is None:
            raise Unsupported(f"node '{node.outputs[0].name}' ({node.op_type}) computes its scale; store the scale in the file.")
        attributes |= {"scale": scale.tolist(), "zero_point": zero.tolist(), "dtype": zero.dtype.name}
        inputs = inputs[:1]
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return {"operator": operator, "inputs": inputs, "outputs": [value.name for value in node.outputs], "attributes": attributes}


def _attribute(node: ir.Node, attribute: ir.Attr) -> Any:
    """The value of an attribute as JSON.

    Raises:
        Unsupported: it is a branch or a loop body.
    """
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        raise Unsupported(
            f"node '{node.outputs[0].name}' ({node.op_type}) has a branch or a loop body, which arrays can't express."
        )
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().numpy().tolist()
    value = attribute.value
    return list(value) if isinstance(value, tuple) else value
