"""A float graph without its parameters: the same network with other weights is written without exporting it again.

An exporter takes seconds, whatever the weights. What it writes depends on them through initializers alone, and where every
initializer is one parameter as it is (or its transpose), new values can take their place. Where that can't be told, because an
exporter merged equal parameters or folded one into a constant, there is no skeleton and the network is exported anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from dyncompress.models.torch.recurrent import RecurrentWeight
from dyncompress.types import Batch, Placement

Form = tuple[tuple[str, tuple[int, ...], str], ...]
Places = Mapping[str, tuple[Placement, ...]]
Order = str | tuple[int, ...]  # "": as it is; "T": transposed; else blocks of rows in this order, behind an axis of length 1


@dataclass(frozen=True)
class Skeleton:
    """The graph, and what goes where.

    Attributes:
        graph: its parameters' initializers are empty.
        held: initializer -> (parameter's name, its form there).
        module: that it was exported from; never changed by the door.
        form: of the inputs that it was exported with.
        places: layer -> where its weight lies.
        notes: the exporter's.
    """

    graph: onnx.ModelProto
    held: Mapping[str, tuple[str, Order]]
    module: nn.Module
    form: Form
    places: Places
    notes: tuple[str, ...]

    def fill(self, module: nn.Module, form: Form) -> bytes | None:
        """The file of a module with the same structure; None where something else than the held parameters differs."""
        new, old = _state(module), _state(self.module)
        held = {name for name, _ in self.held.values()}
        if form != self.form or new.keys() != old.keys():
            return None
        if any(new[name].shape != old[name].shape for name in held):
            return None
        if any(not torch.equal(new[name], old[name]) for name in new.keys() - held):
            return None
        graph = onnx.ModelProto()
        graph.CopyFrom(self.graph)
        for tensor in graph.graph.initializer:
            if tensor.name in self.held:
                name, order = self.held[tensor.name]
                tensor.raw_data = _bytes(_in_order(new[name], order))
        return graph.SerializeToString()


def form_of(example: Batch) -> Form:
    """Names, shapes and dtypes of inputs."""
    return tuple((name, tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in sorted(example.items()))


def skeleton(content: bytes, module: nn.Module, form: Form, places: Places, notes: tuple[str, ...]) -> Skeleton | None:
    """The skeleton of an exported file; None where an initializer can't be told to be exactly one parameter."""
    graph = onnx.load_from_string(content)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    buffers = [buffer for _, buffer in module.named_buffers()]
    held: dict[str, tuple[str, Order]] = {}
    gates = {part.parameter: part.gates or (0,) for part in module.modules() if isinstance(part, RecurrentWeight)}
    biases = {node.input[3] for node in graph.graph.node if node.op_type in ("LSTM", "GRU", "RNN") and len(node.input) > 3}
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or not tensor.HasField("raw_data") or tensor.name in biases:
            continue  # biases of recurrent layers are joined from parameters that nothing changes; `filled` makes sure of that
        array = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        found = _equals(tensor.name, array, parameters) or [
            (name, order) for name, order in gates.items() if _same(array, _in_order(parameters[name], order))
        ]
        if len(found) == 1:
            held[tensor.name] = found[0]
        elif found or (array.numel() > 1 and not any(_same(array, buffer) for buffer in buffers)):
            return None
    owned = {name for name, _ in held.values()}
    if any(_same(parameters[a], parameters[b]) for a in parameters.keys() - owned for b in owned):
        return None  # equal parameters were merged into one initializer
    for tensor in graph.graph.initializer:
        if tensor.name in held:
            tensor.ClearField("raw_data")
    return Skeleton(graph, held, module, form, places, notes)


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _in_order(value: Tensor, order: Order) -> Tensor:
    """A parameter as an initializer holds it: as it is, transposed, or its blocks of rows in another order behind a new axis."""
    if order == "T":
        return value.T
    return value if isinstance(order, str) else torch.cat([value.chunk(len(order))[block] for block in order])[None]


def _equals(initializer: str, array: Tensor, parameters: Mapping[str, Tensor]) -> list[tuple[str, Order]]:
    """Parameters with exactly these values, as they are or else transposed; the one of the same name alone, if it is there."""
    same = [name for name, p in parameters.items() if _same(array, p)]
    if initializer in same:
        return [(initializer, "")]
    if same or array.ndim != 2:
        return [(name, "") for name in same]
    return [(name, "T") for name, p in parameters.items() if p.ndim == 2 and _same(array, p.T)]


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether shape, dtype and values agree."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b.to(a.device))


def _bytes(value: Tensor) -> bytes:
    """Little-endian float32, as ONNX stores it."""
    return value.detach().cpu().contiguous().numpy().astype(np.dtype("<f4"), copy=False).tobytes()
