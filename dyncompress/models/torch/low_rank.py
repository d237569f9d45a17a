# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false, reportAssignmentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""A layer as two thin ones: a convolution to `rank` channels and one of width 1 from there, or two linear layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import CALL_ERRORS, deep_copy, outputs
from dyncompress.models.torch.layer_trace import Trace
from dyncompress.models.torch.layers import kind_of
from dyncompress.types import Batch, LowRank

INNER, OUTER = ".0", ".1"  # behind the layer's name: its two factors
_EXACT = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # subclasses may compute something else


def factorable(module: nn.Module, trace: Trace, example: Batch, names: Sequence[str]) -> frozenset[str]:
    """Layers that two can take the place of: plain, used under one name, their weight read by nobody else. Tried on a copy."""
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
    """Put two layers in place of one, in place; their names are the layer's with `.0` and `.1`.

    Raises:
        InvalidRequest: there is no such layer, or the factors don't fit it.
    """
    for edit in edits:
        path = trace.modules.get(edit.layer)
        old = None if path is None else module.get_submodule(path)
        if path is None or old is None or type(old) not in _EXACT:
            raise InvalidRequest(f"there is no layer '{edit.layer}' that two can take the place of.")
        inner, outer = edit.inner, edit.outer
        if inner.shape[1:] != old.weight.shape[1:] or outer.shape != (old.weight.shape[0], inner.shape[0]):
            raise InvalidRequest(
                f"layer '{edit.layer}' has shape {tuple(old.weight.shape)}, factors {tuple(inner.shape)} and "
                f"{tuple(outer.shape)} don't make it."
            )
        parent, _, child = path.rpartition(".")
        bias = old.bias if edit.bias is None else edit.bias
        setattr(module.get_submodule(parent), child, _pair(old, inner, outer, bias))


def rename_layers(names: frozenset[str], edits: Sequence[LowRank]) -> frozenset[str]:
    """Layer names with the outer factor in place of a factorised layer: the outputs are its."""
    split = {edit.layer for edit in edits}
    return frozenset(name + OUTER if name in split else name for name in names)


def _pair(old: nn.Module, inner: Tensor, outer: Tensor, bias: Tensor | None) -> nn.Sequential:
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
        first.bias.zero_()  # matched moments need one, so that both always have it
        second.bias.copy_(torch.zeros_like(second.bias) if bias is None else bias)
    return pair


def _runs(module: nn.Module, trace: Trace, chosen: Sequence[str], example: Batch, names: Sequence[str]) -> bool:
    """Whether the network still runs, and keeps its outputs' shapes, with these layers split."""
    own, shapes = deep_copy(module), [one.shape for one in outputs(module, example, names)]
    weights: Mapping[str, Tensor] = {name: module.get_submodule(trace.modules[name]).weight for name in chosen}
    try:
        factorise(own, trace, [LowRank(name, w[:1], w.new_ones(len(w), 1)) for name, w in weights.items()])
        return [one.shape for one in outputs(own, example, names)] == shapes
    except (AttributeError, *CALL_ERRORS):
        return False
