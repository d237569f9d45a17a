"""An exported graph without its parameters, from which the same network with other weights is written without another export.

An export takes seconds for any weights, and its result depends on them through initializers only. Where every initializer is
exactly one parameter, or its transpose, new values can replace it. Where this isn't certain, because the exporter merged equal
parameters or folded one into a constant, there is no skeleton, and the network is exported again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from dyncompress.coding.messages import GRAPH, INITIALIZER, RAW, field, parts
from dyncompress.models.torch.recurrent import RecurrentWeight
from dyncompress.types import Batch, Placement

Form = tuple[tuple[str, tuple[int, ...], str], ...]
Places = Mapping[str, tuple[Placement, ...]]
Order = str | tuple[int, ...]  # "": unchanged; "T": transposed; a tuple: blocks of rows in this order, behind a new axis


@dataclass(frozen=True)
class Skeleton:
    """An exported graph, and which parameter each initializer holds.

    Attributes:
        graph: the graph; initializers that hold parameters are empty.
        parameters: initializer -> (name of its parameter, order of the parameter's values in it).
        module: the module that was exported; it is never changed.
        form: names, shapes and dtypes of the inputs that it was exported with.
        places: layer -> places of its weight.
        notes: of the exporter.
    """

    graph: onnx.ModelProto
    parameters: Mapping[str, tuple[str, Order]]
    module: nn.Module
    form: Form
    places: Places
    notes: tuple[str, ...]

    def fill(self, module: nn.Module, form: Form) -> bytes | None:
        """The file of a module with the same structure.

        Args:
            module: of the same structure as the exported one.
            form: of the inputs to export with.

        Returns:
            the file's bytes; None where the inputs, a shape, or a tensor outside `parameters` differs.
        """
        new, old = _state(module), _state(self.module)
        names = {name for name, _ in self.parameters.values()}
        if form != self.form or new.keys() != old.keys():
            return None
        if any(new[name].shape != old[name].shape for name in names):
            return None
        if any(not torch.equal(new[name], old[name]) for name in new.keys() - names):
            return None
        data = {tensor: _bytes(_in_order(new[name], order)) for tensor, (name, order) in self.parameters.items()}
        return _with_data(self.graph, data)


def _with_data(graph: onnx.ModelProto, data: Mapping[str, memoryview]) -> bytes:
    """The file of a graph with the raw data of some initializers, which are copied once; protobuf's writer copies them thrice."""
    light = graph.SerializeToString()
    pieces: list[memoryview | bytes] = []
    for key, content, piece in parts(memoryview(light)):
        if key != GRAPH:
            pieces.append(piece)
            continue
        inner: list[memoryview | bytes] = []
        for kind, tensor, whole in parts(content):
            name = TensorProto.FromString(bytes(tensor)).name if kind == INITIALIZER else ""
            inner += field(kind, [tensor, *field(RAW, [data[name]])]) if name in data else [whole]
        pieces += field(key, inner)
    return b"".join(pieces)


def form_of(example: Batch) -> Form:
    """Names, shapes and dtypes of the inputs of a batch, sorted by name."""
    return tuple((name, tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in sorted(example.items()))


def skeleton(content: bytes, module: nn.Module, form: Form, places: Places, notes: tuple[str, ...]) -> Skeleton | None:
    """The skeleton of an exported file.

    Args:
        content: the file's bytes.
        module: the module that was exported.
        form: of the inputs.
        places: layer -> places of its weight.
        notes: of the exporter.

    Returns:
        the skeleton; None where it isn't certain which parameter an initializer holds.
    """
    graph = onnx.load_from_string(content)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    buffers = [buffer for _, buffer in module.named_buffers()]
    owners: dict[str, tuple[str, Order]] = {}
    gates = {part.parameter: part.gates or (0,) for part in module.modules() if isinstance(part, RecurrentWeight)}
    biases = {node.input[3] for node in graph.graph.node if node.op_type in ("LSTM", "GRU", "RNN") and len(node.input) > 3}
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or not tensor.HasField("raw_data") or tensor.name in biases:
            continue  # biases of recurrent layers join parameters that no edit changes, which `fill` verifies
        array = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        matches = _equals(tensor.name, array, parameters) or [
            (name, order) for name, order in gates.items() if _same(array, _in_order(parameters[name], order))
        ]
        if len(matches) == 1:
            owners[tensor.name] = matches[0]
        elif matches or (array.numel() > 1 and not any(_same(array, buffer) for buffer in buffers)):
            return None
    in_initializers = {name for name, _ in owners.values()}
    if any(_same(parameters[a], parameters[b]) for a in parameters.keys() - in_initializers for b in in_initializers):
        return None  # equal parameters were merged into one initializer
    for tensor in graph.graph.initializer:
        if tensor.name in owners:
            tensor.ClearField("raw_data")
    return Skeleton(graph, owners, module, form, places, notes)


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _in_order(value: Tensor, order: Order) -> Tensor:
    """A parameter's values in an initializer's order."""
    if order == "T":
        return value.T
    return value if isinstance(order, str) else torch.cat([value.chunk(len(order))[block] for block in order])[None]


def _equals(initializer: str, array: Tensor, parameters: Mapping[str, Tensor]) -> list[tuple[str, Order]]:
    """Parameters with exactly an initializer's values or their transpose; only the one of the same name if it is among them."""
    equal = [name for name, p in parameters.items() if _same(array, p)]
    if initializer in equal:
        return [(initializer, "")]
    if equal or array.ndim != 2:
        return [(name, "") for name in equal]
    return [(name, "T") for name, p in parameters.items() if p.ndim == 2 and _same(array, p.T)]


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether shape, dtype and values of two tensors are equal."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b.to(a.device))


def _bytes(value: Tensor) -> memoryview:
    """Little-endian float32, as ONNX stores it; the tensor's own memory where it is laid out like this."""
    array = value.detach().cpu().contiguous().numpy().astype(np.dtype("<f4"), copy=False)
    return array.reshape(-1).view(np.uint8).data
