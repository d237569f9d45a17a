# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Bring the layers of a private copy into one form: torch's own layer, called with one tensor by position.

The hooks that observe a layer take its first argument for the tensor that the weight multiplies, and run the layer again with
that argument alone. This is wrong for a subclass whose forward method masks, normalises or computes its weight, for a transposed
convolution that is called with an output size, and for weights that a forward method multiplies through a function. Here each of
these modules gets a plain layer inside it that computes the product. The rest of the forward method stays around that layer, so
that a BatchNorm after it can be folded.

A computed weight becomes the layer's own weight where it depends on parameters only, which shows in equal weights for two inputs.
Where the outputs change, the module is restored.
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
    """Give every product of a weight a plain layer, in place, wherever the outputs don't change.

    Args:
        module: a private copy in eval mode, without hooks and parametrizations.
        example: one batch by input name.
        names: input names, in order.
    """
    try:
        with torch.no_grad():
            run = watched_run(module, example, names)
    except CALL_ERRORS:
        return  # a later check of the example reports the error
    _call_by_position(module, run)
    candidates = _to_rewrite(module, run)
    if not candidates:
        return
    before = reference(module, example, names)
    if before is None:
        return
    try:
        runs = _runs_with_graphs(module, before.probes, names)
    except CALL_ERRORS:
        return
    plans = {name: _places(module, name, runs) for name in candidates}
    if not any(plans.values()):
        return
    called_names = set(run.calls)
    undo = {name: _rewrite(module, name, places, called_names) for name, places in plans.items()}
    if before.holds():
        return
    for restore in reversed(undo.values()):
        restore()
    for name in plans:  # marks each module as one that computes its own products, for the redirections around it
        _rewrite(module, name, [], called_names)
    for name, places in plans.items():
        restore = _rewrite(module, name, places, called_names)
        if not before.holds():
            restore()


def _call_by_position(module: nn.Module, run: WatchedRun) -> None:
    """Pass the inputs of layers by position where the network passes them by keyword, since hooks read positional arguments."""
    for name, part in module.named_modules():
        if (kind_of(part) or _normalises(part)) and any(keywords for _, keywords in run.calls.get(name, ())):
            part.register_forward_pre_hook(_by_position, with_kwargs=True)


def _normalises(part: nn.Module) -> bool:
    """Whether a module is a BatchNorm, which may be folded."""
    return isinstance(part, nn.modules.batchnorm._BatchNorm)


