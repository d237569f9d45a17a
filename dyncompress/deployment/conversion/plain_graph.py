"""An ONNX file in plain form: no local functions, and every value that doesn't depend on the inputs is stored.

Stored codes stay codes: the DequantizeLinear, or the Cast and Mul, that turn them into a weight stay in the graph, and what
unpacks narrow codes in front of them is computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, inliner, numpy_helper

from dyncompress.coding.external import refuse_external
from dyncompress.deployment.conversion.comparison import as_defined
from dyncompress.deployment.stripping import bodies_of, nodes_of, parse

_RANDOM = ("RandomNormal", "RandomUniform", "Bernoulli", "Multinomial", "Dropout")  # RandomNormalLike reads a value


def plain_model(content: bytes) -> onnx.ModelProto:
    """The model of a file in plain form.

    Args:
        content: the bytes of an ONNX file.

    Returns:
        A model of its own, without value infos and without the metadata that dyncompress writes, which is about the file.

    Raises:
        InvalidRequest: the bytes aren't an ONNX file, or its weights lie in other files.
        Unsupported: onnxruntime can't compute a constant of the graph.
    """
    model = parse(content)
    refuse_external(content, "the ONNX file")
    if model.functions:
        model = inliner.inline_local_functions(model)
    own = [entry for entry in model.metadata_props if not entry.key.startswith("dyncompress")]
    del model.graph.value_info[:], model.metadata_props[:]
    model.metadata_props.extend(own)
    _drop_constant_nodes(model.graph)
    fold(model)
    return model


def fold(model: onnx.ModelProto, decode: bool = False, named: Collection[str] = ()) -> None:
    """Compute what doesn't depend on the inputs, in place, and store the values that the rest of the graph reads.

    Args:
        model: without local functions.
        decode: whether weights are computed from their codes as well.
        named: initializers that keep their names, so that nodes which read them stay.

    Raises:
        Unsupported: onnxruntime can't compute a constant of the graph.
    """
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer} - {value.name for value in graph.input} - set(named)
    folded, rest = [], []
    for node in graph.node:
        computes = node.op_type not in _RANDOM and not any(True for _ in bodies_of(node)) and (decode or not _decodes(node))
        if computes and all(name in known or not name for name in node.input):
            folded.append(node)
            known.update(node.output)
        else:
            rest.append(node)
    if folded:
        computed = {name for node in folded for name in node.output}
        needed = computed & (_read(rest) | {value.name for value in graph.output})
        graph.initializer.extend(_values(model, folded, sorted(needed)))
        del graph.node[:]
        graph.node.extend(rest)
    drop_unread(graph)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the initializers that nothing reads, in place."""
    read = _read(graph.node) | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _decodes(node: onnx.NodeProto) -> bool:
    """Whether a node turns codes into floats."""
    return node.op_type == "DequantizeLinear" or (
        node.op_type == "Cast" and any(entry.name == "to" and entry.i == TensorProto.FLOAT for entry in node.attribute)
    )


def _read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """The values that nodes read, those of branches and loop bodies included."""
    return set(_names(nodes))


def _names(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from node.input
        for body in bodies_of(node):
            yield from (value.name for value in body.output)
            for inner in nodes_of(body):
                yield from inner.input


def _values(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]) -> list[TensorProto]:
    """The values that some nodes compute from initializers alone."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    drop_unread(graph)
    arrays = as_defined(small.SerializeToString()).run(names, {})
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in zip(names, arrays, strict=True)]


def _drop_constant_nodes(graph: onnx.GraphProto) -> None:
    """Store the tensors of Constant nodes of the main graph as initializers, in place."""
    rest = []
    for node in graph.node:
        value = next((entry.t for entry in node.attribute if entry.name == "value" and entry.HasField("t")), None)
        if node.op_type == "Constant" and value is not None:
            value.name = node.output[0]
            graph.initializer.append(value)
        else:
            rest.append(node)
    del graph.node[:]
    graph.node.extend(rest)
