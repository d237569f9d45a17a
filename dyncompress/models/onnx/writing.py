"""Write the graph of a file again, with the weights, channels and ranks that its module has now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, version_converter
from torch import Tensor, nn

from dyncompress.errors import Unsupported
from dyncompress.models.onnx.layers import OnnxLayer, results_of, weight_readers
from dyncompress.models.onnx.recurrent_layers import recurrent_nodes
from dyncompress.models.onnx.values import to_proto
from dyncompress.types import Placement
from dyncompress.types.model import INNER, OUTER

OLDEST_OPSET, NEW_OPSET = 18, 20

if TYPE_CHECKING:
    from dyncompress.models.onnx.graph_module import GraphModule


def written(module: GraphModule) -> tuple[ModelProto, dict[str, tuple[Placement, ...]]]:
    """The module's graph with its weights of now.

    A node whose module became an Identity is removed; one whose module became two thin layers is written as two nodes.

    Returns:
        the model, and layer -> the places of its weight.
    """
    model = ModelProto()
    model.CopyFrom(module.graph.proto)
    places: dict[str, list[Placement]] = {}
    _Writer(module, model.graph, places).graph(model.graph)
    _remove_unused(model.graph)
    return in_known_opset(model), _of_shared(module, places)


def in_known_opset(model: ModelProto) -> ModelProto:
    """The model in an operator set that the writer of integer files knows; the same object where it is in one.

    Raises:
        Unsupported: an operator can't be converted.
    """
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or versions[0] >= OLDEST_OPSET:
        return model
    try:
        model = version_converter.convert_version(model, NEW_OPSET)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unsupported(
            f"the graph has opset {versions[0]} and can't be converted to {NEW_OPSET} ({reason}); export the model again with "
            f"opset_version={NEW_OPSET}."
        ) from error
    del model.graph.value_info[:]
    return model


def _of_shared(module: GraphModule, places: Mapping[str, Sequence[Placement]]) -> dict[str, tuple[Placement, ...]]:
    """Layer -> the places of its weight, those of the layers that share its parameter included."""
    parameters = {name: id(module.get_submodule(name).weight) for name in places}
    return {
        name: tuple(dict.fromkeys(place for other in places if parameters[other] == parameters[name] for place in places[other]))
        for name in places
    }


class _Writer:
    """Rewrites the nodes of a graph that are modules."""

    def __init__(self, module: GraphModule, main: GraphProto, places: dict[str, list[Placement]]) -> None:
        self.module, self.main, self.places = module, main, places
        self.read_elsewhere = self._read_elsewhere()
        self.tensors = {proto.name: proto for proto in main.initializer}
        self.written: dict[str, Tensor] = {}
        self.same: dict[str, str] = {}  # output of a removed node -> the value that it equals

    def _read_elsewhere(self) -> set[str]:
        """Names that the graph returns, or that a node reads which isn't a module that holds them: these keep their values."""
        held = {output: set(layer.held) for output, layer in self.module.places.items()}
        names = set(results_of(self.main))
        for name, nodes in weight_readers(self.main).items():
            if any(all(name not in held.get(output, ()) for output in node.output) for node in nodes):
                names.add(name)
        return names

    def graph(self, graph: GraphProto) -> None:
        """Rewrite the nodes of a graph and of its subgraphs, in place."""
        nodes: list[NodeProto] = []
        outputs = {value.name for value in graph.output}
        for node in graph.node:
            node.input[:] = [self.same.get(name, name) for name in node.input]
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self.graph(attribute.g)
            layer = next((self.module.places[name] for name in node.output if name in self.module.places), None)
            if (
                layer is not None
                and isinstance(self.module.get_submodule(layer.name), nn.Identity)
                and node.output[0] not in outputs
            ):
                self.same[node.output[0]] = node.input[0]
                continue
            nodes += [node] if layer is None else self.nodes(node, layer)
        kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)

    def nodes(self, node: NodeProto, layer: OnnxLayer) -> list[NodeProto]:
        """The nodes that compute what the layer's module computes."""
        part = self.module.get_submodule(layer.name)
        if isinstance(part, nn.Identity):
            return [helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name)]
        if isinstance(part, nn.RNNBase):
            nodes, places = recurrent_nodes(node, layer.name, part, self.stored)
            for name, place in places.items():
                self.places.setdefault(name, []).append(place)
            return nodes
        if isinstance(part, nn.Sequential):
            return self.two_layers(node, layer, part)
        return self.one_layer(node, layer, part, layer.name)

    def two_layers(self, node: NodeProto, layer: OnnxLayer, parts: nn.Sequential) -> list[NodeProto]:
        """Two nodes: the inner layer as the node was, and the outer one, whose kernel has size 1."""
        between = f"{node.output[0]}{INNER}"
        inner, outer = NodeProto(), NodeProto()
        inner.CopyFrom(node)
        outer.CopyFrom(node)
        inner.name, outer.name = f"{node.name}{INNER}", f"{node.name}{OUTER}"
        inner.output[0], outer.input[0] = between, between
        inner.input[1], outer.input[1] = f"{layer.weight}{INNER}", f"{layer.weight}{OUTER}"
        del inner.input[2:]
        kept = [a for a in outer.attribute if a.name in ("transB",)]
        kept = [AttributeProto.FromString(a.SerializeToString()) for a in kept]
        del outer.attribute[:]
        outer.attribute.extend(kept)
        return [
            *self.one_layer(inner, layer, parts[0], f"{layer.name}{INNER}"),
            *self.one_layer(outer, layer, parts[1], f"{layer.name}{OUTER}"),
        ]

    def one_layer(self, node: NodeProto, layer: OnnxLayer, part: nn.Module, name: str) -> list[NodeProto]:
        """The node with the module's tensors, and an Add for the bias where its operator takes none."""
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for index, value in enumerate((part.weight, part.bias, part.running_mean, part.running_var), 1):
                assert value is not None
                node.input[index] = self.stored(node.input[index], value)
            return [node]
        index = 0 if node.op_type == "Gather" else 1
        weight, bias = part.weight, getattr(part, "bias", None)
        assert isinstance(weight, Tensor)
        node.input[index] = self.stored(node.input[index], weight.T if layer.layout == "transposed" else weight)
        self.places.setdefault(name, []).append(Placement(node.input[index], layer.layout))
        self._attributes(node, part)
        if not isinstance(bias, Tensor):
            return [node]
        if node.op_type == "MatMul":
            result = node.output[0]
            node.output[0] = f"{result}_product"
            return [node, helper.make_node("Add", [node.output[0], self.stored(f"{result}_bias", bias)], [result])]
        existing = node.input[2] if len(node.input) > 2 else ""
        del node.input[2:]
        node.input.append(self.stored(existing or f"{node.output[0]}_bias", bias))
        return [node]

    def _attributes(self, node: NodeProto, part: nn.Module) -> None:
        """Give a convolution the number of groups and the kernel that its module has; a module holds the factors of Gemm."""
        held = ("group", "kernel_shape", "alpha", "beta")
        others = [AttributeProto.FromString(a.SerializeToString()) for a in node.attribute if a.name not in held]
        del node.attribute[:]
        node.attribute.extend(others)
        if node.op_type not in ("Conv", "ConvTranspose"):
            return
        node.attribute.append(helper.make_attribute("kernel_shape", list(part.kernel_size)))  # type: ignore[arg-type]
        if part.groups != 1:
            node.attribute.append(helper.make_attribute("group", int(part.groups)))  # type: ignore[arg-type]

    def stored(self, name: str, value: Tensor) -> str:
        """The name of an initializer with this value: the old name unless another node has stored something else under it."""
        value = value.detach()
        name = f"{name}_of_layer" if name in self.read_elsewhere else name
        before = self.written.get(name)
        number = 1
        wanted = name
        while before is not None and not (before.shape == value.shape and torch.equal(before, value)):
            number += 1
            wanted = f"{name}_{number}"
            before = self.written.get(wanted)
        if before is None:
            self.written[wanted] = value
            proto = to_proto(value, wanted)
            if wanted in self.tensors:
                self.tensors[wanted].CopyFrom(proto)
            else:
                self.tensors[wanted] = self.main.initializer.add()
                self.tensors[wanted].CopyFrom(proto)
        return wanted


def _remove_unused(graph: GraphProto) -> None:
    """Remove initializers that nothing reads, in place."""
    read = {*weight_readers(graph), *results_of(graph)}
    used = [proto for proto in graph.initializer if proto.name in read]
    if len(used) < len(graph.initializer):
        copies = [type(proto).FromString(proto.SerializeToString()) for proto in used]
        del graph.initializer[:]
        graph.initializer.extend(copies)
