# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Forward hooks that change a value are part of the model: they are moved into the forward methods of the modules they hang on.

A hook that scales an activation or normalises an input belongs to what the network computes. Exporters pass hooks over, and our
own hooks on the same module would see values before or after them, by chance. So they become part of the forward method; a layer
whose weight can be compressed is put inside a `HookedLayer`, so that what is observed there is what its weight multiplies. Hooks
that only look are left behind: they were made for the caller's module, and what they write down is the caller's.
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

from dyncompress.models.torch.calling import CALL_ERRORS, call, device_inputs, forward_of, tensors_of
from dyncompress.models.torch.layers import kind_of
from dyncompress.types import Batch

_TABLES = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
_TABLES_BEFORE = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")


@dataclass(frozen=True)
class Hook:
    """One forward hook, and whether it takes keyword arguments as well."""

    function: Callable[..., Any]
    with_keywords: bool


@dataclass(frozen=True)
class Hooks:
    """The hooks of one module that run before and after its forward method, in order."""

    before: tuple[Hook, ...]
    after: tuple[Hook, ...]

    def run(self, module: nn.Module, forward: Callable[..., Any], args: tuple, keywords: Mapping[str, Any]) -> Any:
        """What the module returns with its hooks: torch's own order and rules (`nn.Module.register_forward_hook`)."""
        args, keywords = _by_position(forward, args, keywords)
        for hook in self.before:
            found = hook.function(module, args, keywords) if hook.with_keywords else hook.function(module, args)
            if found is not None and hook.with_keywords:
                args, keywords = found
            elif found is not None:
                args = found if isinstance(found, tuple) else (found,)
        output = forward(*args, **keywords)
        for hook in self.after:
            more = (keywords,) if hook.with_keywords else ()
            found = hook.function(module, args, *more, output)
            output = output if found is None else found
        return output


class HookedLayer(nn.Module):
    """A layer between its hooks; what is asked of it beside calls is the layer's."""

    def __init__(self, layer: nn.Module, hooks: Hooks) -> None:
        """Put the layer inside."""
        super().__init__()
        self.layer, self.hooks = layer, hooks

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """The layer's output, changed by the hooks."""
        return self.hooks.run(self.layer, self.layer, args, keywords)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # how the layer is copied or pickled isn't how this is
                raise
            return getattr(super().__getattr__("layer"), name)


def absorb(module: nn.Module, example: Batch, names: Sequence[str], *, layers_apart: bool = True) -> None:
    """Move the hooks of a private copy that change a value into its forward methods, and drop those that only look, in place.

    Args:
        module: a private copy.
        example: what it is run on once, to find out which hooks change a value.
        names: of the inputs.
        layers_apart: whether layers are put inside a `HookedLayer`, to be observed by themselves; their names change.
    """
    hooked = [part for part in module.modules() if part._forward_hooks or part._forward_pre_hooks]
    if not hooked:
        return
    changing = _changing_hooks(module, hooked, example, names)
    layers: dict[nn.Module, HookedLayer] = {}
    for part in hooked:
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
    """Give a module a forward method that runs its hooks; a copy of the module copies it with what it is bound to."""
    method = forward_of(part)

    @functools.wraps(method)
    def forward(self: nn.Module, *args: Any, **keywords: Any) -> Any:
        return hooks.run(self, functools.partial(method, self), args, keywords)

    part.forward = types.MethodType(forward, part)


def _by_position(forward: Callable[..., Any], args: tuple, keywords: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments by position as far as that goes: hooks without keyword arguments see nothing else."""
    if not keywords:
        return args, {}
    try:
        bound = inspect.signature(forward).bind(*args, **keywords)
    except (TypeError, ValueError):
        return args, dict(keywords)
    return bound.args, bound.kwargs


def _hooks_of(part: nn.Module, changing: set[tuple[int, int]], *, after: bool) -> tuple[Hook, ...]:
    """Those of a module's hooks that change a value."""
    hooks = part._forward_hooks if after else part._forward_pre_hooks
    keyed = part._forward_hooks_with_kwargs if after else part._forward_pre_hooks_with_kwargs
    return tuple(Hook(hook, number in keyed) for number, hook in hooks.items() if (id(part), number) in changing)


def _changing_hooks(module: nn.Module, hooked: Sequence[nn.Module], example: Batch, names: Sequence[str]) -> set[tuple[int, int]]:
    """(module, number) of the hooks that return a value or write into one, in one forward pass; all, where it fails."""
    found: set[tuple[int, int]] = set()
    tables = [(part, table) for part in hooked for table in (part._forward_hooks, part._forward_pre_hooks)]
    plain = [dict(table) for _, table in tables]
    for part, table in tables:
        for number, hook in table.items():
            table[number] = _watch(hook, found, (id(part), number))
    try:
        with torch.no_grad():
            call(module, device_inputs(example, module, names), names)
    except CALL_ERRORS:
        found.update((id(part), number) for part, table in tables for number in table)
    finally:
        for (_, table), hooks in zip(tables, plain, strict=True):
            table.update(hooks)
    return found


def _watch(hook: Callable[..., Any], found: set[tuple[int, int]], key: tuple[int, int]) -> Callable[..., Any]:
    """The hook, noting its key where it returns a value or writes into a tensor it is shown."""

    def watched(module: nn.Module, *shown: Any) -> Any:
        """Run the hook, and look at what it was shown."""
        tensors: list[Tensor] = list(tensors_of(shown))
        versions = [tensor._version for tensor in tensors]
        result = hook(module, *shown)
        if result is not None or [tensor._version for tensor in tensors] != versions:
            found.add(key)
        return result

    return watched
