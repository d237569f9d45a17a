# pyright: reportArgumentType=false, reportFunctionMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Private copies of torch modules: without wrappers and parametrizations, in eval mode, and safe from the caller's graphs."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod

from dyncompress.errors import InvalidRequest


def forward_of(module: nn.Module) -> Callable[..., Any]:
    """The forward method as a function of the module, so that a wrapper around it works on a copy of the module too."""
    own = module.__dict__.get("forward")
    if own is None:
        return type(module).forward
    if isinstance(own, types.MethodType) and own.__self__ is module:
        return own.__func__
    return functools.wraps(own)(lambda _self, *args, **keywords: own(*args, **keywords))


def unwrap(module: nn.Module) -> nn.Module:
    """The network inside torch's wrappers: `torch.compile`, `DataParallel`, `DistributedDataParallel`."""
    inner = getattr(module, "_orig_mod", module)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrap(inner.module)
    return inner


def remove_wrappers(module: nn.Module) -> None:
    """Replace `torch.compile` and `DataParallel` wrappers inside a module by the networks that they wrap, in place."""
    for parent in list(module.modules()):
        for key, child in list(parent._modules.items()):
            if child is not None and (inner := unwrap(child)) is not child:
                parent._modules[key] = inner


def in_eval_mode(module: nn.Module) -> nn.Module:
    """The caller's network in eval mode, hooks included: itself if it is in eval mode, else a copy."""
    return deep_copy(module).eval() if any(part.training for part in module.modules()) else module


def private_copy(module: nn.Module) -> nn.Module:
    """A deep copy in eval mode. Hooks that compute a weight are replaced by that weight; forward hooks stay (hooks.py).

    Raises:
        InvalidRequest: the module holds something that can't be copied.
    """
    own = deep_copy(module)
    for part in own.modules():
        for number, hook in list(part._forward_pre_hooks.items()):
            if type(hook).__name__ in ("WeightNorm", "SpectralNorm") or isinstance(hook, BasePruningMethod):
                hook.remove(part)
                del part._forward_pre_hooks[number]
        for hooks in (part._backward_hooks, part._backward_pre_hooks):
            hooks.clear()
    return own.eval()


def deep_copy(module: nn.Module, known: Mapping[int, Tensor] | None = None) -> nn.Module:
    """A deep copy. Tensors with an autograd graph, which torch doesn't copy, are copied without the graph.

    Args:
        module: it isn't changed.
        known: id of a tensor -> what stands for it in the copy.

    Raises:
        InvalidRequest: the module holds something that can't be copied.
    """
    stored = (v for part in module.modules() for v in _tensors_of(vars(part)))
    detached = {id(v): v.detach().clone() for v in stored if not v.is_leaf}
    inference = {
        id(p): nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad) if isinstance(p, nn.Parameter) else p.clone()
        for p in (*module.parameters(), *module.buffers())
        if p.is_inference()
    }
    try:
        return copy.deepcopy(module, {**detached, **inference, **(known or {})})
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidRequest(
            f"the model can't be copied ({reason}); detach the tensors that it stores outside its parameters."
        ) from error


def sharing_copy(module: nn.Module) -> nn.Module:
    """A copy whose parameters have the values of the original without a copy of them, until other values replace them.

    Args:
        module: a private copy; the values of its parameters are replaced (`layers.set_weight`), and never written in place.
    """
    return deep_copy(module, {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in module.parameters()})


def _tensors_of(value: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """Every tensor in a value, also inside lists, tuples, mappings and plain objects, but not inside modules."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, nn.Module | type | types.ModuleType):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in list(value.values()):
            yield from _tensors_of(entry, seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for entry in value:
            yield from _tensors_of(entry, seen)
    elif hasattr(value, "__dict__"):
        yield from _tensors_of(vars(value), seen)


def remove_parametrizations(module: nn.Module) -> None:
    """Turn weights that parametrizations compute into plain parameters, in place.

    torch defines the computed weight as a property of a generated class, which a copy shares with its original. The copy gets a
    class of its own first; otherwise the caller's module would lose its weight.
    """
    for part in list(module.modules()):
        if parametrize.is_parametrized(part):
            shared = type(part)
            members = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
            object.__setattr__(part, "__class__", type(shared.__name__, shared.__bases__, members))
            for name in list(part.parametrizations):
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
