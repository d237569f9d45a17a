# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Sets of output channels that can be removed together, from torch-pruning's dependency graph, each tried on a copy.

A graph traced from gradients can be wrong about reshapes, paddings and concatenations. Therefore every group is checked: two
channels are removed on a copy, and its outputs must equal those of the whole network with the consumers' columns of these
channels set to zero. A refit of the consumers assumes exactly this.

This is the only file that imports torch_pruning, and none of that package's names leave it.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import CALL_ERRORS, call, device_inputs, outputs, tensors_of
from dyncompress.models.torch.copying import deep_copy
from dyncompress.models.torch.layer_trace import Trace
from dyncompress.models.torch.layers import canonical, groups_of, is_conv1d_of_transformers, kind_of, native_layout
from dyncompress.types import Batch, ChannelGroup, Keep, Layer

# Removing a channel and zeroing its consumers' columns agree up to float32 rounding; a wrong group differs by far more.
_TOLERANCE = 1e-4
# Largest number of steps along the graph from one layer. The residual stream of a 56-layer ResNet takes 118; with rotary
# embeddings the steps never end.
_MOST_DEPENDENCIES = 2_000
_TRACE_ERRORS = (*CALL_ERRORS, ZeroDivisionError, StopIteration)

_AT_OUTPUT = "its output channels are the model's outputs, or no layer reads them"
_STREAM = "its channels are a residual stream: layers that read it also add to it"
_TIED = "its channels can't be removed alone: a reshape, padding, concatenation or normalisation ties them to others"