def _by_position(part: nn.Module, args: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Forward pre-hook: a call's arguments by position as far as possible."""
    bound = inspect.signature(part.forward).bind(*args, **keywords)
    return bound.args, bound.kwargs


@dataclass(frozen=True)
class _ProductLayer:
    """One product that a layer will compute.

    Attributes:
        product: as recorded.
        layer: name of an existing layer inside the module with this weight; empty where a new layer is made.
        parameters: from which the weight is computed; the weight itself where it is a parameter.
    """

    product: Product
    layer: str
    parameters: tuple[nn.Parameter, ...]


def _to_rewrite(module: nn.Module, run: WatchedRun) -> list[str]:
    """Names of the modules that compute products but aren't plain layers called with one tensor."""
    names = []
    for name in run.products:
        part = module.get_submodule(name)
        has_arguments = any(len(args) > 1 or keywords.get("output_size") is not None for args, keywords in run.calls[name])
        if (not kind_of(part) or has_own_forward(part) or has_arguments) and _can_be_wrapped(part):
            names.append(name)
    return names


def _can_be_wrapped(part: nn.Module) -> bool:
    """Whether the forward method is the class's, or a bound method that was set on the module."""
    own = part.__dict__.get("forward")
    return own is None or (isinstance(own, types.MethodType) and own.__self__ is part)


def _runs_with_graphs(module: nn.Module, probes: Sequence[Batch], names: Sequence[str]) -> list[WatchedRun]:
    """Record runs on several inputs, with gradients, so that a computed weight's graph leads to its parameters."""
    with _requiring_gradients(module), torch.enable_grad():
        return [watched_run(module, probe, names) for probe in probes]


@contextmanager
def _requiring_gradients(module: nn.Module) -> Iterator[None]:
    """Inside this block all floating-point parameters require gradients."""
    flags = [(p, p.requires_grad) for p in module.parameters() if p.is_floating_point()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _places(module: nn.Module, name: str, runs: Sequence[WatchedRun]) -> list[_ProductLayer | None]:
    """The layers of the products of a module's forward method, with None for products that stay; empty where nothing changes.

    A product whose weight is a parameter is identified by that parameter. Other products are identified by their number: every
    call of the module, in every run, must compute the same products.

    Args:
        module: the network.
        name: of the module in it.
        runs: recorded runs on different inputs.
    """
    part = module.get_submodule(name)
    silent = _never_called(part, name, {path for run in runs for path in run.calls})
    below = {id(w) for w in weights_below(part, set(silent.values()))}
    products_of_runs = [[p for p in run.products.get(name, ()) if id(p.weight) not in below] for run in runs]
    users = {
        id(layer.weight) for path, layer in compressible_modules(module).items() if path != name or kind_of(part) == "embedding"
    }
    if kind_of(part) != "embedding":  # nothing observes the inputs of an embedding
        users -= {id(p) for p in part._parameters.values()} | silent.keys()
    by_parameter: dict[Any, list[Product]] = {}
    for product in (p for products in products_of_runs for p in products):
        if isinstance(product.weight, nn.Parameter) and id(product.weight) not in users:
            by_parameter.setdefault((id(product.weight), product.function, product.settings), []).append(product)
    identified = {key: place for key, same in by_parameter.items() if (place := _product_layer(part, same, silent)) is not None}
    rest = [[p for p in products if (id(p.weight), p.function, p.settings) not in identified] for products in products_of_runs]
    counts = [len(run.calls.get(name, ())) for run in runs]
    numbered: list[_ProductLayer | None] = []
    if len(set(counts)) == 1 and len({len(products) for products in rest}) == 1 and len(rest[0]) % counts[0] == 0:
        size = len(rest[0]) // counts[0]
        groups = [[products[k] for products in rest for k in range(i, len(products), size)] for i in range(size)]
        numbered = [None if _base(same[0].weight) in users else _product_layer(part, same, silent) for same in groups]
    places = [*identified.values(), *numbered]
    return places if any(place is not None for place in places) else []


def _base(weight: Tensor) -> int:
    """id of the tensor that a weight views; of the weight itself where it is no view."""
    return id(weight if weight._base is None else weight._base)


def _never_called(part: nn.Module, name: str, called_names: set[str]) -> dict[int, str]:
    """id of a weight -> name of the layer inside a module that holds it and is never called: other code reads its weight."""
    silent = {}
    for path, layer in compressible_modules(part).items():
        whole = f"{name}.{path}" if name else path
        if path and whole not in called_names and kind_of(layer) != "embedding" and not has_own_forward(layer):
            silent[id(layer.weight)] = path
    return silent


def _product_layer(part: nn.Module, same: Sequence[Product], silent: Mapping[int, str]) -> _ProductLayer | None:
    """The layer of one product; None where it has to stay.

    Args:
        part: the module that computes it.
        same: the product in all calls of all runs.
        silent: id of a weight -> layer inside the module that holds it and is never called.
    """
    first = same[0]
    constant = all(
        p.function is first.function
        and p.settings == first.settings
        and _equal(p.weight, first.weight)
        and _equal(p.bias, first.bias)
        for p in same
    )
    parameters = _parameters_of(first.weight)
    if _parameters_of(first.input) and all(_equal(p.input, first.input) for p in same):
        return None  # a product of parameters is part of the computation of a weight
    supported = first.weight.ndim == 2 or first.layer_type not in (nn.Linear, nn.Embedding)
    if not constant or not parameters or not supported or first.weight.dtype != torch.float32:
        return None
    path = silent.get(id(first.weight), "")
    layer = part.get_submodule(path) if path else None
    if isinstance(layer, first.layer_type) and settings_of(layer) == first.settings and _equal(layer.bias, first.bias):
        return _ProductLayer(first, path, ())
    return _ProductLayer(first, "", (*parameters, first.bias) if isinstance(first.bias, nn.Parameter) else parameters)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors have equal shapes and values; two absent ones are equal."""
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and torch.equal(one, other)


def _parameters_of(tensor: Tensor) -> tuple[nn.Parameter, ...]:
    """The parameters at the leaves of a tensor's graph; a parameter itself."""
    if isinstance(tensor, nn.Parameter):
        return (tensor,)
    parameters, visited, waiting = [], set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        leaf = getattr(node, "variable", None)
        parameters += [leaf] if isinstance(leaf, nn.Parameter) else []
        waiting += [before for before, _ in node.next_functions]
    return tuple(parameters)


def _rewrite(
    module: nn.Module, name: str, places: Sequence[_ProductLayer | None], called_names: Collection[str]
) -> Callable[[], None]:
    """Let layers inside a module compute its products, in place.

    Parameters from which these products' weights are computed become buffers of the module, and of those modules inside it that
    only hold them and are never called.

    Returns:
        a function that restores the module.
    """
    part = module.get_submodule(name)
    states = [(inner, _state(inner)) for inner in part.modules()]
    demoted_ids = {id(p) for place in places if place is not None for p in place.parameters}
    holders = [inner for path, inner in part.named_modules(prefix=name) if inner is not part and path not in called_names]
    paths = {id(p): path for path, p in part.named_parameters()}
    local_ids = {id(p) for inner in (part, *holders) for p in inner._parameters.values()}
    new_layers: list[tuple[_ProductLayer, str]] = []
    places_of = []
    for place in places:
        layer = "" if place is None else place.layer or _layer_for(part, place, new_layers)
        places_of.append(_place_of(place, layer, paths, local_ids))
    part.product_places = tuple(places_of)
    _demote(part, demoted_ids)
    for holder in holders:
        if _demote(holder, demoted_ids):
            holder.product_places = (Place(""),)
    _redirect(part)

    def restore() -> None:
        for inner, state in states:
            vars(inner).clear()
            vars(inner).update(state)

    return restore


def _state(part: nn.Module) -> dict[str, Any]:
    """The attributes of a module that rewriting changes, with copies of its tables."""
    tables = {table: dict(getattr(part, table)) for table in ("_parameters", "_buffers", "_modules")}
    return {**vars(part), **tables}


def _demote(part: nn.Module, ids: set[int]) -> bool:
    """Turn these parameters of a module into buffers, in place; returns whether it has any of them."""
    parameters = {key: parameter for key, parameter in part._parameters.items() if parameter is not None and id(parameter) in ids}
    for key, parameter in parameters.items():
        del part._parameters[key]
        part.register_buffer(key, parameter.detach().clone())  # the forward method may also read it for something else
    return bool(parameters)


def _place_of(place: _ProductLayer | None, layer: str, paths: Mapping[int, str], local_ids: Collection[int]) -> Place:
    """The place of a product, with the path of its weight where that is a parameter.

    Args:
        place: the product and its layer; None where the function itself computes the product.
        layer: name of the layer.
        paths: id of a parameter inside the module -> its path.
        local_ids: ids of the parameters of the module itself and of modules inside it that are never called.
    """
    if place is None:
        return Place("")
    product, weight_path = place.product, ""
    if isinstance(product.weight, nn.Parameter):
        key = id(product.weight)
        weight_path = paths[key] if not place.layer and key in paths and key in local_ids else f"{layer}.weight"
    return Place(layer, product.function, tuple(product.weight.shape), product.settings, weight_path)


def _layer_for(part: nn.Module, place: _ProductLayer, new_layers: list[tuple[_ProductLayer, str]]) -> str:
    """Name of the layer that computes a product: an earlier one for the same weight, or a new one."""
    product, origin = place.product, {id(p) for p in place.parameters}
    for earlier, name in new_layers:
        other = earlier.product
        same = other.layer_type is product.layer_type and other.settings == product.settings
        same = same and {id(p) for p in earlier.parameters} == origin
        if same and _equal(other.weight, product.weight) and _equal(other.bias, product.bias):
            return name
    name = _add_layer(part, product)
    new_layers.append((place, name))
    return name


def _whole_parameter(weight: Tensor) -> Tensor:
    """The parameter that a weight views, where it views all of it in the same order; else the weight."""
    base = weight._base
    if isinstance(base, nn.Parameter) and base.shape == weight.shape and base.stride() == weight.stride():
        return base
    return weight


def _add_layer(part: nn.Module, product: Product) -> str:
    """Add a layer that computes a product to a module; returns its name there."""
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
    names = set(dir(part))
    name = next(name for name in (base, *(f"{base}_{i}" for i in range(2, 10_000))) if name not in names)
    part.add_module(name, layer.eval())
    return name


def _redirect(part: nn.Module) -> None:
    """Give a module a forward method whose products its layers compute; a deep copy of the module copies the method too."""
    own = part.__dict__.get("forward")
    method = type(part).forward if own is None else own.__func__

    @functools.wraps(method)
    def forward(self: nn.Module, *args: Any, **keywords: Any) -> Any:
        with ProductRedirection(self):
            return method(self, *args, **keywords)

    part.forward = types.MethodType(forward, part)
