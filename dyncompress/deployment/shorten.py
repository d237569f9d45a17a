"""Shorten the text of a graph: short names, no attributes that equal their default, no unused nodes and initializers.

In a file of a few kilobytes names and attributes are a large share of the bytes.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator

import onnx

from dyncompress.deployment.stripping import bodies_of, nodes_of


def shorten(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rename inner values, and remove default attributes, node names, unused nodes and unused initializers, in place.

    Initializers are sorted by the order in which nodes read them, so that repeated blocks look alike to a compressor.
    The names of the graph's inputs and outputs are kept, since users pass data by them. Values that branches and loop bodies
    read are renamed there too.

    Args:
        model: a model without value infos of inner values.

    Returns:
        The same object.
    """
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    _drop_unused(graph, kept)
    _sort_initializers(graph)
    names = _names(kept)
    short: dict[str, str] = {name: name for name in kept}
    for tensor in graph.initializer:
        short.setdefault(tensor.name, tensor.name if tensor.name in kept else next(names))
        tensor.name = short[tensor.name]
    _rename(graph.node, short, names)
    version = next(entry.version for entry in model.opset_import if entry.domain == "")
    for node in nodes_of(graph):
        _drop_defaults(node, version)
    return model


def _sort_initializers(graph: onnx.GraphProto) -> None:
    """Sort the initializers by their first reader; those that only branches and loop bodies read come last."""
    place: dict[str, int] = {}
    for name in (name for node in graph.node for name in node.input):
        place.setdefault(name, len(place))
    graph.initializer.sort(key=lambda tensor: place.get(tensor.name, len(place)))


def _names(reserved: set[str]) -> Iterator[str]:
    """The names a, b, ..., Z, aa, ab, ... without the reserved ones."""
    letters = string.ascii_letters
    for length in itertools.count(1):
        for name in map("".join, itertools.product(letters, repeat=length)):
            if name not in reserved:
                yield name


def _rename(nodes: Iterable[onnx.NodeProto], short: dict[str, str], names: Iterator[str]) -> None:
    """Rename inputs and outputs of nodes and of their inner graphs by `short`, which gains the names of the outputs."""
    for node in nodes:
        node.name = ""
        for index, name in enumerate(node.input):
            if name:
                node.input[index] = short[name]
        for body in bodies_of(node):
            inner = dict(short)
            for value in (*body.input, *body.initializer):
                inner[value.name] = next(names)
                value.name = inner[value.name]
            _rename(body.node, inner, names)
            for value in body.output:
                value.name = inner[value.name]
        for index, name in enumerate(node.output):
            if name:
                short.setdefault(name, next(names))
                node.output[index] = short[name]


def _drop_unused(graph: onnx.GraphProto, kept: set[str]) -> None:
    """Remove the nodes whose outputs nothing reads, from the last to the first, and unread initializers."""
    needed = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if any(out in needed for out in node.output):
            nodes.append(node)
            needed.update(node.input)
            for body in bodies_of(node):
                needed.update(name for inner in nodes_of(body) for name in inner.input)
                needed.update(value.name for value in body.output)
    unread = [tensor for tensor in graph.initializer if tensor.name not in needed]
    for tensor in unread:
        graph.initializer.remove(tensor)
    nodes.reverse()
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_defaults(node: onnx.NodeProto, version: int) -> None:
    """Remove the attributes of a node that equal their default in an opset."""
    if node.domain not in ("", "ai.onnx"):
        return
    defaults = onnx.defs.get_schema(node.op_type, version).attributes
    for attribute in list(node.attribute):
        value = onnx.helper.get_attribute_value(attribute)
        schema = defaults.get(attribute.name)
        default = schema.default_value if schema is not None else None
        same = default is not None and default.name and onnx.helper.get_attribute_value(default) == value
        if same or (node.op_type == "Conv" and _implied(attribute.name, value)):
            node.attribute.remove(attribute)


def _implied(name: str, value: object) -> bool:
    """Whether an attribute of a Conv has the value that is implied where it is absent, without a default in the schema."""
    if name == "kernel_shape":
        return True  # that of the weight
    return isinstance(value, list) and set(value) <= {{"strides": 1, "dilations": 1, "pads": 0}.get(name)}