@dataclass(frozen=True)
class Channels:
    """The channel groups of a network, and why other layers have none.

    Attributes:
        groups: in forward order.
        reasons: layer -> why its output channels can't be removed, for the layers that no group names as a producer.
    """

    groups: tuple[ChannelGroup, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Step:
    """One effect of removing a channel: rows (or columns) `idxs` of a module's weight are removed."""

    module: nn.Module
    rows: bool
    idxs: list[int]


def channels_of(module: nn.Module, trace: Trace, example: Batch, names: Sequence[str]) -> Channels:
    """All groups whose removal was verified.

    Args:
        module: it isn't changed.
        trace: of the same module.
        example: one batch by input name.
        names: input names, in order.
    """
    stay = getattr(module, "why_channels_stay", "")
    if stay:
        return Channels(reasons={layer.name: stay for layer in trace.layers})
    own = deep_copy(module)
    try:
        graph = _Graph(own, example, names)
    except _TRACE_ERRORS as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        reason = f"the network's channels could not be traced ({line})"
        return Channels(reasons={layer.name: reason for layer in trace.layers})
    reference = outputs(module, example, names)
    order = {layer.name: i for i, layer in enumerate(trace.layers)}
    groups: list[ChannelGroup] = []
    reasons: dict[str, str] = {}
    for layer in trace.layers:
        if layer.left_alone or any(layer.name in group.producers for group in groups):
            continue
        if not layer.has_inputs or is_conv1d_of_transformers(module.get_submodule(layer.name)):
            reasons[layer.name] = f"channels of {type(module.get_submodule(layer.name)).__name__} layers aren't traced"
            continue
        result = graph.group(layer, trace, order)
        if isinstance(result, str):
            reasons[layer.name] = result
        elif _removal_is_exact(graph, result, example, names, reference):
            groups.append(result)
        else:
            reasons[layer.name] = _TIED
        if graph.spoiled:
            graph = _Graph(own, example, names)
    return Channels(tuple(groups), reasons)


def keep(
    module: nn.Module, channels: Channels, edits: Sequence[Keep], example: Batch, names: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Remove all but the named channels of some groups, and the consumers' columns of the removed channels, in place.

    Args:
        module: a private copy.
        channels: of the module.
        edits: group -> channels to keep.
        example: one batch by input name.
        names: input names, in order.

    Returns:
        layer -> its remaining channels, for every producer of the groups.

    Raises:
        InvalidRequest: there is no such group, or the indices aren't distinct channels of it.
    """
    by_name = {group.name: group for group in channels.groups}
    graph = _Graph(module, example, names)
    kept = {}
    for edit in edits:
        if edit.group not in by_name:
            offer = ", ".join(by_name) or "none"
            raise InvalidRequest(f"there is no channel group '{edit.group}'; this model offers {offer}.")
        group, indices = by_name[edit.group], sorted({int(i) for i in edit.indices})
        if not indices or len(indices) != len(edit.indices) or indices[0] < 0 or indices[-1] >= group.size:
            raise InvalidRequest(
                f"channel group '{group.name}': indices {list(edit.indices)[:8]} must be distinct and below {group.size}."
            )
        removed = sorted(set(range(group.size)) - set(indices))
        if removed:
            graph.remove(group.producers[0], removed)
        kept.update(dict.fromkeys(group.producers, tuple(indices)))
    for parameter in module.parameters():
        parameter.grad = None
    return kept


class _Graph:
    """torch-pruning's dependency graph of one module.

    Attributes:
        module: may be changed by `remove`.
        names: id of a part of the module -> its name.
        spoiled: whether a removal changed the graph itself, so that it has to be built again.
        graph: torch-pruning's own.
    """

    def __init__(self, module: nn.Module, example: Batch, names: Sequence[str]) -> None:
        """Build the graph by one forward pass; the module's requires_grad flags are restored."""
        self.module = module
        self.names = {id(m): name for name, m in module.named_modules()}
        self.spoiled = False
        self.graph = torch_pruning.DependencyGraph()
        inputs = device_inputs(example, module, names)
        flags = [(p, p.requires_grad) for p in module.parameters()]
        with _quiet(), torch.enable_grad():
            for parameter, _ in flags:
                parameter.requires_grad_(True)

            def forward(network: nn.Module, batch: Mapping[str, Tensor]) -> list[Tensor]:
                return [t for t in tensors_of(call(network, batch, names)) if t.requires_grad]

            # A module whose products are computed by layers below it isn't a layer itself, whatever its class.
            ignored = [part for part in module.modules() if part.__dict__.get("product_places")]
            try:
                self.graph.build_dependency(
                    module, example_inputs=inputs, forward_fn=forward, ignored_layers=ignored, verbose=False
                )
            finally:
                for parameter, flag in flags:
                    parameter.requires_grad_(flag)

    def group(self, layer: Layer, trace: Trace, order: Mapping[str, int]) -> ChannelGroup | str:
        """The group of a layer's output channels, or the reason why there is none."""
        if layer.out < 2:
            return "it has a single output channel"
        try:
            first, addition = self._steps(layer.name, [0])
            last, _ = self._steps(layer.name, [layer.out - 1])
        except _TRACE_ERRORS:
            return _TIED
        reason = _STREAM if addition else _TIED
        producers: list[str] = []
        consumers: dict[str, int] = {}
        if len(first) != len(last):
            return reason
        for low, high in zip(first, last, strict=True):
            if not kind_of(low.module):
                continue
            name, shape = self.names.get(id(low.module), ""), canonical(low.module).shape
            depthwise = groups_of(low.module) > 1
            if depthwise and groups_of(low.module) != shape[0]:
                return "a grouped convolution among its readers needs equal groups"
            if low.rows:
                if low.idxs != [0] or high.idxs != [layer.out - 1] or shape[0] != layer.out:
                    return reason
                producers.append(name)
            elif not depthwise:
                consumers[name] = self._columns(low, high, layer.out)
        if not consumers:
            return _AT_OUTPUT
        members = (*producers, *consumers)
        if any(name not in trace.modules or len(trace.users[name]) > 1 or trace.calls[name] != 1 for name in members):
            return "a layer among those tied to it is used more than once"
        if addition and min(order[name] for name in consumers) < max(order[name] for name in producers):
            return _STREAM
        if not all(consumers.values()):
            return reason
        return ChannelGroup(layer.name, layer.out, tuple(sorted(set(producers), key=order.__getitem__)), consumers)

    def _columns(self, step: _Step, last: _Step, size: int) -> int:
        """Number of columns of a consumer's matrix for each channel; 0 where these aren't consecutive."""
        n = len(step.idxs)
        if step.idxs != list(range(n)) or last.idxs != list(range((size - 1) * n, size * n)):
            return 0
        weight = canonical(step.module)
        return n * (weight[0, 0].numel()) if weight.shape[1] == size * n else 0

    def _steps(self, name: str, idxs: list[int]) -> tuple[list[_Step], bool]:
        """The effects of removing these channels, and whether an addition of tensors is among them."""
        steps, addition = [], False
        for dependency, indices in self._pruning(name, idxs):
            target = dependency.target
            addition = addition or "AddBackward" in str(target.name)
            rows = self.graph.is_out_channel_pruning_fn(dependency.handler)
            steps.append(_Step(target.module, rows, sorted(int(i) for i in indices)))
        return steps, addition

    def _pruning(self, name: str, idxs: list[int]) -> Any:
        """torch-pruning's own group for these channels."""
        root = self.module.get_submodule(name)
        with _quiet(), _dependency_limit():
            return self.graph.get_pruning_group(root, self.graph.get_pruner_of_module(root).prune_out_channels, idxs=idxs)

    def remove(self, name: str, idxs: list[int]) -> None:
        """Remove channels of a layer and everything that depends on them, in place."""
        with _quiet(), torch.no_grad():
            group = self._pruning(name, idxs)
            # The graph stores new bare parameters in itself, which restoring the module doesn't undo.
            self.spoiled = self.spoiled or any(isinstance(d.target.module, nn.Parameter) for d, _ in group)
            group.prune(record_history=False)


def _removal_is_exact(
    graph: _Graph, group: ChannelGroup, example: Batch, names: Sequence[str], reference: tuple[Tensor, ...]
) -> bool:
    """Whether removing channels equals zeroing their consumers' columns; the graph's module is restored."""
    module = graph.module
    indices = sorted({0, group.size // 2}) if group.size > 2 else [0]
    with _restoring(module):
        _zero_columns(module, group, indices)
        zeroed = outputs(module, example, names)
    try:
        with _restoring(module):
            graph.remove(group.producers[0], indices)
            sizes = {int(canonical(module.get_submodule(name)).shape[0]) for name in group.producers}
            removed = outputs(module, example, names)
    except _TRACE_ERRORS:
        return False
    if sizes != {group.size - len(indices)} or len(removed) != len(reference):
        return False
    for actual, expected, original in zip(removed, zeroed, reference, strict=True):
        if actual.shape != original.shape or not bool(torch.isfinite(actual).all()):
            return False
        scale = original.double().abs().max() if original.numel() else torch.tensor(0.0)
        if original.numel() and not bool((actual.double() - expected.double()).abs().max() <= _TOLERANCE * scale + 1e-12):
            return False
    return True


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch-pruning, which prints and warns about unknown parameters; every group is verified anyway."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _dependency_limit() -> Iterator[None]:
    """Stop torch-pruning after too many steps from one layer: with rotary embeddings and shared heads they never end."""
    original = torch_pruning.dependency.Group.has_pruning_op
    calls = [0]

    def limited(group: Any, *args: Any) -> bool:
        calls[0] += 1
        if calls[0] > _MOST_DEPENDENCIES:
            raise RuntimeError("the dependencies of one layer's channels don't end")
        return original(group, *args)

    torch_pruning.dependency.Group.has_pruning_op = limited
    try:
        yield
    finally:
        torch_pruning.dependency.Group.has_pruning_op = original
