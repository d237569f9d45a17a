# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""The float32 ONNX file of a torch module without metadata, and the place of each layer's weight in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from dyncompress.models.torch.copying import deep_copy
from dyncompress.models.torch.exporting import ExportInputs, convert
from dyncompress.models.torch.layers import parameter_of, set_weight
from dyncompress.models.torch.recurrent import RecurrentWeight
from dyncompress.types import Layer, Placement


def export_onnx(
    module: nn.Module, layers: Sequence[Layer], users: Mapping[str, Sequence[str]], inputs: ExportInputs
) -> tuple[bytes, dict[str, tuple[Placement, ...]], tuple[str, ...]]:
    """Export a module to ONNX, strip the file, and locate the layers' weights in it.

    Args:
        module: in eval mode.
        layers: of the module.
        users: layer -> modules that share its weight.
        inputs: an example batch on any device, and which axes are free.

    Returns:
        the file's bytes; layer -> every place of its weight, where layers that can't be located are absent; notes on what the
        exporter couldn't do.

    Raises:
        Unsupported: no exporter takes the model, or the exported graph fixes a free axis.
    """
    inputs = inputs.for_export(module)
    model, notes = convert(module, inputs)
    strip(model)
    _split_directions(model.graph)
    places = _weight_places(model, module, layers, users)
    if _ambiguous(module, layers, places):
        model, places, notes = _with_stand_ins(module, layers, users, inputs)
    return model.SerializeToString(), places, notes


def _split_directions(graph: onnx.GraphProto) -> None:
    """Split the matrices of bidirectional recurrent operators into one initializer a direction, in place; Concat joins them."""
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    joined: dict[str, str] = {}
    joins: list[onnx.NodeProto] = []
    for node in graph.node:
        for index in (1, 2) if node.op_type in ("LSTM", "GRU", "RNN") else ():
            name = node.input[index]
            if name not in joined and (name not in arrays or arrays[name].dims[0] != 2):
                continue
            if name not in joined:
                halves = [f"{name}_{way}" for way in ("forward", "backward")]
                for half, value in zip(halves, numpy_helper.to_array(arrays[name]), strict=True):
                    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value[None]), half))
                joined[name] = f"{name}_both"
                joins.append(onnx.helper.make_node("Concat", halves, [joined[name]], axis=0))
            node.input[index] = joined[name]
    if joins:
        others = list(graph.node)
        del graph.node[:]
        graph.node.extend([*joins, *others])
        inputs = {name for node in graph.node for name in node.input}
        initializers = [tensor for tensor in graph.initializer if tensor.name in inputs or tensor.name not in joined]
        del graph.initializer[:]
        graph.initializer.extend(initializers)


def _weight_places(
    model: onnx.ModelProto, module: nn.Module, layers: Sequence[Layer], users: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Placement, ...]]:
    """Layer -> every place of its weight; layers that can't be located are absent."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {layer.name: places for layer in layers if (places := _placements(module, layer, users, arrays))}


def _ambiguous(module: nn.Module, layers: Sequence[Layer], places: Mapping[str, Sequence[Placement]]) -> bool:
    """Whether two layers claim one initializer, or a layer that wasn't located has a constant weight (all zeros, for example)."""
    initializers = [place.initializer for group in places.values() for place in group]
    absent = [layer for layer in layers if not layer.left_alone and layer.name not in places]
    constant = any(bool((w := parameter_of(module, layer)).eq(w.flatten()[0]).all()) for layer in absent)
    return len(set(initializers)) < len(initializers) or constant


def _with_stand_ins(
    module: nn.Module,
    layers: Sequence[Layer],
    users: Mapping[str, Sequence[str]],
    inputs: ExportInputs,
) -> tuple[onnx.ModelProto, dict[str, tuple[Placement, ...]], tuple[str, ...]]:
    """Export with distinct random weights, locate these, and write the real weights in their place.

    A constant that the exporter computed from a random weight would be wrong; the file's outputs are compared with torch's later.

    Returns:
        the graph, the places and the notes, as `export_onnx` returns them.
    """
    other, generator = deep_copy(module), torch.Generator().manual_seed(0)
    editable = [layer for layer in layers if not layer.left_alone]
    for layer in editable:
        weight = parameter_of(other, layer)
        set_weight(layer.name, other.get_submodule(layer.name), torch.randn(weight.shape, generator=generator) / 16)
    model, notes = convert(other, inputs)
    strip(model)
    _split_directions(model.graph)
    places = _weight_places(model, other, layers, users)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in editable:
        owner = module.get_submodule(layer.name)
        gates = owner.gates if isinstance(owner, RecurrentWeight) else ()
        forms = _forms(parameter_of(module, layer).detach().float().cpu().numpy(), layer, gates)
        for place in places.get(layer.name, ()):
            real = numpy_helper.from_array(np.ascontiguousarray(forms[place.layout]), place.initializer)
            tensors[place.initializer].CopyFrom(real)
    return model, places, notes


def strip(model: onnx.ModelProto) -> None:
    """Remove what a runtime doesn't read, in place: it takes up to 6 % of a small file, and it names local paths."""
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
    """Strip a node and the nodes of its subgraphs. Reading an absent subgraph would create it, so that it is checked first."""
    _clear(node, "doc_string", "metadata_props")
    for attribute in node.attribute:
        _clear(attribute, "doc_string")
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            _clear(graph, "doc_string", "value_info", "metadata_props")
            for inner in graph.node:
                _strip_node(inner)


def _clear(message: onnx.NodeProto | onnx.GraphProto, *names: str) -> None:
    """Clear these fields of a message."""
    for name in names:
        message.ClearField(name)


def _placements(
    module: nn.Module, layer: Layer, users: Mapping[str, Sequence[str]], arrays: Mapping[str, np.ndarray]
) -> tuple[Placement, ...]:
    """Every place of a layer's weight: an initializer with exactly its values, and not with the name of another parameter."""
    if layer.left_alone:
        return ()
    weight = parameter_of(module, layer).detach().float().cpu().numpy()
    owner = module.get_submodule(layer.name)
    forms = _forms(weight, layer, owner.gates if isinstance(owner, RecurrentWeight) else ())
    names = {f"{user}.weight" for user in users.get(layer.name, (layer.name,))}
    names |= {owner.parameter} if isinstance(owner, RecurrentWeight) else set()
    places = []
    for name, array in arrays.items():
        for layout, form in forms.items():
            if array.shape != form.shape or array.dtype != form.dtype:
                continue
            if np.array_equal(array, form) and (name in names or not _named_elsewhere(name, module)):
                places.append(Placement(name, layout))
                break
    return tuple(places)


def _named_elsewhere(initializer: str, module: nn.Module) -> bool:
    """Whether an initializer has the name of a parameter of the module."""
    return any(name == initializer for name, _ in module.named_parameters())


def _forms(weight: np.ndarray, layer: Layer, gates: Sequence[int] = ()) -> dict[str, np.ndarray]:
    """Name of a layout -> the weight in that layout, as an initializer may hold it.

    Args:
        weight: in canonical layout.
        layer: whose kind decides which layouts occur.
        gates: of a recurrent layer: the gates in ONNX's order, counted in torch's.
    """
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
