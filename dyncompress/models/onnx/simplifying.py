"""Simplify a graph: factors and terms beside a layer move into its weights, and a hard sigmoid in four nodes becomes one.

Exporters write a scale or shift of channels, and activations that they have no operator for, as Mul, Add, Clip and Div of their
own, each of which reads and writes the whole activation. What is computed stays the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dyncompress.models.onnx.interpreter import attributes_of
from dyncompress.models.onnx.layers import results_of, weight_readers
from dyncompress.models.onnx.reading import OnnxGraph

LAYERS = ("Conv", "ConvTranspose", "Gemm")
EQUAL = 1e-6  # relative difference of two constants that count as equal


def simplified(graph: OnnxGraph) -> OnnxGraph:
    """The graph with fewer nodes; the graph that is given stays as it is.

    Args:
        graph: in one form.

    Returns:
        A graph that computes the same up to rounding, with the same inputs and outputs.
    """
    proto = ModelProto()
    proto.CopyFrom(graph.proto)
    work = _Graph(proto)
    for rule in (_hard_sigmoid, _factor_or_term_after_layer, _term_before_layers, _factor_before_layers):
        work.apply(rule)
    work.finish()
    return OnnxGraph(proto, graph.name, {new: old for new, old in graph.transposes.items() if not {new, old} & work.changed})


class _Graph:
    """A graph that rules change: who computes and who reads a value, and the constants.

    Attributes:
        nodes: output -> the node of the main graph that computes it.
        readers: value -> the nodes that read it, those of subgraphs included.
        changed: initializers with other values than before.
    """

    def __init__(self, proto: ModelProto) -> None:
        self.proto, self.changed = proto, set[str]()
        self.tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._index()

    def _index(self) -> None:
        graph = self.proto.graph
        self.nodes = {name: node for node in graph.node for name in node.output if name}
        self.readers = weight_readers(graph)
        self.results = set(results_of(graph))

    def apply(self, rule: Callable[[_Graph, NodeProto], bool]) -> None:
        """Apply a rule to every node, until it changes nothing; a rule returns whether it changed the graph."""
        found = True
        while found:
            found = False
            for node in list(self.proto.graph.node):
                if node.op_type and rule(self, node):
                    found = True
                    self._index()

    def finish(self) -> None:
        """Remove the nodes that rules emptied, and initializers that nothing reads."""
        graph = self.proto.graph
        read = set(weight_readers(graph)) | self.results
        for field, kept in (
            (graph.node, [node for node in graph.node if node.op_type]),
            (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read]),
        ):
            copies = [type(item).FromString(item.SerializeToString()) for item in kept]
            del field[:]
            field.extend(copies)  # type: ignore[arg-type]

    def constant(self, name: str) -> np.ndarray | None:
        """The float32 values of an initializer, None for another value."""
        tensor = self.tensors.get(name)
        return None if tensor is None or tensor.data_type != TensorProto.FLOAT else numpy_helper.to_array(tensor)

    def number(self, name: str) -> float | None:
        """The value of a constant of one element, else None."""
        array = self.constant(name)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def only_reader(self, name: str) -> NodeProto | None:
        """The one node that reads a value, None where there are several, or where the graph returns it."""
        readers = self.readers.get(name, [])
        alone = len(readers) == 1 and name not in self.results and list(readers[0].input).count(name) == 1
        return readers[0] if alone and readers[0].output[0] in self.nodes else None

    def set(self, name: str, value: np.ndarray) -> None:
        """Give an initializer other values, or add one."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
        self.changed.add(name)
        if name not in self.tensors:
            self.tensors[name] = self.proto.graph.initializer.add()
        self.tensors[name].CopyFrom(tensor)

    def free(self, name: str) -> str:
        """The name, with a number where a value has it."""
        number, free = 0, name
        while free in self.tensors or free in self.nodes or free in self.readers:
            number += 1
            free = f"{name}_{number}"
        return free

    def remove(self, node: NodeProto, value: str) -> None:
        """Remove a node; whoever read its output reads a value instead.

        The node stays in the list without an operator, so that nobody's position changes.
        """
        for reader in self.readers.get(node.output[0], []):
            reader.input[:] = [value if name == node.output[0] else name for name in reader.input]
        node.Clear()


def _operands(work: _Graph, node: NodeProto) -> tuple[str, np.ndarray, bool] | None:
    """The computed and the constant operand of a Mul, Div, Add or Sub, and whether it is a factor.

    The constant is what multiplies or is added: of a Div its inverse, of a Sub its negative.
    """
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or node.domain not in ("", "ai.onnx"):
        return None
    pairs = [(0, 1)] if node.op_type in ("Div", "Sub") else [(0, 1), (1, 0)]
    for data, other in pairs:
        constant = work.constant(node.input[other])
        if constant is not None and node.input[data] not in work.tensors:
            if node.op_type == "Div":
                if not np.all(constant):
                    return None
                constant = 1.0 / constant.astype(np.float64)
            return node.input[data], -constant if node.op_type == "Sub" else constant, node.op_type in ("Mul", "Div")
    return None


