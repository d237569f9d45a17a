"""A graph as the rules of a target check read it: who computes a value, who reads it, what is constant, and all shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator

from dyncompress.deployment.stripping import bodies_of

LARGEST_FOLDED = 1 << 22  # numbers of a stored tensor; constants behind larger ones aren't evaluated
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout")
_REFERENCE_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}
_BITS = {"STRING": 0, "FLOAT": 32, "DOUBLE": 64, "BOOL": 8, "BFLOAT16": 16, "COMPLEX64": 64, "COMPLEX128": 128}


def type_name(data_type: int) -> str:
    """The name of an ONNX element type.

    Example:
        >>> type_name(TensorProto.FLOAT), type_name(TensorProto.INT4)
        ('float32', 'int4')
    """
    name = TensorProto.DataType.Name(data_type) if data_type in TensorProto.DataType.values() else f"type{data_type}"
    return _NAMES.get(name, name.lower())


def type_bits(data_type: int) -> int:
    """Bits of one element, as the file stores it.

    Example:
        >>> type_bits(TensorProto.INT4), type_bits(TensorProto.FLOAT16), type_bits(TensorProto.FLOAT8E5M2)
        (4, 16, 8)
    """
    name = TensorProto.DataType.Name(data_type) if data_type in TensorProto.DataType.values() else ""
    if name in _BITS:
        return _BITS[name]
    digits = "".join(c if c.isdigit() else " " for c in name).split()
    return int(digits[0]) if digits else 8


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of a tensor's values, whose last byte may be filled in part."""
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    return math.ceil(math.prod(tensor.dims) * type_bits(tensor.data_type) / 8)


def stored_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """All tensors that a graph stores, those of branches and loop bodies included."""
    yield from graph.initializer
    for entry in graph.sparse_initializer:
        yield from (entry.values, entry.indices)
    for node in graph.node:
        yield from (entry.t for entry in node.attribute if node.op_type == "Constant" and entry.HasField("t"))
        for body in bodies_of(node):
            yield from stored_tensors(body)


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((entry.i for entry in node.attribute if entry.name == name), default)


def place(node: onnx.NodeProto) -> str:
    """The name of a node, or that of its first output."""
    return node.name or next(iter(node.output), node.op_type)


@dataclass(frozen=True)
class View:
    """A graph without local functions, and tables about it.

    Attributes:
        model: the file, its local functions inlined.
        producers: value -> the node that computes it.
        readers: value -> the nodes that read it.
        tensors: value -> the tensor that the file stores for it.
        constants: values that don't depend on the inputs.
        shapes: value -> its shape; None for an axis of unknown length.
        types: value -> its ONNX element type.
        folded: values of constants that were evaluated.
    """

    model: onnx.ModelProto
    producers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, tuple[onnx.NodeProto, ...]]
    tensors: Mapping[str, TensorProto]
    constants: frozenset[str]
    shapes: Mapping[str, tuple[int | None, ...]]
    types: Mapping[str, int]
    folded: dict[str, np.ndarray | None] = field(default_factory=dict)

    def dequantizer(self, node: onnx.NodeProto, index: int) -> onnx.NodeProto | None:
        """The DequantizeLinear that computes an input of a node; None if another node does."""
        producer = self.producers.get(node.input[index]) if index < len(node.input) else None
        return producer if producer is not None and producer.op_type == "DequantizeLinear" else None

    def is_constant(self, node: onnx.NodeProto, index: int) -> bool:
        """Whether a node has this input, and it doesn't depend on the inputs of the graph."""
        return index < len(node.input) and node.input[index] in self.constants

    def type_of(self, value: str) -> int:
        """The element type of a value; 0 if it isn't known."""
        return self.tensors[value].data_type if value in self.tensors else self.types.get(value, 0)

    def code_type(self, node: onnx.NodeProto) -> int:
        """The element type of the codes of a QuantizeLinear or DequantizeLinear; 0 if it isn't known."""
        if node.op_type == "DequantizeLinear" and self.type_of(node.input[0]):
            return self.type_of(node.input[0])
        if len(node.input) > 2 and node.input[2]:
            return self.type_of(node.input[2])
        return attribute(node, "output_dtype", 0) or TensorProto.UINT8

    def value(self, name: str) -> np.ndarray | None:
        """The value of a constant; None if it isn't one, is large, or can't be evaluated."""
        if name not in self.folded:
            self.folded[name] = self._evaluated(name) if name in self.constants else None
        return self.folded[name]

    def stored(self, name: str) -> list[TensorProto]:
        """The tensors of the file that a constant is computed from."""
        found, pending, seen = [], [name], set()
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in self.tensors:
                found.append(self.tensors[current])
            elif current in self.producers:
                pending += self.producers[current].input
        return found

    def _evaluated(self, name: str) -> np.ndarray | None:
        """The value of a constant, by onnx's reference implementation."""
        tensors = self.stored(name)
        if any(tensor.data_location == TensorProto.EXTERNAL or math.prod(tensor.dims) > LARGEST_FOLDED for tensor in tensors):
            return None
        if name in self.tensors:
            return numpy_helper.to_array(self.tensors[name])
        needed, pending = set(), [name]
        while pending:
            producer = self.producers.get(pending.pop())
            if producer is not None and id(producer) not in needed:
                needed.add(id(producer))
                pending += producer.input
        nodes = [node for node in self.model.graph.node if id(node) in needed]
        output = helper.make_tensor_value_info(name, self.type_of(name) or TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "constant", [], [output], [t for t in tensors if t.name])
        try:
            small = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=10)
            (value,) = ReferenceEvaluator(small).run(None, {})
        except _REFERENCE_ERRORS:  # an operator that the reference doesn't have, or a wrong graph: other rules report it
            return None
        return np.asarray(value)


def view(model: onnx.ModelProto) -> View:
    """Read a graph, with local functions inlined and a batch of one where the batch size is free.

    Args:
        model: any model; it isn't changed.

    Returns:
        The tables. Shapes are those that onnx can infer.
    """
    if model.functions:
        with suppress(RuntimeError, ValueError):  # onnx's checker reports wrong functions
            model = inliner.inline_local_functions(model)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer} | {t.values.name: t.values for t in graph.sparse_initializer}
    given = {value.name for value in graph.input}
    producers, readers = {}, {}
    constants = set(tensors) - given
    for node in graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)
        for value in node.output:
            producers[value] = node
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            tensors[node.output[0]] = node.attribute[0].t
        body = any(entry.HasField("g") for entry in node.attribute)
        if not body and node.op_type not in _RANDOM and all(value in constants or not value for value in node.input):
            constants.update(node.output)
    shapes, types = _shapes_and_types(model)
    return View(model, producers, {k: tuple(v) for k, v in readers.items()}, tensors, frozenset(constants), shapes, types)


def _shapes_and_types(model: onnx.ModelProto) -> tuple[dict[str, tuple[int | None, ...]], dict[str, int]]:
    """Shapes and element types of all values, as far as onnx can infer them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    for value in copy.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")  # its free batch axis would contradict the batch of one
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):  # onnx's checker reports wrong graphs
        copy = model
    shapes: dict[str, tuple[int | None, ...]] = {tensor.name: tuple(tensor.dims) for tensor in copy.graph.initializer}
    types = {}
    for value in (*copy.graph.input, *copy.graph.value_info, *copy.graph.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return shapes, types
