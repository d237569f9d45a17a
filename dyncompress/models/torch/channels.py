# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Sets of output channels that can be removed together, from torch-pruning's dependency graph, each tried on a copy.

A graph traced from gradients can be wrong about reshapes, paddings and concatenations. Therefore every group is checked: see
removal.py. Attention heads and the hidden units that the graph doesn't follow are found without it, in heads.py.

This is the only file that imports torch_pruning, and none of that package's names leave it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import call, device_inputs, tensors_of
from dyncompress.models.torch.copying import deep_copy
from dyncompress.models.torch.heads import with_direct_groups
from dyncompress.models.torch.layer_trace import Trace
from dyncompress.models.torch.layers import canonical, groups_of, is_conv1d_of_transformers, kind_of
from dyncompress.models.torch.removal import TRACE_ERRORS, Channels, cut, removal_is_exact
from dyncompress.types import Batch, ChannelGroup, Keep, Layer

# Largest number of steps along the graph from one layer. The residual stream of a 56-layer ResNet takes 118; with rotary
# embeddings the steps never end.
_MOST_DEPENDENCIES = 2_000

_AT_OUTPUT = "its output channels are the model's outputs, or no layer reads them"
_STREAM = "its channels are a residual stream: layers that read it also add to it"
_TIED = "its channels can't be removed alone: a reshape, padding, concatenation or normalisation ties them to others"


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
    return with_direct_groups(own, trace, _graph_groups(own, trace, example, names), example, names)


def _graph_groups(own: nn.Module, trace: Trace, example: Batch, names: Sequence[str]) -> Channels:
    """The verified groups of torch-pruning's graph; `own` is a private copy, and is restored."""
    try:
        graph = _Graph(own, example, names)
    except TRACE_ERRORS as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        reason = f"the network's channels could not be traced ({line})"
        return Channels(reasons={layer.name: reason for layer in trace.layers})
    order = {layer.name: i for i, layer in enumerate(trace.layers)}
    groups: list[ChannelGroup] = []
    reasons: dict[str, str] = {}
    for layer in trace.layers:
        if layer.left_alone or any(layer.name in group.producers for group in groups):
            continue
        part = own.get_submodule(layer.name)
        if not layer.has_inputs or is_conv1d_of_transformers(part):
            reasons[layer.name] = f"channels of {type(part).__name__} layers aren't traced"
            continue
        result = graph.group(layer, trace, order)
        if isinstance(result, str):
            reasons[layer.name] = result
        elif removal_is_exact(own, result, functools.partial(graph.remove, layer.name), example, names):
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
        layer -> its remaining rows, for every producer of the groups.

    Raises:
        InvalidRequest: there is no such group, or the indices aren't distinct channels of it.
    """
    by_name = {group.name: group for group in channels.groups}
    traced = any(edit.group not in channels.counts for edit in edits)
    graph = _Graph(module, example, names) if traced else None
    direct: list[tuple[ChannelGroup, list[int]]] = []
    kept: dict[str, tuple[int, ...]] = {}
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
        if group.name in channels.counts:
            direct.append((group, indices))
        elif removed and graph is not None:
            graph.remove(group.producers[0], removed)
        kept.update({name: group.rows_of(name, indices) for name in group.producers})
    for group, indices in direct:  # last: the graph has the shapes of the weights before
        cut(module, group, indices, channels.counts[group.name])
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
        except TRACE_ERRORS:
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
