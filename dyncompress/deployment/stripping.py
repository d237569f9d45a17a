"""Remove what exporters add: stack traces with local paths, doc strings, node names, shapes of inner values.

The metadata of the model itself stay, such as an alphabet that a program reads.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError

from dyncompress.errors import InvalidRequest


def strip(float_file: bytes) -> bytes:
    """Remove exporter metadata from a file; fractions of bytes in a budget refer to the result.

    Args:
        float_file: an ONNX file.

    Returns:
        The file with the same operators, value names and initializers.

    Raises:
        InvalidRequest: the bytes aren't an ONNX model.
    """
    return stripped(parse(float_file)).SerializeToString(deterministic=True)


def stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself without exporter metadata."""
    model.doc_string = ""
    model.producer_name = model.producer_version = model.domain = ""
    model.model_version = 0
    own = [entry for entry in model.metadata_props if not entry.key.startswith("dyncompress")]  # a seal is about another file
    kept = [(entry.key, entry.value) for entry in own]
    del model.metadata_props[:]
    for key, value in kept:
        model.metadata_props.add(key=key, value=value)
    _strip_graph(model.graph)
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:], function.value_info[:]
        for node in function.node:
            _strip_node(node)
    return model


def parse(file: bytes) -> onnx.ModelProto:
    """Parse an ONNX file and check it.

    Raises:
        InvalidRequest: the bytes aren't an ONNX model with a graph.
    """
    try:
        onnx.checker.check_model(file)
    except (ValueError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidRequest(f"the {len(file)} bytes given aren't an ONNX file ({reason}); export the model again.") from error
    return read(file)


def read(file: bytes) -> onnx.ModelProto:
    """Parse an ONNX file that was checked before; a check takes several times the file's memory.

    Raises:
        InvalidRequest: the bytes aren't an ONNX model with a graph.
    """
    try:
        model = onnx.ModelProto.FromString(file)
    except DecodeError as error:
        raise InvalidRequest(f"the {len(file)} bytes given aren't an ONNX file ({error}); export the model again.") from error
    if not model.graph.node:
        raise InvalidRequest(f"the {len(file)} bytes given hold an ONNX model without nodes; export the model again.")
    return model


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches or the loop body of a node."""
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else [])
        yield from attribute.graphs


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph, those of branches and loop bodies included."""
    for node in graph.node:
        yield node
        for body in bodies_of(node):
            yield from nodes_of(body)


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    graph.name = "g"
    del graph.value_info[:], graph.metadata_props[:], graph.quantization_annotation[:]
    for value in [*graph.input, *graph.output]:
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: onnx.NodeProto) -> None:
    node.doc_string = ""
    node.name = ""  # runtimes don't read the names of nodes; values keep theirs
    del node.metadata_props[:]
    for attribute in node.attribute:
        attribute.doc_string = ""
        if attribute.HasField("g"):
            _strip_graph(attribute.g)
