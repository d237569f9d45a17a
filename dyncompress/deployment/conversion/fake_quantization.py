"""A float file whose activations are rounded to their encodings, to compare it with the file that the encodings are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir


def fake_quantized(float_file: bytes, encodings: Mapping[str, Any]) -> bytes:
    """The float file with every activation rounded to its encoding, as a compiler that applies the encodings computes it.

    Args:
        float_file: the bytes of `model.onnx`.
        encodings: the content of `encodings.json`.

    Returns:
        The bytes of an ONNX file, in which QuantizeLinear and DequantizeLinear follow every activation with an encoding. A node
        that does nothing follows every weight with one: kernels add up stored weights in another order than decoded ones.
    """
    model = ir.serde.deserialize_model(onnx.ModelProto.FromString(float_file))
    graph = model.graph
    values = {value.name: value for value in [*graph.inputs, *(out for node in graph for out in node.outputs)]}
    for entry in encodings["param_encodings"]:
        weight = graph.initializers[entry["name"]]
        node = ir.node("Identity", [weight])
        node.outputs[0].name = f"{weight.name}_read"
        weight.replace_all_uses_with(node.outputs[0])
        node.replace_input_with(0, weight)
        graph.insert_before(graph[0], node)
    for entry in encodings["activation_encodings"]:
        value = values[entry["name"]]
        rounded = list(_rounding(graph, value, entry))
        readers = [use for use in value.uses() if use.node not in rounded]
        end = rounded[-1].outputs[0]
        for use in readers:
            use.node.replace_input_with(use.idx, end)
        if value.is_graph_output():
            name, place = value.name, list(graph.outputs).index(value)
            value.name, end.name, end.type, end.shape = f"{name}_float", name, value.type, value.shape
            graph.outputs[place] = end
    return ir.serde.serialize_model(model).SerializeToString()


def _rounding(graph: ir.Graph, value: ir.Value, entry: Mapping[str, Any]) -> Iterator[ir.Node]:
    """Insert QuantizeLinear and DequantizeLinear behind the node that computes a value."""
    zero = np.array(-entry["offset"][0], f"uint{entry['bw']}")
    stored = []
    for word, array in (("scale", np.float32(entry["scale"][0])), ("zero", zero)):
        stored.append(ir.Value(name=f"{value.name}_{word}", const_value=ir.tensor(array)))
        graph.register_initializer(stored[-1])
    anchor, source = value.producer(), value
    for operator in ("QuantizeLinear", "DequantizeLinear"):
        node = ir.node(operator, [source, *stored])
        node.outputs[0].name = f"{value.name}_{operator}"
        graph.insert_after(anchor, node) if anchor is not None else graph.insert_before(graph[0], node)
        anchor, source = node, node.outputs[0]
        yield node
