"""The nodes whose weights can be compressed, as torch's own layers.

A Conv, ConvTranspose, Gemm, MatMul, Gather or BatchNormalization whose weight is an initializer becomes a module that holds it,
so that hooks, gradients, folding and channel groups see the layer that they know. What the module doesn't do, such as the padding
of one side, is done before it is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from onnx import GraphProto, NodeProto, TensorProto
from torch import Tensor, nn

from dyncompress.models.onnx.interpreter import attributes_of
from dyncompress.models.onnx.node import Node, Value
from dyncompress.models.onnx.operators.convolutions import explicit_pads
from dyncompress.models.onnx.reading import OnnxGraph
from dyncompress.models.onnx.recurrent_layers import call_recurrent, held_by, recurrent_module
from dyncompress.models.onnx.values import to_value

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@dataclass(frozen=True)
class OnnxLayer:
    """A node that is a module.

    Attributes:
        name: of the module, with dots between the names of its parents.
        output: first output of the node, by which the node is found.
        operator: of the node.
        weight: initializer of the weight.
        layout: of the weight in the file, see `types.Placement`.
        bias: initializer of the bias, empty without one.
        held: all initializers that the module holds.
    """

    name: str
    output: str
    operator: str
    weight: str
    layout: str = "as_is"
    bias: str = ""
    held: tuple[str, ...] = ()


def layers_of(graph: OnnxGraph, ranks: Mapping[str, int]) -> dict[str, tuple[OnnxLayer, nn.Module]]:
    """First output of a node -> its layer and a module that holds its weights, in the order of the graph.

    Args:
        graph: in one form.
        ranks: value -> number of its axes, from a run on an example; BatchNorm needs it.
    """
    constants, found, names = graph.initializers, {}, set()
    parameters: dict[tuple[str, bool], Any] = {}
    readers = weight_readers(graph.proto.graph)
    for node in all_nodes(graph.proto.graph):
        made = _made(node, constants, ranks)
        if made is None:
            continue
        module, weight, layout, bias = made
        name = _unique(_name(node, weight, len(readers[weight])), names)
        held = tuple(name for name in (weight, bias) if name)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            held = tuple(node.input[1:5])
        elif isinstance(module, nn.RNNBase):
            held = held_by(node)
        else:
            turned = layout == "transposed"
            key = (graph.transposes[weight], not turned) if weight in graph.transposes else (weight, turned)
            module.weight = parameters.setdefault(key, module.weight)  # nodes that share an initializer share the parameter
        output = next(name for name in node.output if name)
        if isinstance(module, nn.RNNBase):  # nodes of the same weights are one module, called twice
            same = next((other for other in found.values() if other[0].held == held and _alike(module, other[1])), None)
            if same is not None:
                names.remove(name)
                found[output] = (replace(same[0], output=output), same[1])
                continue
        found[output] = (OnnxLayer(name, output, node.op_type, weight, layout, bias, held), module.eval())
    return found


def _alike(one: nn.RNNBase, other: nn.Module) -> bool:
    """Whether two recurrent modules of the same weights compute the same."""
    return isinstance(other, type(one)) and one.bidirectional == other.bidirectional


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


def weight_readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Name -> the nodes that read it."""
    readers: dict[str, list[NodeProto]] = {}
    for node in all_nodes(graph):
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def results_of(graph: GraphProto) -> Iterator[str]:
    """Names of the outputs of a graph and of its subgraphs."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from results_of(attribute.g)


def _name(node: NodeProto, weight: str, readers: int) -> str:
    """The weight's name without its last part where it is this node's alone, else the node's name, else its output's."""
    owner, _, last = weight.rpartition(".")
    name = owner if owner and last == "weight" and readers == 1 else node.name or node.output[0]
    return ".".join(part or "_" for part in name.split("."))


def _unique(name: str, names: set[str]) -> str:
    """The name, with a number where it, or a parent or child of it, is taken; it enters `names`."""
    number, free = 0, name
    while free in names or _reserved(free.split(".")[0]) or any(other.startswith(f"{free}.") for other in names):
        number += 1
        free = f"{name}_{number}"
    names.add(free)
    return free


def _reserved(part: str) -> bool:
    """Whether a module has an attribute of this name already."""
    return (
        hasattr(nn.Module(), part)
        or part in ("graph", "places", "interpreter", "names", "plain", "axes")
        or part.startswith("constant_")
    )


def _made(
    node: NodeProto, constants: Mapping[str, TensorProto], ranks: Mapping[str, int]
) -> tuple[nn.Module, str, str, str] | None:
    """The module of a node, its weight's name and layout and its bias's name; None for a node that stays a function."""
    if node.domain not in ("", "ai.onnx"):
        return None
    make = _MAKERS.get(node.op_type)
    if make is None:
        return None
    attributes = attributes_of(node)
    arrays: dict[str, Tensor] = {}
    for name in node.input:
        if name in constants and constants[name].data_type == TensorProto.FLOAT:
            value = to_value(constants[name])
            assert isinstance(value, Tensor)
            arrays[name] = value
    with torch.random.fork_rng(devices=[]):
        return make(node, attributes, arrays, ranks)


def _conv(node: NodeProto, attributes: Mapping, arrays: Mapping[str, Tensor], _ranks: object) -> tuple | None:
    """A convolution; pads that torch's layer can't do are done before it."""
    weight, bias = arrays.get(node.input[1]), node.input[2] if len(node.input) > 2 else ""
    if weight is None or weight.ndim - 2 not in _CONV or (bias and bias not in arrays):
        return None
    spatial, groups = weight.ndim - 2, attributes.get("group", 1)
    pads = attributes.get("pads", [0] * 2 * spatial)
    symmetric = pads[:spatial] == pads[spatial:] and attributes.get("auto_pad", "NOTSET") == "NOTSET"
    settings = {
        "stride": tuple(attributes.get("strides", [1] * spatial)),
        "dilation": tuple(attributes.get("dilations", [1] * spatial)),
        "groups": groups,
        "bias": bool(bias),
        "padding": tuple(pads[:spatial]) if symmetric else 0,
    }
    module = _CONV[spatial](weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), **settings)
    return _filled(module, weight, arrays.get(bias)), node.input[1], "as_is", bias


def _conv_transpose(node: NodeProto, attributes: Mapping, arrays: Mapping[str, Tensor], _ranks: object) -> tuple | None:
    """A transposed convolution with symmetric pads."""
    weight, bias = arrays.get(node.input[1]), node.input[2] if len(node.input) > 2 else ""
    if weight is None or weight.ndim - 2 not in (1, 2) or (bias and bias not in arrays):
        return None
    spatial, groups = weight.ndim - 2, attributes.get("group", 1)
    pads = attributes.get("pads", [0] * 2 * spatial)
    if pads[:spatial] != pads[spatial:] or attributes.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attributes:
        return None
    settings = {
        "stride": tuple(attributes.get("strides", [1] * spatial)),
        "dilation": tuple(attributes.get("dilations", [1] * spatial)),
        "output_padding": tuple(attributes.get("output_padding", [0] * spatial)),
        "groups": groups,
        "bias": bool(bias),
        "padding": tuple(pads[:spatial]),
    }
    module = _TRANSPOSED[spatial](weight.shape[0], weight.shape[1] * groups, tuple(weight.shape[2:]), **settings)
    return _filled(module, weight, arrays.get(bias)), node.input[1], "conv_transpose", bias


def _gemm(node: NodeProto, attributes: Mapping, arrays: Mapping[str, Tensor], _ranks: object) -> tuple | None:
    """A linear layer whose weight and bias hold Gemm's factors, where it doesn't transpose its input."""
    weight, bias = arrays.get(node.input[1]), node.input[2] if len(node.input) > 2 else ""
    if weight is None or attributes.get("transA", 0):
        return None
    as_is = bool(attributes.get("transB", 0))
    weight = attributes.get("alpha", 1.0) * (weight if as_is else weight.T)
    shift = arrays.get(bias)
    if bias and (shift is None or shift.numel() not in (1, len(weight))):
        return None
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(bias))
    shift = None if shift is None else (attributes.get("beta", 1.0) * shift.reshape(-1)).expand(len(weight))
    return _filled(module, weight, shift), node.input[1], "as_is" if as_is else "transposed", bias


def _matmul(node: NodeProto, _attributes: Mapping, arrays: Mapping[str, Tensor], ranks: Mapping[str, int]) -> tuple | None:
    """A linear layer without a bias; its Add, if there is one, stays a node."""
    weight = arrays.get(node.input[1])
    if weight is None or weight.ndim != 2 or ranks.get(node.input[0], 2) < 2:
        return None
    module = nn.Linear(weight.shape[0], weight.shape[1], bias=False)
    return _filled(module, weight.T, None), node.input[1], "transposed", ""


def _gather(node: NodeProto, attributes: Mapping, arrays: Mapping[str, Tensor], _ranks: object) -> tuple | None:
    """An embedding: rows of a table."""
    table = arrays.get(node.input[0])
    if table is None or table.ndim != 2 or attributes.get("axis", 0) not in (0, -2):
        return None
    return _filled(nn.Embedding(table.shape[0], table.shape[1]), table, None), node.input[0], "as_is", ""


def _batch_norm(node: NodeProto, attributes: Mapping, arrays: Mapping[str, Tensor], ranks: Mapping[str, int]) -> tuple | None:
    """BatchNorm with its running statistics."""
    parts = [arrays.get(name) for name in node.input[1:5]]
    kind = _NORM.get(ranks.get(node.input[0], 0))
    trains = attributes.get("training_mode", 0) or len(node.output) > 1
    if kind is None or any(part is None for part in parts) or trains or attributes.get("epsilon", 1e-5) <= 0:
        return None
    gain, shift, mean, var = parts
    assert gain is not None and shift is not None and mean is not None and var is not None
    module = kind(len(gain), eps=attributes.get("epsilon", 1e-5))
    with torch.no_grad():
        for target, value in (
            (module.weight, gain),
            (module.bias, shift),
            (module.running_mean, mean),
            (module.running_var, var),
        ):
            assert target is not None
            target.copy_(value)
    return module, node.input[1], "as_is", node.input[2]


def _recurrent(node: NodeProto, attributes: Mapping, arrays: Mapping[str, Tensor], _ranks: object) -> tuple | None:
    """A recurrent module with all its matrices and biases."""
    module = recurrent_module(node, attributes, arrays)
    return None if module is None else (module, node.input[1], "as_is", "")


_MAKERS = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Gather": _gather,
    "BatchNormalization": _batch_norm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}


def _filled(module: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The module with these values."""
    module.weight = nn.Parameter(weight.clone())
    if bias is not None:
        module.bias = nn.Parameter(bias.reshape(-1).clone())
    return module


