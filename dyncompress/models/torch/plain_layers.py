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

from dyncompress.models.torch.calling import CALL_ERRORS
from dyncompress.models.torch.layers import compressible_modules, has_own_forward, kind_of
from dyncompress.models.torch.products import (
    Place,
    Product,
    ProductRedirection,
    WatchedRun,
    settings_of,
    watched_run,
    weights_below,
)
from dyncompress.models.torch.rewriting import reference
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
    undo = {name: _rewrite(module, name, places, called) for name, places in plans.items()}
    if known.holds():
        return
    for restore in reversed(undo.values()):
        restore()
    for name in plans:  # a module that computes its own products must say so to those around it
        _rewrite(module, name, [], called)
    for name, places in plans.items():
        restore = _rewrite(module, name, places, called)
        if not known.holds():
            restore()


# ---------------------------------------------------------------- called by position
def _call_by_position(module: nn.Module, seen: WatchedRun) -> None:
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
class _ProductLayer:
    """One product that gets a layer.

    Attributes:
        product: as seen.
        layer: an existing layer below the module that has this weight; empty: a new one is made.
        parameters: that the weight is computed from, itself where it is one.
    """

    product: Product
    layer: str
    parameters: tuple[nn.Parameter, ...]


def _to_rewrite(module: nn.Module, seen: WatchedRun) -> list[str]:
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


def _runs_with_graphs(module: nn.Module, probes: Sequence[Batch], names: Sequence[str]) -> list[WatchedRun]:
    """Runs on several inputs; computed weights know the parameters that they come from."""
    with _requiring_gradients(module), torch.enable_grad():
        return [watched_run(module, probe, names) for probe in probes]


