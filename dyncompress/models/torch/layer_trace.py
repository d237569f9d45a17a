# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""The layers of a torch module as one forward pass calls them: order, multiply-accumulates, and why a layer is left alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.models.torch.calling import outputs, temporary_hooks, tensors_of
from dyncompress.models.torch.layers import (
    canonical,
    channel_axis,
    compressible_modules,
    groups_of,
    has_inputs,
    has_own_forward,
    kind_of,
    overrides,
    torch_class,
)
from dyncompress.types import Batch, Layer


@dataclass
class Trace:
    """The layers of a module and how one forward pass calls them.

    Attributes:
        layers: all layers in the order of their first call; layers that are never called come last.
        modules: layer name -> name of the module that owns its weight, for layers that can be compressed.
        calls: layer name -> number of calls in a forward pass.
        users: layer name -> names of the modules that share its weight, the layer included.
        largest: numbers in the largest output of a layer, for one example.
        activations: numbers in the outputs of all layers together, for one example.
    """

    layers: list[Layer] = field(default_factory=list)
    modules: dict[str, str] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    users: dict[str, tuple[str, ...]] = field(default_factory=dict)
    largest: int = 1
    activations: int = 1


@dataclass(frozen=True)
class SelectedLayers:
    """Some layers of a network, to be observed together.

    Attributes:
        module: the network, in eval mode.
        input_names: names of its inputs, in order.
        modules: layer -> the part of the network that holds its weight.
    """

    module: nn.Module
    input_names: tuple[str, ...]
    modules: Mapping[str, nn.Module]


def used_once(module: nn.Module, trace: Trace, name: str) -> bool:
    """Whether a forward pass uses a layer's weight exactly once, on inputs that can be observed: one call, no sharing."""
    if name not in trace.modules or trace.calls.get(name, 0) != 1 or len(trace.users[name]) > 1:
        return False
    return has_inputs(module.get_submodule(trace.modules[name]))


@dataclass
class _CallRecord:
    """What the hooks of `trace_layers` write down, by layer name.

    Attributes:
        order: position of the layer's first call.
        calls: number of calls.
        macs: multiply-accumulates of one example, over all calls; for a module that isn't a layer, positions of its input.
        sizes: numbers in each output, for one example.
        opaque: layers whose output isn't the product of their input and their weight.
    """

    order: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    macs: dict[str, float] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=lambda: [1])
    opaque: set[str] = field(default_factory=set)

    def add(self, name: str, macs: float, size: int) -> None:
        """Count one call, with its multiply-accumulates and the size of its output, both of one example."""
        self.order.setdefault(name, len(self.order))
        self.calls[name] = self.calls.get(name, 0) + 1
        self.macs[name] = self.macs.get(name, 0.0) + macs
        self.sizes.append(size)

    def position(self, name: str) -> int:
        """Position of a layer's first call, or of its owner's where the layer is a bare parameter; never called: the end."""
        owner = name if name in self.order else name.rpartition(".")[0]
        return self.order.get(owner, len(self.order))


