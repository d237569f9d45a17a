"""Every byte of graph text counts in a small file: short names, no attributes that repeat a default, no unused constants."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator

import onnx


def shorten(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rename inner values, drop default attributes, names of nodes and unused initializers, in place.

    Initializers are put in the order in which nodes read them: blocks that repeat then read alike to a compressor.

    Names of the graph's inputs and outputs stay: they are how users feed the model. Values read by branches and loop bodies
    are renamed there too.

    Args:
        model: a model without inner value infos.

    Returns:
        The same object.
    """
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    _drop_unused(graph, kept)
    _sort(graph)
    names = _names(kept)
    short: dict[str, str] = {name: name for name in kept}
    for tensor in graph.initializer:
        short.setdefault(tensor.name, tensor.name if tensor.name in kept else next(names))
        tensor.name = short[tensor.name]
    _rename(graph.node, short, names)
    version = next(entry.version for entry in model.opset_import if entry.domain == "")
    for node in _all_nodes(graph):
        _drop_defaults(node, version)
    return model


def _sort(graph: onnx.GraphProto) -> None:
    """Initializers by their first reader; those that only branches and loop bodies read come last."""
    place: dict[str, int] = {}
    for name in (name for node in graph.node for name in node.input):
        place.setdefault(name, len(place))
    graph.initializer.sort(key=lambda tensor: place.get(tensor.name, len(place)))


def _names(taken: set[str]) -> Iterator[str]:
    letters = string.ascii_letters
    for length in itertools.count(1):
        for name in map("".join, itertools.product(letters, repeat=length)):
            if name not in taken:
                yield name


def _rename(nodes: Iterable[onnx.NodeProto], short: dict[str, str], names: Iterator[str]) -> None:
    for node in nodes:
        node.name = ""
        for index, name in enumerate(node.input):
            if name:
                node.input[index] = short[name]
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
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


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


def _drop_unused(graph: onnx.GraphProto, kept: set[str]) -> None:
    """Remove nodes and initializers that nothing reads, from the back."""
    needed = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if any(out in needed for out in node.output):
            nodes.append(node)
            needed.update(node.input)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    needed.update(name for inner in _all_nodes(attribute.g) for name in inner.input)
                    needed.update(value.name for value in attribute.g.output)
    unread = [tensor for tensor in graph.initializer if tensor.name not in needed]
    for tensor in unread:
        graph.initializer.remove(tensor)
    nodes.reverse()
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_defaults(node: onnx.NodeProto, version: int) -> None:
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
    """Attributes of a Conv without a default in the schema that are implied when absent."""
    if name == "kernel_shape":
        return True  # read off the weight
    return isinstance(value, list) and set(value) <= {{"strides": 1, "dilations": 1, "pads": 0}.get(name)}