def call_layer(node: Node, module: nn.Module, inputs: Sequence[Value]) -> Tensor | tuple[Tensor, ...]:
    """The output of a node that is a module, or all outputs of a recurrent one.

    Args:
        node: the node.
        module: that holds its weights; Identity where a BatchNorm was folded into the layer before it.
        inputs: all inputs of the node.
    """
    if isinstance(module, nn.RNNBase):
        return call_recurrent(node, module, inputs)
    if node.operator == "Gather":
        indices = inputs[1]
        assert isinstance(indices, Tensor)
        rows: Any = module.num_embeddings
        return module(torch.where(indices < 0, indices + rows, indices))
    x = inputs[0]
    assert isinstance(x, Tensor)
    if node.operator == "Conv":
        x = _padded(node, x, module)
    return module(x)


def _padded(node: Node, x: Tensor, module: nn.Module) -> Tensor:
    """The input of a convolution with the pads that its module doesn't do."""
    spatial = x.ndim - 2
    pads = node.get("pads", [0] * 2 * spatial)
    automatic = node.get("auto_pad", "NOTSET") != "NOTSET"
    if not automatic and pads[:spatial] == pads[spatial:]:
        return x
    first = module[0] if isinstance(module, nn.Sequential) else module
    pads = explicit_pads(node, x.shape[2:], first.kernel_size)  # type: ignore[arg-type]
    if not any(pads):
        return x
    order = [pads[axis + side * spatial] for axis in range(spatial - 1, -1, -1) for side in (0, 1)]
    return nn.functional.pad(x, order)