@contextmanager
def _requiring_gradients(module: nn.Module) -> Iterator[None]:
    """All parameters ask for gradients inside this block."""
    flags = [(p, p.requires_grad) for p in module.parameters() if p.is_floating_point()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _places(module: nn.Module, name: str, runs: Sequence[WatchedRun]) -> list[_ProductLayer | None]:
    """What the products of a module's forward method become, None where they stay; empty where nothing changes.

    Products by a parameter are told by that. The others are told by their number: every call of the module, in every run, must
    compute the same ones.
    """
    part = module.get_submodule(name)
    silent = _never_called(part, name, {path for seen in runs for path in seen.calls})
    below = {id(w) for w in weights_below(part, set(silent.values()))}
    own = [[p for p in seen.products.get(name, ()) if id(p.weight) not in below] for seen in runs]
    users = {
        id(layer.weight) for path, layer in compressible_modules(module).items() if path != name or kind_of(part) == "embedding"
    }
    if kind_of(part) != "embedding":  # its own table is looked up as any is: nothing observes what goes in
        users -= {id(p) for p in part._parameters.values()} | silent.keys()
    held: dict[Any, list[Product]] = {}
    for product in (p for products in own for p in products):
        if isinstance(product.weight, nn.Parameter) and id(product.weight) not in users:
            held.setdefault((id(product.weight), product.function, product.settings), []).append(product)
    told = {key: found for key, same in held.items() if (found := _product_layer(part, same, silent)) is not None}
    rest = [[p for p in products if (id(p.weight), p.function, p.settings) not in told] for products in own]
    counts = [len(seen.calls.get(name, ())) for seen in runs]
    numbered: list[_ProductLayer | None] = []
    if len(set(counts)) == 1 and len({len(products) for products in rest}) == 1 and len(rest[0]) % counts[0] == 0:
        size = len(rest[0]) // counts[0]
        groups = [[products[k] for products in rest for k in range(i, len(products), size)] for i in range(size)]
        numbered = [None if _base(same[0].weight) in users else _product_layer(part, same, silent) for same in groups]
    places = [*told.values(), *numbered]
    return places if any(place is not None for place in places) else []


def _base(weight: Tensor) -> int:
    """id of the tensor that a weight is a view of, or is."""
    return id(weight if weight._base is None else weight._base)


def _never_called(part: nn.Module, name: str, called: set[str]) -> dict[int, str]:
    """id of a weight -> the layer below a module that holds it and is never called: its weight is read by others."""
    silent = {}
    for path, layer in compressible_modules(part).items():
        whole = f"{name}.{path}" if name else path
        if path and whole not in called and kind_of(layer) != "embedding" and not has_own_forward(layer):
            silent[id(layer.weight)] = path
    return silent


def _product_layer(part: nn.Module, same: Sequence[Product], silent: Mapping[int, str]) -> _ProductLayer | None:
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
    if _parameters_of(first.input) and all(_equal(p.input, first.input) for p in same):
        return None  # a product of parameters, from which some weight is computed
    shaped = first.weight.ndim == 2 or first.layer_type not in (nn.Linear, nn.Embedding)
    if not fixed or not parameters or not shaped or first.weight.dtype != torch.float32:
        return None
    path = silent.get(id(first.weight), "")
    layer = part.get_submodule(path) if path else None
    if isinstance(layer, first.layer_type) and settings_of(layer) == first.settings and _equal(layer.bias, first.bias):
        return _ProductLayer(first, path, ())
    return _ProductLayer(first, "", (*parameters, first.bias) if isinstance(first.bias, nn.Parameter) else parameters)


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
def _rewrite(module: nn.Module, name: str, places: Sequence[_ProductLayer | None], called: Collection[str]) -> Callable[[], None]:
    """Give a module's products to layers below it, in place; returns the function that undoes it.

    Parameters that these products' weights are computed from aren't parameters of the module any more, nor of modules below it
    that are there to hold them: never called.
    """
    part = module.get_submodule(name)
    states = [(inner, _state(inner)) for inner in part.modules()]
    gone = {id(p) for place in places if place is not None for p in place.parameters}
    holders = [inner for path, inner in part.named_modules(prefix=name) if inner is not part and path not in called]
    paths = {id(p): path for path, p in part.named_parameters()}
    demoted = {id(p) for inner in (part, *holders) for p in inner._parameters.values()}
    made: list[tuple[_ProductLayer, str]] = []
    places_of = []
    for place in places:
        layer = "" if place is None else place.layer or _layer_for(part, place, made)
        places_of.append(_place_of(place, layer, paths, demoted))
    part.product_places = tuple(places_of)
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
    return {**vars(part), **tables}


def _demote(part: nn.Module, gone: set[int]) -> bool:
    """Make buffers of these parameters of a module, in place; whether it has any."""
    held = {key: parameter for key, parameter in part._parameters.items() if parameter is not None and id(parameter) in gone}
    for key, parameter in held.items():
        del part._parameters[key]
        part.register_buffer(key, parameter.detach().clone())  # forward methods may read it for something else as well
    return bool(held)


def _place_of(place: _ProductLayer | None, layer: str, paths: Mapping[int, str], demoted: Collection[int]) -> Place:
    """A product's place: its weight is told by where it stays."""
    if place is None:
        return Place("")
    product, held = place.product, ""
    if isinstance(product.weight, nn.Parameter):
        key = id(product.weight)
        held = paths[key] if not place.layer and key in paths and key in demoted else f"{layer}.weight"
    return Place(layer, product.function, tuple(product.weight.shape), product.settings, held)


def _layer_for(part: nn.Module, place: _ProductLayer, made: list[tuple[_ProductLayer, str]]) -> str:
    """The layer below a module that computes a product: one that was made for the same weight, or a new one."""
    product, origin = place.product, {id(p) for p in place.parameters}
    for known, name in made:
        other = known.product
        same = other.layer_type is product.layer_type and other.settings == product.settings
        same = same and {id(p) for p in known.parameters} == origin
        if same and _equal(other.weight, product.weight) and _equal(other.bias, product.bias):
            return name
    name = _add_layer(part, product)
    made.append((place, name))
    return name


def _whole_parameter(weight: Tensor) -> Tensor:
    """The parameter that a weight is a view of, where it views the whole of it in the same order; else the weight."""
    base = weight._base
    if isinstance(base, nn.Parameter) and base.shape == weight.shape and base.stride() == weight.stride():
        return base
    return weight


def _add_layer(part: nn.Module, product: Product) -> str:
    """Add a layer that computes a product below a module; its name there."""
    weight, settings = _whole_parameter(product.weight), dict(product.settings)
    is_parameter = isinstance(weight, nn.Parameter)
    if product.layer_type is nn.Embedding:
        layer = nn.Embedding(*weight.shape, device="meta")
    elif product.layer_type is nn.Linear:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=product.bias is not None, device="meta")
    else:
        inner, outer = weight.shape[1] * settings["groups"], weight.shape[0]
        if "output_padding" in settings:
            inner, outer = outer, inner
        kernel = tuple(weight.shape[2:])
        layer = product.layer_type(inner, outer, kernel, bias=product.bias is not None, device="meta", **settings)
    layer.weight = weight if is_parameter else nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
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
        with ProductRedirection(self):
            return method(self, *args, **keywords)

    part.forward = types.MethodType(forward, part)
