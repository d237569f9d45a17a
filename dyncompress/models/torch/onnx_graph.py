# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""The float32 ONNX file of a torch module, stripped, and where each layer's weight lies in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from dyncompress.models.torch.calling import copied, placed
from dyncompress.models.torch.exporting import Given, converted, two_examples
from dyncompress.models.torch.layers import parameter_of, set_weight
from dyncompress.models.torch.recurrent import RecurrentWeight
from dyncompress.types import Batch, Layer, Placement


def exported(
    module: nn.Module,
    layers: Sequence[Layer],
    users: Mapping[str, Sequence[str]],
    example: Batch,
    names: Sequence[str],
    free: Mapping[str, Sequence[int]] | None = None,
    size: int = 0,
) -> tuple[bytes, dict[str, tuple[Placement, ...]], tuple[str, ...]]:
    """Export, strip, and locate the weights.

    Args:
        module: in eval mode.
        layers: of the module.
        users: layer -> modules that share its weight.
        example: inputs to export with.
        names: of the inputs.
        free: input -> axes behind the batch axis that may have any length.
        size: the one batch size that the module runs on, which the example has; 0: any.

    Returns:
        the file's bytes; layer -> every place of its weight (layers that can't be found are absent); notes on fallbacks.

    Raises:
        Unsupported: no exporter takes the model, or the exported graph fixes a free axis.
    """
    given = Given(placed(example if size else two_examples(example), module, names), tuple(names), free or {}, size)
    model, notes = converted(module, given)
    strip(model)
    _split_directions(model.graph)
    places = _located(model, module, layers, users)
    if _ambiguous(module, layers, places):
        model, places, notes = _with_stand_ins(module, layers, users, given)
    return model.SerializeToString(), places, notes


def _split_directions(graph: onnx.GraphProto) -> None:
    """The matrices of both directions of a recurrent operator become initializers of their own, joined where they are read."""
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    split: dict[str, str] = {}
    joins: list[onnx.NodeProto] = []
    for node in graph.node:
        for index in (1, 2) if node.op_type in ("LSTM", "GRU", "RNN") else ():
            name = node.input[index]
            if name not in split and (name not in arrays or arrays[name].dims[0] != 2):
                continue
            if name not in split:
                halves = [f"{name}_{way}" for way in ("forward", "backward")]
                for half, value in zip(halves, numpy_helper.to_array(arrays[name]), strict=True):
                    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value[None]), half))
                split[name] = f"{name}_both"
                joins.append(onnx.helper.make_node("Concat", halves, [split[name]], axis=0))
            node.input[index] = split[name]
    if joins:
        others = list(graph.node)
        del graph.node[:]
        graph.node.extend([*joins, *others])
        read = {name for node in graph.node for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name not in split]
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _located(
    model: onnx.ModelProto, module: nn.Module, layers: Sequence[Layer], users: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Placement, ...]]:
    """Layer -> every place of its weight; layers that can't be found are absent."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {layer.name: found for layer in layers if (found := _placements(module, layer, users, arrays))}


def _ambiguous(module: nn.Module, layers: Sequence[Layer], places: Mapping[str, Sequence[Placement]]) -> bool:
    """Whether weights of equal values, zeros for one, don't tell which initializer is whose."""
    claimed = [place.initializer for found in places.values() for place in found]
    absent = [layer for layer in layers if not layer.left_alone and layer.name not in places]
    alike = any(bool((w := parameter_of(module, layer)).eq(w.flatten()[0]).all()) for layer in absent)
    return len(set(claimed)) < len(claimed) or alike


