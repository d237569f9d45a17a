# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Bring the layers of a private copy into one form: torch's own layer, called with one tensor by position.

What observes a layer reads its first argument as what the weight multiplies, and runs the layer again with that argument alone.
That is wrong for a subclass whose forward method masks, normalises or computes its weight, for a transposed convolution that is
told its output's size, and for weights that a forward method multiplies through a function. Here each of these gets a plain layer
below it which computes the product, and the rest of the forward method stays around it: BatchNorm behind it can then be folded.

A weight that is computed becomes the layer's own where it is a function of parameters alone: the same in runs on two inputs. The
outputs must stay as they are; otherwise the module is left as it was.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.models.torch_calling import CALL_ERRORS
from dyncompress.models.torch_layers import compressible, has_own_forward, kind_of
from dyncompress.models.torch_products import Place, Product, Redirected, Seen, settings_of, watched_run, weights_below
from dyncompress.models.torch_rewriting import reference
from dyncompress.types import Batch


def make_plain(module: nn.Module, example: Batch, names: Sequence[str]) -> None:
    """Give every product of a weight a plain layer, in place, where the outputs stay as they are.

    Args:
        module: a private copy in eval mode, without hooks and parametrizations.
        example: one batch.
        names: of the inputs.
    """
    try:
        with torch.no_grad():
            seen = watched_run(module, example, names)
    except CALL_ERRORS:
        return  # what is wrong is said where the example is checked
    _call_by_position(module, seen)
    wanted = _to_rewrite(module, seen)
    if not wanted:
        return
    known = reference(module, example, names)
    if known is None:
        return
    try:
        runs = _runs_with_graphs(module, known.probes, names)
    except CALL_ERRORS:
        return
    plans = {name: _places(module, name, runs) for name in wanted}
    if not any(plans.values()):
        return
    called = set(seen.calls)
    undo = {name: _rewritten(module, name, places, called) for name, places in plans.items()}
    if known.holds():
        return
    for restore in reversed(undo.values()):
        restore()
    for name in plans:  # a module that computes its own products must say so to those around it
        _rewritten(module, name, [], called)
    for name, places in plans.items():
        restore = _rewritten(module, name, places, called)
        if not known.holds():
            restore()


# ---------------------------------------------------------------- called by position
def _call_by_position(module: nn.Module, seen: Seen) -> None:
    """Layers that are called with their input by keyword get it by position: what observes them looks there."""
    for name, part in module.named_modules():
        if (kind_of(part) or _normalises(part)) and any(keywords for _, keywords in seen.calls.get(name, ())):
            part.register_forward_pre_hook(_by_position, with_kwargs=True)


def _normalises(part: nn.Module) -> bool:
    """Whether this is a normalisation with remembered statistics, which may be folded."""
    return isinstance(part, nn.modules.batchnorm._BatchNorm)


