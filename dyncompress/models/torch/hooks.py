# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Forward hooks that change a value are part of the model: they move into the forward methods of their modules.

A hook that scales an activation or normalises an input belongs to the computation of the network. Exporters ignore hooks, and
hooks of our own on the same module would run before or after them by chance. Therefore such hooks become part of the forward
method. A layer whose weight can be compressed is wrapped in a `HookedLayer`, so that what is observed at the layer is what its
weight multiplies. Hooks that only read values are removed from the private copy: they belong to the caller's module.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.models.torch.calling import CALL_ERRORS, call, device_inputs, tensors_of
from dyncompress.models.torch.copying import forward_of
from dyncompress.models.torch.layers import kind_of
from dyncompress.types import Batch

_TABLES = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
_TABLES_BEFORE = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")


@dataclass(frozen=True)
class Hook:
    """One forward hook, and whether it also takes keyword arguments."""

    function: Callable[..., Any]
    with_keywords: bool


@dataclass(frozen=True)
class Hooks:
    """The hooks of one module that run before and after its forward method, in order."""

    before: tuple[Hook, ...]
    after: tuple[Hook, ...]

    def run(self, module: nn.Module, forward: Callable[..., Any], args: tuple, keywords: Mapping[str, Any]) -> Any:
        """The module's output with its hooks, in torch's order and by its rules (`nn.Module.register_forward_hook`)."""
        args, keywords = _by_position(forward, args, keywords)
        for hook in self.before:
            result = hook.function(module, args, keywords) if hook.with_keywords else hook.function(module, args)
            if result is not None and hook.with_keywords:
                args, keywords = result
            elif result is not None:
                args = result if isinstance(result, tuple) else (result,)
        output = forward(*args, **keywords)
        for hook in self.after:
            more = (keywords,) if hook.with_keywords else ()
            result = hook.function(module, args, *more, output)
            output = output if result is None else result
        return output


class HookedLayer(nn.Module):
    """A layer together with its hooks. Every attribute that isn't this module's own is the layer's."""

    def __init__(self, layer: nn.Module, hooks: Hooks) -> None:
        """Wrap a layer."""
        super().__init__()
        self.layer, self.hooks = layer, hooks

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """The layer's output, changed by the hooks."""
        return self.hooks.run(self.layer, self.layer, args, keywords)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # this module is copied and pickled as itself, not as the layer
                raise
            return getattr(super().__getattr__("layer"), name)


def absorb(module: nn.Module, example: Batch, names: Sequence[str], *, layers_apart: bool = True) -> None:
    """Move the hooks of a private copy that change a value into its forward methods, and remove other hooks, in place.

    Args:
        module: a private copy.
        example: one batch by input name; the module runs on it once, which shows which hooks change a value.
        names: input names, in order.
        layers_apart: whether layers are wrapped in a `HookedLayer` and can be observed by themselves; this changes their names.
    """
    with_hooks = [part for part in module.modules() if part._forward_hooks or part._forward_pre_hooks]
    if not with_hooks:
        return
    changing = _changing_hooks(module, with_hooks, example, names)
    layers: dict[nn.Module, HookedLayer] = {}
    for part in with_hooks:
        before, after = _hooks_of(part, changing, after=False), _hooks_of(part, changing, after=True)
        for table in (*_TABLES, *_TABLES_BEFORE):
            getattr(part, table).clear()
        if not before and not after:
            continue
        hooks = Hooks(before, after)
        if layers_apart and kind_of(part) and part is not module:
            layers[part] = HookedLayer(part, hooks)
        else:
            _into_forward(part, hooks)
    for parent in list(module.modules()):
        for key, child in list(parent._modules.items()):
            if child in layers:
                parent._modules[key] = layers[child]


def _into_forward(part: nn.Module, hooks: Hooks) -> None:
    """Give a module a forward method that runs its hooks; a deep copy of the module copies the method too."""
    method = forward_of(part)

    @functools.wraps(method)
    def forward(self: nn.Module, *args: Any, **keywords: Any) -> Any:
        return hooks.run(self, functools.partial(method, self), args, keywords)

    part.forward = types.MethodType(forward, part)


def _by_position(forward: Callable[..., Any], args: tuple, keywords: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments, by position as far as possible: hooks without keyword arguments receive only those."""
    if not keywords:
        return args, {}
    try:
        bound = inspect.signature(forward).bind(*args, **keywords)
    except (TypeError, ValueError):
        return args, dict(keywords)
    return bound.args, bound.kwargs


def _hooks_of(part: nn.Module, changing: set[tuple[int, int]], *, after: bool) -> tuple[Hook, ...]:
    """The hooks of a module that change a value."""
    hooks = part._forward_hooks if after else part._forward_pre_hooks
    with_keywords = part._forward_hooks_with_kwargs if after else part._forward_pre_hooks_with_kwargs
    return tuple(Hook(hook, number in with_keywords) for number, hook in hooks.items() if (id(part), number) in changing)


def _changing_hooks(module: nn.Module, parts: Sequence[nn.Module], example: Batch, names: Sequence[str]) -> set[tuple[int, int]]:
    """(id of the module, number) of the hooks that return a value or write into a tensor; all hooks where the pass fails."""
    changing: set[tuple[int, int]] = set()
    tables = [(part, table) for part in parts for table in (part._forward_hooks, part._forward_pre_hooks)]
    plain = [dict(table) for _, table in tables]
    for part, table in tables:
        for number, hook in table.items():
            table[number] = _watch(hook, changing, (id(part), number))
    try:
        with torch.no_grad():
            call(module, device_inputs(example, module, names), names)
    except CALL_ERRORS:
        changing.update((id(part), number) for part, table in tables for number in table)
    finally:
        for (_, table), hooks in zip(tables, plain, strict=True):
            table.update(hooks)
    return changing


def _watch(hook: Callable[..., Any], changing: set[tuple[int, int]], key: tuple[int, int]) -> Callable[..., Any]:
    """The hook, which adds its key to `changing` when it returns a value or writes into a tensor among its arguments."""

    def watched_hook(module: nn.Module, *arguments: Any) -> Any:
        """Run the hook, and compare its arguments before and after."""
        tensors: list[Tensor] = list(tensors_of(arguments))
        versions = [tensor._version for tensor in tensors]
        result = hook(module, *arguments)
        if result is not None or [tensor._version for tensor in tensors] != versions:
            changing.add(key)
        return result

    return watched_hook