def _with_stand_ins(
    module: nn.Module,
    layers: Sequence[Layer],
    users: Mapping[str, Sequence[str]],
    given: Given,
) -> tuple[onnx.ModelProto, dict[str, tuple[Placement, ...]], tuple[str, ...]]:
    """The file exported with random weights, which no other is equal to, and filled with the real ones where these were found.

    What an exporter computed from a stand-in would be wrong; the file's outputs are compared with torch's afterwards.
    """
    other, generator = copied(module), torch.Generator().manual_seed(0)
    chosen = [layer for layer in layers if not layer.left_alone]
    for layer in chosen:
        weight = parameter_of(other, layer)
        set_weight(layer.name, other.get_submodule(layer.name), torch.randn(weight.shape, generator=generator) / 16)
    model, notes = converted(other, given)
    strip(model)
    _split_directions(model.graph)
    places = _located(model, other, layers, users)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in chosen:
        owner = module.get_submodule(layer.name)
        gates = owner.gates if isinstance(owner, RecurrentWeight) else ()
        forms = _forms(parameter_of(module, layer).detach().float().cpu().numpy(), layer, gates)
        for place in places.get(layer.name, ()):
            real = numpy_helper.from_array(np.ascontiguousarray(forms[place.layout]), place.initializer)
            tensors[place.initializer].CopyFrom(real)
    return model, places, notes


def strip(model: onnx.ModelProto) -> None:
    """Drop what a runtime doesn't read, in place: it is up to 6 % of a small file and names local paths."""
    model.producer_name = "dyncompress"
    for name in ("doc_string", "producer_version", "metadata_props"):
        model.ClearField(name)
    _clear(model.graph, "doc_string", "value_info", "metadata_props")
    for function in model.functions:
        _clear(function, "doc_string", "value_info", "metadata_props")
    for entry in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        _clear(entry, "doc_string", "metadata_props")
    for node in (*model.graph.node, *(n for f in model.functions for n in f.node)):
        _strip_node(node)


def _strip_node(node: onnx.NodeProto) -> None:
    """A node and the nodes of its sub-graphs. An absent sub-graph must not be touched: reading it would create it."""
    _clear(node, "doc_string", "metadata_props")
    for attribute in node.attribute:
        _clear(attribute, "doc_string")
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            _clear(graph, "doc_string", "value_info", "metadata_props")
            for inner in graph.node:
                _strip_node(inner)


def _clear(message: onnx.NodeProto | onnx.GraphProto, *names: str) -> None:
    """Make these fields absent."""
    for name in names:
        message.ClearField(name)


def _placements(
    module: nn.Module, layer: Layer, users: Mapping[str, Sequence[str]], arrays: Mapping[str, np.ndarray]
) -> tuple[Placement, ...]:
    """Where a layer's weight lies: by the initializer's name, else by its exact values."""
    if layer.left_alone:
        return ()
    weight = parameter_of(module, layer).detach().float().cpu().numpy()
    owner = module.get_submodule(layer.name)
    forms = _forms(weight, layer, owner.gates if isinstance(owner, RecurrentWeight) else ())
    named = {f"{user}.weight" for user in users.get(layer.name, (layer.name,))}
    named |= {owner.parameter} if isinstance(owner, RecurrentWeight) else set()
    found = []
    for name, array in arrays.items():
        for layout, form in forms.items():
            if array.shape != form.shape or array.dtype != form.dtype:
                continue
            if np.array_equal(array, form) and (name in named or not _named_elsewhere(name, module)):
                found.append(Placement(name, layout))
                break
    return tuple(found)


def _named_elsewhere(initializer: str, module: nn.Module) -> bool:
    """Whether the initializer carries the name of a parameter: equal values may be another layer's."""
    return any(name == initializer for name, _ in module.named_parameters())


def _forms(weight: np.ndarray, layer: Layer, gates: Sequence[int] = ()) -> dict[str, np.ndarray]:
    """Layout -> the weight in it."""
    if layer.kind.startswith("conv_transpose"):
        groups = layer.groups
        parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).swapaxes(1, 2)
        return {"conv_transpose": parts.reshape(-1, *parts.shape[2:])}
    forms = {"as_is": weight}
    if weight.ndim == 2:
        forms["transposed"] = weight.T
    if layer.kind == "recurrent":
        order = gates or (0,)
        forms["gates:" + ",".join(map(str, order))] = np.stack(np.split(weight, len(order)))[list(order)].reshape(
            1, *weight.shape
        )
    return forms
