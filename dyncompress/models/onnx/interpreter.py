"""A graph of an ONNX file, interpreted node by node with torch functions."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto, helper
from torch import Tensor, nn

from dyncompress.models.onnx.node import Function, Node, Value
from dyncompress.models.onnx.operators import function_of
from dyncompress.models.onnx.values import to_value

Scope = MutableMapping[str, Value]
# Computes a node that holds a layer: (node, the layer's module, the inputs of the node) -> its output or outputs.
LayerCall = Callable[[Node, nn.Module, Sequence[Value]], Any]


@dataclass(frozen=True)
class Step:
    """One node with its place in the graph.

    Attributes:
        node: what the function of the operator gets.
        inputs: names of its inputs; empty for an absent one.
        function: computes it.
        subgraphs: attributes that are graphs.
        last: names that no later node of the same graph reads.
    """

    node: Node
    inputs: tuple[str, ...]
    function: Function
    subgraphs: Mapping[str, Interpreter]
    last: tuple[str, ...] = ()

    def run(self, scope: Scope, layers: Layers) -> None:
        """Compute the outputs from values in the scope, and put them there."""
        node = self.node
        if self.subgraphs:
            bodies = {name: graph.within(scope, layers) for name, graph in self.subgraphs.items()}
            node = replace(node, attributes={**node.attributes, **bodies})
        module = layers.module_of(node)
        read = scope.__getitem__ if module is None else scope.get  # a module holds its weights
        inputs = on_one_device([read(name) if name else None for name in self.inputs])
        outputs: Any = self.function(node, *inputs) if module is None else layers.call(node, module, inputs)
        for name, value in zip(node.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=False):
            if name:
                scope[name] = value
        for name in self.last:
            scope.pop(name, None)


@dataclass(frozen=True)
class Layers:
    """The modules that hold the weights of nodes.

    Attributes:
        modules: first output of a node -> its module.
        call: computes such a node.
    """

    modules: Mapping[str, nn.Module]
    call: LayerCall

    def module_of(self, node: Node) -> nn.Module | None:
        """The module of a node, or None."""
        return next((self.modules[name] for name in node.outputs if name in self.modules), None)


NO_LAYERS = Layers({}, lambda _node, _module, inputs: inputs[0])


class Interpreter:
    """Computes a graph's outputs.

    Args:
        graph: the graph; functions of the file are inlined before.
        versions: domain -> version of its operator set.
        folder: holds external data.
        fallback: the function of a node that has no torch function; None to raise.

    Raises:
        NoTorchFunctionError: an operator has no torch function, and there is no fallback.
    """

    def __init__(
        self,
        graph: GraphProto,
        versions: Mapping[str, int],
        folder: str = "",
        fallback: Callable[[NodeProto], Function | None] | None = None,
    ) -> None:
        self.inputs = tuple(value.name for value in graph.input)
        self.outputs = tuple(value.name for value in graph.output)
        self.constants: dict[str, Value] = {proto.name: to_value(proto, folder) for proto in graph.initializer}
        self.versions, self.folder, self.fallback = versions, folder, fallback
        last = last_reads(graph)
        self.steps = tuple(replace(self._step(proto), last=last[index]) for index, proto in enumerate(graph.node))

    def __deepcopy__(self, _memo: object) -> Interpreter:
        """Itself: it isn't changed once it is made."""
        return self

    def _step(self, proto: NodeProto) -> Step:
        subgraphs = {
            attribute.name: Interpreter(attribute.g, self.versions, self.folder, self.fallback)
            for attribute in proto.attribute
            if attribute.type == AttributeProto.GRAPH
        }
        node = node_of(proto, self.versions, self.folder)
        function = self.fallback(proto) if self.fallback is not None else None
        return Step(node, tuple(proto.input), function or function_of(node.domain, node.operator, node.version), subgraphs)

    def within(self, outer: Scope, layers: Layers) -> Function:
        """The graph as the body of a node: inputs -> outputs, reading names of the outer graph too."""
        return lambda inputs=(): self.run(inputs, outer, layers)

    def run(self, inputs: Sequence[Value], outer: Scope | None = None, layers: Layers = NO_LAYERS) -> tuple[Value, ...]:
        """The outputs, for inputs in the order of the graph."""
        own: Scope = dict(zip(self.inputs, inputs, strict=False))
        scope: Scope = ChainMap(own, self.constants, *([] if outer is None else [outer]))  # type: ignore[arg-type]
        for step in self.steps:
            step.run(scope, layers)
        return tuple(scope[name] for name in self.outputs)


def last_reads(graph: GraphProto) -> list[tuple[str, ...]]:
    """For each node, the names that no later node and no output of the graph reads; subgraphs read for their node."""
    needed = {value.name for value in graph.output}
    produced = {name for node in graph.node for name in node.output}
    last = []
    for node in reversed(graph.node):
        names = {name for name in (*reads_of(node), *node.output) if name in produced}
        last.append(tuple(sorted(names - needed)))
        needed |= names
    return last[::-1]


def reads_of(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, and all names in its subgraphs."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                yield from reads_of(inner)
            yield from (value.name for value in attribute.g.output)


def on_one_device(values: list[Value]) -> list[Value]:
    """The values with all tensors on the accelerator where one of them is: constants of shapes and indices lie on the CPU."""
    devices = {value.device for value in values if isinstance(value, Tensor)}
    if len(devices) < 2:
        return values
    device = next(device for device in devices if device.type != "cpu")
    return [value.to(device) if isinstance(value, Tensor) else value for value in values]


def node_of(proto: NodeProto, versions: Mapping[str, int], folder: str = "") -> Node:
    """A node of a graph, without its subgraphs.

    Args:
        proto: the node.
        versions: domain -> version of its operator set.
        folder: holds external data.
    """
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    return Node(proto.name, proto.op_type, domain, versions.get(domain, 1), attributes_of(proto, folder), tuple(proto.output))


def attributes_of(proto: NodeProto, folder: str = "") -> dict[str, Any]:
    """Name -> value of a node's attributes, without subgraphs; `folder` holds external data."""
    return {a.name: attribute_value(a, folder) for a in proto.attribute if a.type != AttributeProto.GRAPH}


def attribute_value(attribute: AttributeProto, folder: str = "") -> object:
    """An attribute's value: int, float, str, tensor, or a list of these."""
    if attribute.type == AttributeProto.TENSOR:
        return to_value(attribute.t, folder)
    if attribute.type == AttributeProto.TENSORS:
        return [to_value(proto, folder) for proto in attribute.tensors]
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [item.decode("utf-8", errors="replace") if isinstance(item, bytes) else item for item in value]
    return value