def _by_position(part: nn.Module, args: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A call's arguments by position as far as that goes."""
    bound = inspect.signature(part.forward).bind(*args, **keywords)
    return bound.args, bound.kwargs


# ---------------------------------------------------------------- which modules, and what they multiply
@dataclass(frozen=True)
class _Found:
    """One product that gets a layer.

    Attributes:
        product: as seen.
        layer: an existing layer below the module that has this weight; empty: a new one is made.
        parameters: that the weight is computed from, itself where it is one.
    """

    product: Product
    layer: str
    parameters: tuple[nn.Parameter, ...]


def _to_rewrite(module: nn.Module, seen: Seen) -> list[str]:
    """Modules whose products aren't those of plain layers called with one tensor."""
    found = []
    for name in seen.products:
        part = module.get_submodule(name)
        sized = any(len(args) > 1 or keywords.get("output_size") is not None for args, keywords in seen.calls[name])
        if (not kind_of(part) or has_own_forward(part) or sized) and _can_be_wrapped(part):
            found.append(name)
    return found


def _can_be_wrapped(part: nn.Module) -> bool:
    """Whether the forward method is the class's, or a method of the module that was set on it."""
    own = part.__dict__.get("forward")
    return own is None or (isinstance(own, types.MethodType) and own.__self__ is part)


def _runs_with_graphs(module: nn.Module, probes: Sequence[Batch], names: Sequence[str]) -> list[Seen]:
    """Runs on several inputs; computed weights know the parameters that they come from."""
    with _asking(module), torch.enable_grad():
        return [watched_run(module, probe, names) for probe in probes]


@contextmanager
def _asking(module: nn.Module) -> Iterator[None]:
    """All parameters ask for gradients inside this block."""
    flags = [(p, p.requires_grad) for p in module.parameters() if p.is_floating_point()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _places(module: nn.Module, name: str, runs: Sequence[Seen]) -> list[_Found | None]:
    """What each product of a module's forward method becomes, None where it stays; empty where nothing changes.

    A module that is called several times must compute the same products in every call.
    """
    part = module.get_submodule(name)
    called = {path for seen in runs for path in seen.calls}
    silent = _never_called(part, name, called)
    below = {id(w) for w in weights_below(part, set(silent.values()))}
    counts = [len(seen.calls.get(name, ())) for seen in runs]
    own = [[p for p in seen.products.get(name, ()) if id(p.weight) not in below] for seen in runs]
    if not own[0] or len(set(counts)) > 1 or len({len(products) for products in own}) > 1 or len(own[0]) % counts[0]:
        return []
    size = len(own[0]) // counts[0]
    groups = [[products[k] for products in own for k in range(i, len(products), size)] for i in range(size)]
    users = {id(layer.weight) for path, layer in compressible(module).items() if path != name}
    users -= {id(p) for p in part._parameters.values()} | silent.keys()
    places = [None if id(same[0].weight) in users else _place(part, same, silent) for same in groups]
    return places if any(place is not None for place in places) else []


def _never_called(part: nn.Module, name: str, called: set[str]) -> dict[int, str]:
    """id of a weight -> the layer below a module that holds it and is never called: its weight is read by others."""
    silent = {}
    for path, layer in compressible(part).items():
        whole = f"{name}.{path}" if name else path
        if path and whole not in called and kind_of(layer) != "embedding" and not has_own_forward(layer):
            silent[id(layer.weight)] = path
    return silent


def _place(part: nn.Module, same: Sequence[Product], silent: Mapping[int, str]) -> _Found | None:
    """What one product becomes, by how it looks in all calls of all runs."""
    first = same[0]
    fixed = all(
        p.function is first.function
        and p.settings == first.settings
        and _equal(p.weight, first.weight)
        and _equal(p.bias, first.bias)
        for p in same
    )
    parameters = _parameters_of(first.weight)
    shaped = first.weight.ndim == (2 if first.layer_type is nn.Linear else len(first.weight.shape))
    if not fixed or not parameters or not shaped or first.weight.dtype != torch.float32:
        return None
    path = silent.get(id(first.weight), "")
    if path:
        layer = part.get_submodule(path)
        fits = settings_of(layer) == first.settings and _equal(layer.bias, first.bias) and isinstance(layer, first.layer_type)
        return _Found(first, path, ()) if fits else None
    return _Found(first, "", (*parameters, first.bias) if isinstance(first.bias, nn.Parameter) else parameters)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether both are absent, or the same in shape and values."""
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and torch.equal(one, other)


def _parameters_of(tensor: Tensor) -> tuple[nn.Parameter, ...]:
    """The parameters at the leaves of a tensor's graph; itself, if it is one."""
    if isinstance(tensor, nn.Parameter):
        return (tensor,)
    found, known, waiting = [], set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        leaf = getattr(node, "variable", None)
        found += [leaf] if isinstance(leaf, nn.Parameter) else []
        waiting += [before for before, _ in node.next_functions]
    return tuple(found)


# ---------------------------------------------------------------- rewriting
def _rewritten(module: nn.Module, name: str, places: Sequence[_Found | None], called: Collection[str]) -> Callable[[], None]:
    """Give a module's products to layers below it, in place; returns the function that undoes it.

    Parameters that these products' weights are computed from aren't parameters of the module any more, nor of modules below it
    that are there to hold them: never called.
    """
    part = module.get_submodule(name)
    states = [(inner, _state(inner)) for inner in part.modules()]
    gone = {id(p) for place in places if place is not None for p in place.parameters}
    holders = [inner for path, inner in part.named_modules(prefix=name) if inner is not part and path not in called]
    part.product_places = tuple(Place("") if place is None else _placed(part, place) for place in places)
    _demote(part, gone)
    for holder in holders:
        if _demote(holder, gone):
            holder.product_places = (Place(""),)
    _redirect(part)

    def restore() -> None:
        for inner, state in states:
            vars(inner).clear()
            vars(inner).update(state)

    return restore


def _state(part: nn.Module) -> dict[str, Any]:
    """What rewriting changes of a module, by attribute."""
    tables = {table: dict(getattr(part, table)) for table in ("_parameters", "_buffers", "_modules")}
    return {**vars(part), **tables, "_non_persistent_buffers_set": set(part._non_persistent_buffers_set)}


def _demote(part: nn.Module, gone: set[int]) -> bool:
    """Make buffers of these parameters of a module, in place; whether it has any."""
    held = {key: parameter for key, parameter in part._parameters.items() if parameter is not None and id(parameter) in gone}
    for key, parameter in held.items():
        del part._parameters[key]
        part.register_buffer(key, parameter.detach().clone(), persistent=False)
    return bool(held)


def _placed(part: nn.Module, place: _Found) -> Place:
    """A product's place, its layer made where there is none."""
    product = place.product
    name = place.layer or _added(part, place)
    return Place(name, product.function, tuple(product.weight.shape), product.settings, shared=bool(place.layer))


def _added(part: nn.Module, place: _Found) -> str:
    """Add a layer that computes a product below a module; its name there."""
    product = place.product
    weight, settings = product.weight, dict(product.settings)
    is_parameter = isinstance(weight, nn.Parameter)
    if product.layer_type is nn.Linear:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=product.bias is not None, device="meta")
    else:
        inner, outer = weight.shape[1] * settings["groups"], weight.shape[0]
        if "output_padding" in settings:
            inner, outer = outer, inner
        kernel = tuple(weight.shape[2:])
        layer = product.layer_type(inner, outer, kernel, bias=product.bias is not None, device="meta", **settings)
    layer.weight = weight if is_parameter else nn.Parameter(weight.detach().clone())
    if product.bias is not None:
        layer.bias = nn.Parameter(product.bias.detach().clone())
    base = "layer" if is_parameter else "computed_layer"
    taken = set(dir(part))
    name = next(name for name in (base, *(f"{base}_{i}" for i in range(2, 10_000))) if name not in taken)
    part.add_module(name, layer.eval())
    return name


def _redirect(part: nn.Module) -> None:
    """Give a module a forward method whose products are computed by its layers; a copy of the module copies it."""
    own = part.__dict__.get("forward")
    method = type(part).forward if own is None else own.__func__

    @functools.wraps(method)
    def forward(self: nn.Module, *args: Any, **keywords: Any) -> Any:
        with Redirected(self):
            return method(self, *args, **keywords)

    part.forward = types.MethodType(forward, part)