def _per_channel(constant: np.ndarray, channels: int, rank: int) -> np.ndarray | None:
    """A constant that is broadcast over a value `[n, channels, ...]` of some rank, as `[channels]`, float64; None if it isn't one
    for each channel."""
    constant = constant.astype(np.float64)
    if constant.ndim > rank:
        return None
    if constant.size == 1:
        return np.full(channels, float(constant.reshape(())))
    shape = (1,) * (rank - constant.ndim) + constant.shape
    return constant.reshape(-1) if shape == (1, channels, *[1] * (rank - 2)) else None


# ---------------------------------------------------------------- a layer's weight


def _own_weight(work: _Graph, node: NodeProto) -> np.ndarray | None:
    """The weight of a layer that no other node reads, and whose bias (if any) is a constant; else None."""
    if node.op_type not in LAYERS or node.domain not in ("", "ai.onnx") or len(node.input) < 2:
        return None
    weight = work.constant(node.input[1])
    if weight is None or len(work.readers[node.input[1]]) > 1 or node.input[1] in work.results or not weight.size:
        return None
    if len(node.input) > 2 and node.input[2] and work.constant(node.input[2]) is None:
        return None
    attributes = attributes_of(node)
    if node.op_type == "Gemm" and (attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0):
        return None
    if node.op_type == "ConvTranspose" and attributes.get("group", 1) != 1:
        return None
    return weight


def _output_axis(node: NodeProto) -> int:
    """The axis of a layer's weight that numbers its output channels."""
    transposed = node.op_type == "Gemm" and not attributes_of(node).get("transB", 0)
    return 1 if node.op_type == "ConvTranspose" or transposed else 0


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """A vector in the shape that is broadcast along one axis."""
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _bias(work: _Graph, node: NodeProto, channels: int) -> np.ndarray | None:
    """The bias `[channels]` of a layer, float64, zeros without one; None for a bias of another shape."""
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(channels)
    bias = work.constant(node.input[2])
    if bias is None or bias.size not in (1, channels) or bias.shape[-1:] not in ((), (1,), (channels,)):
        return None
    return np.broadcast_to(bias.reshape(-1).astype(np.float64), channels)


def _set_bias(work: _Graph, node: NodeProto, bias: np.ndarray) -> None:
    """Give a layer a bias of its own."""
    name = node.input[2] if len(node.input) > 2 else ""
    if not name or len(work.readers.get(name, [])) > 1:
        name = work.free(f"{node.input[1]}_bias")
    work.set(name, bias)
    node.input[:] = [*node.input[:2], name]


# ---------------------------------------------------------------- rules


def _factor_or_term_after_layer(work: _Graph, node: NodeProto) -> bool:
    """A constant factor or term of each channel behind a layer moves into its weight and bias."""
    weight = _own_weight(work, node)
    after = work.only_reader(node.output[0]) if weight is not None else None
    found = _operands(work, after) if after is not None else None
    if weight is None or after is None or found is None or found[0] != node.output[0]:
        return False
    axis = _output_axis(node)
    channels = weight.shape[axis]
    values, bias = _per_channel(found[1], channels, weight.ndim), _bias(work, node, channels)
    if values is None or bias is None or not np.isfinite(values).all():
        return False
    if found[2]:
        work.set(node.input[1], weight * _along(values, axis, weight.ndim))
        bias = bias * values
    else:
        bias = bias + values
    if found[2] and not bias.any() and len(node.input) < 3:
        pass  # a layer without a bias stays one
    else:
        _set_bias(work, node, bias)
    result = after.output[0]
    after.Clear()
    node.output[0] = result
    return True


def _readers_that_are_convolutions(work: _Graph, value: str) -> list[NodeProto]:
    """The readers of a value if all are convolutions of the main graph with a weight of their own, else none."""
    readers = work.readers.get(value, [])
    fitting = value not in work.results and all(
        node.op_type == "Conv" and node.input[0] == value and node.output[0] in work.nodes and _own_weight(work, node) is not None
        for node in readers
    )
    return readers if fitting else []


def _input_channels(work: _Graph, node: NodeProto) -> int:
    """The number of a convolution's input channels."""
    weight = work.constant(node.input[1])
    assert weight is not None
    return weight.shape[1] * int(attributes_of(node).get("group", 1))