def trace_layers(module: nn.Module, example: Batch, names: Sequence[str]) -> Trace:
    """Run one forward pass with hooks and list the layers that it calls.

    Args:
        module: the network, in eval mode.
        example: one batch, `[n, ...]` by input name.
        names: input names, in order.
    """
    candidates = compressible_modules(module)
    n = len(example[names[0]])
    record = _CallRecord()

    def record_layer(name: str, layer: nn.Module, args: tuple, output: Any) -> None:
        tensor = tensors_of(output)[0]
        if not _multiplies_its_input(layer, args, output):
            record.opaque.add(name)
        record.add(name, _positions(layer, args, tensor) * layer.weight.numel() / n, -(-tensor.numel() // n))

    handles = [m.register_forward_hook(lambda m, a, o, name=name: record_layer(name, m, a, o)) for name, m in candidates.items()]
    for name, part in module.named_modules():
        if name not in candidates and isinstance(part, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention):
            handles.append(part.register_forward_hook(lambda _m, a, _o, name=name: record.add(name, _steps(a) / n, 1)))
    with temporary_hooks(handles):
        outputs(module, example, names)
    trace = Trace(calls=record.calls, largest=max(record.sizes), activations=sum(record.sizes))
    in_branches = bool(getattr(module, "layers_in_branches", False))
    layers = [*_weight_layers(candidates, record, trace, in_branches), *_bare_parameter_layers(module, candidates, record.macs)]
    trace.layers = sorted(layers, key=lambda layer: record.position(layer.name))
    return trace


def _positions(layer: nn.Module, args: tuple, output: Tensor) -> float:
    """Number of positions, over the batch, at which the whole weight is multiplied."""
    kind = kind_of(layer)
    if kind == "embedding":
        return 0
    if kind.startswith("conv_transpose") and args:
        return args[0].numel() / args[0].shape[1]
    return output.numel() / output.shape[channel_axis(layer, output)]


def _multiplies_its_input(layer: nn.Module, args: tuple, output: Any) -> bool:
    """Whether a layer that was called with one tensor returned what torch's layer of its kind returns for it."""
    if kind_of(layer) == "embedding" or not has_own_forward(layer):
        return True
    cls = torch_class(layer)
    regular = "weight" in {**layer._parameters, **layer._buffers} and not overrides(layer, cls, "_conv_forward")
    if not regular or len(args) != 1 or not isinstance(output, Tensor):
        return False
    plain = cls.forward(layer, args[0])
    return plain.shape == output.shape and torch.allclose(plain, output, rtol=1e-4, atol=1e-6 * float(plain.abs().max()))


def _steps(args: tuple) -> float:
    """Number of positions, over the batch, in the input of a recurrent or attention module."""
    inputs = tensors_of(args)
    return inputs[0].numel() / inputs[0].shape[-1] if inputs else 0


def _users_by_weight(candidates: Mapping[str, nn.Module]) -> list[list[str]]:
    """For every distinct weight, the modules that use it. Embeddings come last: they only look the weight up."""
    users: dict[int, list[str]] = {}
    for name, layer in candidates.items():
        users.setdefault(id(layer.weight), []).append(name)
    for names in users.values():
        names.sort(key=lambda name: kind_of(candidates[name]) == "embedding")
    return list(users.values())


def _weight_layers(candidates: Mapping[str, nn.Module], record: _CallRecord, trace: Trace, in_branches: bool) -> Iterator[Layer]:
    """One layer for each distinct weight of the compressible modules; fills `trace.users` and `trace.modules`.

    Args:
        candidates: the compressible modules by name.
        record: of one forward pass.
        trace: to be filled.
        in_branches: whether layers that weren't called are in branches that other examples take.
    """
    for users in _users_by_weight(candidates):
        users = sorted(users, key=lambda name: name not in record.calls)
        name, layer = users[0], candidates[users[0]]
        owner = name.rpartition(".")[0] if kind_of(layer) == "recurrent" else name
        trace.users[name] = tuple(users)
        layouts = {tuple(canonical(candidates[user]).shape) for user in users}
        reason = ""
        called = owner in record.calls
        if not called and not in_branches:
            reason = "never called in the forward pass (unused, or its weight is read by another module)"
        if len(layouts) > 1:
            reason = f"its weight is shared by {' and '.join(users)} in different layouts"
        if not reason and record.opaque.intersection(users):
            reason = "its forward method isn't torch's, and what its weight multiplies there is unknown"
        if not reason:
            trace.modules[name] = name
        shape = tuple(int(s) for s in canonical(layer).shape)
        if owner == name:
            macs = sum(record.macs.get(user, 0.0) for user in users)
        else:
            macs = record.macs.get(owner, 0.0) * layer.weight.numel()
        yield Layer(name, kind_of(layer), shape, round(macs), groups_of(layer), reason, called)


def _bare_parameter_layers(
    module: nn.Module, candidates: Mapping[str, nn.Module], positions: Mapping[str, float]
) -> Iterator[Layer]:
    """Parameters outside compressible modules with two or more axes longer than 1: counted, but left alone."""
    seen = {id(p) for layer in candidates.values() for p in layer.parameters(recurse=False)}
    for owner_name, owner in module.named_modules():
        if owner_name in candidates:
            continue
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in seen or sum(size > 1 for size in parameter.shape) < 2:
                continue
            seen.add(id(parameter))
            kind = type(owner).__name__
            reason = (
                getattr(owner, "why_left_alone", "")
                or f"a parameter of {kind}, which isn't a convolution, linear or embedding layer"
            )
            full = f"{owner_name}.{name}" if owner_name else name
            macs = round(positions.get(owner_name, 0.0) * parameter.numel())
            yield Layer(full, kind, tuple(parameter.shape), macs, left_alone=reason)
