# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""The removal of a group's channels in place, and the check that it equals zeroing the columns that read them.

Two channels are removed on a copy, and what the group's readers and the whole network return must equal what they return with
the readers' columns of these channels set to zero. A refit of the readers assumes exactly this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.models.torch.calling import CALL_ERRORS, outputs, temporary_hooks, tensors_of
from dyncompress.models.torch.layers import canonical, is_conv1d_of_transformers, native_layout
from dyncompress.types import Batch, ChannelGroup

# Removing a channel and zeroing its consumers' columns agree up to float32 rounding; a wrong group differs by far more.
_TOLERANCE = 1e-4
TRACE_ERRORS = (*CALL_ERRORS, ZeroDivisionError, StopIteration)

Counts = Sequence[tuple[str, str]]  # parts of a module and their attributes: numbers in proportion to the number of channels


@dataclass(frozen=True)
class Channels:
    """The channel groups of a network, and why other layers have none.

    Attributes:
        groups: in forward order.
        reasons: layer -> why its output channels can't be removed, for the layers that no group names as a producer.
        counts: group's name -> attributes that shrink with its channels, for the groups that are removed without the graph.
    """

    groups: tuple[ChannelGroup, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, Counts] = field(default_factory=dict)


def removal_is_exact(
    module: nn.Module, group: ChannelGroup, remove: Callable[[list[int]], None], example: Batch, names: Sequence[str]
) -> bool:
    """Whether removing channels equals zeroing their consumers' columns.

    Args:
        module: a private copy; it is restored.
        group: the group to try.
        remove: removes channels of the group from the module, in place.
        example: one batch by input name.
        names: input names, in order.
    """
    indices = sorted({0, group.size // 2}) if group.size > 2 else [0]
    with _restoring(module):
        _zero_columns(module, group, indices)
        expected = _watched_outputs(module, group, example, names)
    left = {name: len(canonical(module.get_submodule(name))) - len(group.rows_of(name, indices)) for name in group.producers}
    try:
        with _restoring(module):
            remove(indices)
            sizes = {name: len(canonical(module.get_submodule(name))) for name in group.producers}
            actual = _watched_outputs(module, group, example, names)
    except TRACE_ERRORS:
        return False
    return sizes == left and len(actual) == len(expected) and all(map(_same, actual, expected))


def _same(actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors agree up to rounding, and are finite."""
    if actual.shape != expected.shape or not bool(torch.isfinite(actual).all()):
        return False
    if not actual.numel():
        return True
    difference = (actual.double() - expected.double()).abs().max()
    return bool(difference <= _TOLERANCE * expected.double().abs().max() + 1e-12)


def _watched_outputs(module: nn.Module, group: ChannelGroup, example: Batch, names: Sequence[str]) -> list[Tensor]:
    """The outputs of the network, and those of the group's consumers that don't lose rows themselves."""
    found: list[Tensor] = []

    def note(_layer: nn.Module, _args: tuple, output: Any) -> None:
        found.extend(t.clone() for t in tensors_of(output))  # a later layer may work in place

    whole = [name for name in group.consumers if name not in group.producers]
    handles = [module.get_submodule(name).register_forward_hook(note) for name in whole]
    with temporary_hooks(handles):
        return [*outputs(module, example, names), *found]


@torch.no_grad()
def cut(module: nn.Module, group: ChannelGroup, kept: Sequence[int], counts: Counts) -> None:
    """Remove all but some channels from linear layers, in place.

    Args:
        module: a private copy.
        group: its producers and consumers are linear layers.
        kept: the channels that stay.
        counts: numbers that shrink in proportion.
    """
    for name in group.producers:
        layer, rows = module.get_submodule(name), list(group.rows_of(name, kept))
        bias = getattr(layer, "bias", None)
        if bias is not None:
            layer.bias = nn.Parameter(bias[rows].clone(), requires_grad=bias.requires_grad)
        _set_matrix(layer, canonical(layer)[rows])
    for name, n in group.consumers.items():
        layer = module.get_submodule(name)
        _set_matrix(layer, canonical(layer)[:, [c * n + i for c in kept for i in range(n)]])
    for name, attribute in counts:
        part = module.get_submodule(name)
        setattr(part, attribute, getattr(part, attribute) * len(kept) // group.size)


def _set_matrix(layer: nn.Module, weight: Tensor) -> None:
    """Give a linear layer a weight of another shape `(out, in)`."""
    names = ("nf", "nx") if is_conv1d_of_transformers(layer) else ("out_features", "in_features")
    for name, size in zip(names, weight.shape, strict=True):
        setattr(layer, name, int(size))
    grad = layer.weight.requires_grad
    layer.weight = nn.Parameter(native_layout(layer, weight).clone(memory_format=torch.contiguous_format), requires_grad=grad)


@contextlib.contextmanager
def _restoring(module: nn.Module) -> Iterator[None]:
    """Restore all attributes, parameters and buffers after this block, but not values that were written in place."""
    before = [(part, dict(part.__dict__), dict(part._parameters), dict(part._buffers)) for part in module.modules()]
    try:
        yield
    finally:
        for part, attributes, parameters, buffers in before:
            part.__dict__.clear()
            part.__dict__.update(attributes)
            part._parameters.clear()
            part._parameters.update(parameters)
            part._buffers.clear()
            part._buffers.update(buffers)


@torch.no_grad()
def _zero_columns(module: nn.Module, group: ChannelGroup, indices: Sequence[int]) -> None:
    """Give every consumer a new weight, in which the columns of these channels are zero."""
    for name, columns in group.consumers.items():
        layer = module.get_submodule(name)
        weight = canonical(layer).clone()
        inputs = columns // weight[0, 0].numel()
        for channel in indices:
            weight[:, channel * inputs : (channel + 1) * inputs] = 0
        layer.weight = nn.Parameter(native_layout(layer, weight).contiguous(), requires_grad=False)