def _by_input_channel(node: NodeProto, weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values `[channels]` of a convolution's inputs in the shape that is broadcast with its weight."""
    groups = int(attributes_of(node).get("group", 1))
    by_row = np.repeat(values.reshape(groups, -1), weight.shape[0] // groups, axis=0)  # [out, in / groups]
    return by_row.reshape(*by_row.shape, *[1] * (weight.ndim - 2))


def _values_of_inputs(work: _Graph, constant: np.ndarray, readers: Iterable[NodeProto]) -> np.ndarray | None:
    """A constant beside the input of some convolutions as `[channels]`, None if it isn't one for each channel."""
    for node in readers:
        weight = work.constant(node.input[1])
        assert weight is not None
        values = _per_channel(constant, _input_channels(work, node), weight.ndim)
        if values is None or not np.isfinite(values).all():
            return None
        return values
    return None


def _term_before_layers(work: _Graph, node: NodeProto) -> bool:
    """A constant term of each channel in front of convolutions that pad nothing moves into their biases."""
    found = _operands(work, node)
    readers = _readers_that_are_convolutions(work, node.output[0]) if found is not None and not found[2] else []
    values = _values_of_inputs(work, found[1], readers) if found is not None else None
    if found is None or values is None or not all(_pads_nothing(reader) for reader in readers):
        return False
    biases = []
    for reader in readers:
        weight = work.constant(reader.input[1])
        assert weight is not None
        bias = _bias(work, reader, len(weight))
        if bias is None:
            return False
        moved = weight.astype(np.float64) * _by_input_channel(reader, weight, values)
        biases.append(bias + moved.reshape(len(weight), -1).sum(1))
    for reader, bias in zip(readers, biases, strict=True):
        _set_bias(work, reader, bias)
    work.remove(node, found[0])
    return True


def _pads_nothing(node: NodeProto) -> bool:
    attributes = attributes_of(node)
    return attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(attributes.get("pads", ()))


def _factor_before_layers(work: _Graph, node: NodeProto) -> bool:
    """A constant factor of each channel in front of convolutions moves into their weights, past a constant term."""
    found = _operands(work, node)
    if found is None or not found[2]:
        return False
    term = work.only_reader(node.output[0])
    between = _operands(work, term) if term is not None else None
    if term is None or between is None or between[2]:
        term = None
    readers = _readers_that_are_convolutions(work, node.output[0] if term is None else term.output[0])
    values = _values_of_inputs(work, found[1], readers)
    if values is None or not values.all():
        return False
    if term is not None:
        assert between is not None
        shift = _values_of_inputs(work, between[1], readers)
        if shift is None:
            return False
        weight = work.constant(readers[0].input[1])
        assert weight is not None
        name = work.free(f"{term.output[0]}_term")
        work.set(name, _along(shift / values, 1, weight.ndim))
        data = list(term.input).index(node.output[0])
        term.CopyFrom(helper.make_node("Add", [term.input[data], name], [term.output[0]], name=term.name))
    for reader in readers:
        weight = work.constant(reader.input[1])
        assert weight is not None
        work.set(reader.input[1], weight * _by_input_channel(reader, weight, values))
    work.remove(node, found[0])
    return True


def _hard_sigmoid(work: _Graph, node: NodeProto) -> bool:
    """Clip(x + c, 0, h) / h becomes HardSigmoid(x), also where the division comes after a product with another value."""
    top = _clip_from_zero(work, node)
    shift = work.nodes.get(node.input[0]) if top is not None else None
    found = _operands(work, shift) if shift is not None else None
    after = work.only_reader(node.output[0])
    if top is None or shift is None or found is None or found[2] or after is None or work.only_reader(node.input[0]) is None:
        return False
    offset = float(found[1].reshape(())) if found[1].size == 1 else None
    product = after if after.op_type == "Mul" and _operands(work, after) is None else None
    division = work.only_reader(product.output[0]) if product is not None else after
    factor = _operands(work, division) if division is not None else None
    if offset is None or division is None or factor is None or not factor[2] or factor[1].size != 1:
        return False
    if abs(float(factor[1].reshape(())) * top - 1) > EQUAL:
        return False
    result = division.output[0] if product is None else node.output[0]
    if product is not None:
        product_result = division.output[0]
        division.Clear()
        product.output[0] = product_result
    else:
        division.Clear()
    source = found[0]
    shift.Clear()
    node.CopyFrom(helper.make_node("HardSigmoid", [source], [result], name=node.name, alpha=1 / top, beta=offset / top))
    return True


def _clip_from_zero(work: _Graph, node: NodeProto) -> float | None:
    """The upper limit of a Clip whose lower limit is zero, else None."""
    if node.op_type != "Clip" or node.domain not in ("", "ai.onnx"):
        return None
    attributes = attributes_of(node)
    by_attributes = [attributes.get("min"), attributes.get("max")]
    limits = [work.number(name) for name in node.input[1:3]] if len(node.input) > 1 else by_attributes
    low, high = (*limits, None)[:2]
    return high if low == 0 and high is not None and high > 0 else None
