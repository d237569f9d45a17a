# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false, reportAssignmentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Low-rank factorisation: a layer becomes a convolution to `rank` channels and a 1x1 convolution, or two linear layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import CALL_ERRORS, outputs
from dyncompress.models.torch.copying import deep_copy
from dyncompress.models.torch.layer_trace import Trace
from dyncompress.models.torch.layers import kind_of
from dyncompress.types import OUTER, Batch, LowRank

_EXACT = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # subclasses may compute something else


def factorable(module: nn.Module, trace: Trace, example: Batch, names: Sequence[str]) -> frozenset[str]:
    """The layers that two layers can replace, verified on a copy: torch's own classes, one group, called, and not shared.

    Args:
        module: in eval mode; it isn't changed.
        trace: of the same module.
        example: one batch by input name.
        names: input names, in order.
    """
    plain = [
        name
        for name, path in trace.modules.items()
        if type(module.get_submodule(path)) in _EXACT
        and getattr(module.get_submodule(path), "groups", 1) == 1
        and trace.calls.get(name, 0) > 0
        and len(trace.users.get(name, (name,))) == 1
        and min(module.get_submodule(path).weight.shape[:2]) > 1
    ]
    if _runs(module, trace, plain, example, names):
        return frozenset(plain)
    return frozenset(name for name in plain if _runs(module, trace, [name], example, names))


def factorise(module: nn.Module, trace: Trace, edits: Sequence[LowRank]) -> None:
    """Replace layers by pairs of layers, in place; their names are the layer's name with `.0` and `.1`.

    Args:
        module: a private copy.
        trace: of the same module.
        edits: layer and factors `inner` `[rank, in, *kernel]` and `outer` `[out, rank]`.

    Raises:
        InvalidRequest: there is no such layer, it can't be factorised, or the factors don't fit it.
    """
    for edit in edits:
        path = trace.modules.get(edit.layer)
        old = None if path is None else module.get_submodule(path)
        if path is None or old is None or type(old) not in _EXACT:
            raise InvalidRequest(f"there is no layer '{edit.layer}' that can be factorised; choose one of `model.factorable`.")
        inner, outer = edit.inner, edit.outer
        if inner.shape[1:] != old.weight.shape[1:] or outer.shape != (old.weight.shape[0], inner.shape[0]):
            raise InvalidRequest(
                f"layer '{edit.layer}' has shape {tuple(old.weight.shape)}, factors {tuple(inner.shape)} and "
                f"{tuple(outer.shape)} don't fit it."
            )
        parent, _, child = path.rpartition(".")
        bias = old.bias if edit.bias is None else edit.bias
        setattr(module.get_submodule(parent), child, _pair(old, inner, outer, bias))


def rename_layers(names: frozenset[str], edits: Sequence[LowRank]) -> frozenset[str]:
    """Layer names, where a factorised layer's name becomes that of its outer factor, which computes its output."""
    split = {edit.layer for edit in edits}
    return frozenset(name + OUTER if name in split else name for name in names)


def _pair(old: nn.Module, inner: Tensor, outer: Tensor, bias: Tensor | None) -> nn.Sequential:
    """The two layers that replace one; both have a bias, and the inner one's is zero."""
    rank, weight = len(inner), old.weight
    if kind_of(old) == "linear":
        first, second = nn.Linear(weight.shape[1], rank), nn.Linear(rank, len(outer))
    else:
        form = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
        first, second = type(old)(weight.shape[1], rank, **form), type(old)(rank, len(outer), 1)
    pair = nn.Sequential(first, second).to(weight).eval().requires_grad_(weight.requires_grad)
    with torch.no_grad():
        first.weight.copy_(inner)
        second.weight.copy_(outer.reshape(second.weight.shape))
        first.bias.zero_()  # moment matching edits the biases of both layers
        second.bias.copy_(torch.zeros_like(second.bias) if bias is None else bias)
    return pair


def _runs(module: nn.Module, trace: Trace, layers: Sequence[str], example: Batch, names: Sequence[str]) -> bool:
    """Whether the network runs with these layers factorised, and its outputs keep their shapes."""
    own, shapes = deep_copy(module), [one.shape for one in outputs(module, example, names)]
    weights: Mapping[str, Tensor] = {name: module.get_submodule(trace.modules[name]).weight for name in layers}
    try:
        factorise(own, trace, [LowRank(name, w[:1], w.new_ones(len(w), 1)) for name, w in weights.items()])
        return [one.shape for one in outputs(own, example, names)] == shapes
    except (AttributeError, *CALL_ERRORS):
        return False
