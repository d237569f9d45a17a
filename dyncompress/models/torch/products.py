# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportPrivateImportUsage=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""The linear maps, convolutions and look-ups that forward methods compute: seen in a run, and handed to layers of their own.

A forward method multiplies its input by a weight through a function (`functional.conv2d` and its kin), also where it first
computes that weight, masks its input, or normalises what comes out. `watched_run` tells for every module which products its own
forward method computes; `Redirected` gives them to plain layers: what is observed at such a layer is what its weight multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dyncompress.models.torch.calling import call, device_inputs, restoring_buffers, temporary_hooks
from dyncompress.models.torch.layers import compressible_modules
from dyncompress.types import Batch

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
# function -> (torch's layer, axes of the kernel, parameters of the function in order)
_FUNCTIONS: dict[Callable, tuple[type[nn.Module], int, tuple[str, ...]]] = {
    functional.linear: (nn.Linear, 0, ("input", "weight", "bias")),
    functional.embedding: (nn.Embedding, 0, ("input", "weight")),
    functional.conv1d: (nn.Conv1d, 1, _CONVOLUTION),
    functional.conv2d: (nn.Conv2d, 2, _CONVOLUTION),
    functional.conv3d: (nn.Conv3d, 3, _CONVOLUTION),
    functional.conv_transpose1d: (nn.ConvTranspose1d, 1, _TRANSPOSED),
    functional.conv_transpose2d: (nn.ConvTranspose2d, 2, _TRANSPOSED),
}
_MATRIX_PRODUCTS = (torch.matmul, Tensor.matmul, torch.mm, Tensor.mm)
_DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}

_INNERMOST: ContextVar[Any] = ContextVar("_INNERMOST", default=None)  # the block of the module that is running

Settings = tuple[tuple[str, Any], ...]  # stride, padding and so on by name, sorted: one number an axis of the kernel


@dataclass(frozen=True)
class Product:
    """One call of a function that multiplies an input by a weight, or looks up its rows.

    Attributes:
        function: one of torch's.
        input: what the weight multiplies.
        weight, bias: in the layout of torch's layer.
        settings: of a convolution.
    """

    function: Callable
    input: Tensor = field(repr=False)
    weight: Tensor = field(repr=False)
    bias: Tensor | None = field(repr=False)
    settings: Settings

    @property
    def layer_type(self) -> type[nn.Module]:
        """The class of torch's layer that computes it."""
        return nn.Linear if self.function in _MATRIX_PRODUCTS else _FUNCTIONS[self.function][0]


@dataclass(frozen=True)
class Place:
    """Where a product of a forward method is computed.

    Attributes:
        layer: name of the layer below the module; empty: the function itself does.
        function, shape, settings: the product's.
        held: path below the module of the tensor that the weight is; empty: it is computed in every call.
    """

    layer: str
    function: Callable | None = None
    shape: tuple[int, ...] = ()
    settings: Settings = ()
    held: str = ""

    def fits(self, product: Product) -> bool:
        """Whether a product may be the one that was seen at this place."""
        if not self.layer or product.function is not self.function:
            return False
        # a trace takes the sizes for values that it would freeze, and runs on the examples that were seen
        return torch.jit.is_tracing() or tuple(product.weight.shape) == self.shape


def product_of(function: Callable, args: tuple, keywords: Mapping[str, Any]) -> Product | None:
    """The product that a call of a torch function computes; None for any other function, or an input without a batch axis."""
    if function in _MATRIX_PRODUCTS:
        left, right = [*args, *keywords.values()][:2]
        return Product(function, left, right.mT, None, ()) if right.ndim == 2 and left.ndim > 1 else None
    if function not in _FUNCTIONS:
        return None
    _, axes, names = _FUNCTIONS[function]
    given = {**dict(zip(names, args, strict=False)), **keywords}
    if axes and given["input"].ndim != axes + 2:
        return None
    if given.get("max_norm") is not None:  # writes into the weight
        return None
    settings = {name: _each(given.get(name, _DEFAULTS[name]), axes, name) for name in names[3:]}
    return Product(function, given["input"], given["weight"], given.get("bias"), tuple(sorted(settings.items())))


def _each(value: Any, axes: int, name: str) -> Any:
    """A setting as one number an axis; groups and the names of paddings as they are."""
    if name == "groups" or isinstance(value, str):
        return value
    numbers = tuple(value) if isinstance(value, Sequence) else (value,)
    return tuple(int(n) for n in (numbers * axes if len(numbers) == 1 else numbers))


def settings_of(layer: nn.Module) -> Settings:
    """The settings with which one of torch's layers calls its function; paddings other than zeros are made before."""
    names = next((names[3:] for cls, _, names in _FUNCTIONS.values() if isinstance(layer, cls)), ())
    found = {name: getattr(layer, name) for name in names}
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        found["padding"] = (0,) * len(layer.kernel_size)
    return tuple(sorted(found.items()))


# ---------------------------------------------------------------- seen in a run
@dataclass
class WatchedRun:
    """What one forward pass showed.

    Attributes:
        products: module -> the products that its own forward method computes, in order; those of its children are theirs.
        calls: module -> positional and keyword arguments of each call.
    """

    products: dict[str, list[Product]] = field(default_factory=dict)
    calls: dict[str, list[tuple[tuple, dict[str, Any]]]] = field(default_factory=dict)


class _Watch(TorchFunctionMode):
    """Notes each product, and the module whose forward method computes it."""

    def __init__(self, seen: WatchedRun) -> None:
        """Start outside of all modules."""
        super().__init__()
        self.seen = seen
        self.inside: list[str] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Note the call, and run it."""
        product = product_of(func, args, kwargs or {})
        if product is not None and self.inside:
            self.seen.products.setdefault(self.inside[-1], []).append(product)
        return func(*args, **(kwargs or {}))


def watched_run(module: nn.Module, example: Batch, names: Sequence[str]) -> WatchedRun:
    """One forward pass with its products and calls."""
    seen = WatchedRun()
    watch = _Watch(seen)

    def enter(name: str, args: tuple, keywords: dict) -> None:
        watch.inside.append(name)
        seen.calls.setdefault(name, []).append((args, keywords))

    handles = []
    for name, part in module.named_modules():
        look = lambda _m, a, k, name=name: enter(name, a, k)  # noqa: E731
        handles.append(part.register_forward_pre_hook(look, with_kwargs=True))
        handles.append(part.register_forward_hook(lambda _m, _a, _o: _leave(watch.inside), always_call=True))
    inputs = device_inputs(example, module, names)
    with restoring_buffers(module), temporary_hooks(handles), watch:
        call(module, inputs, names)
    return seen


def _leave(inside: list[str]) -> None:
    """A module's forward method ends."""
    inside.pop()


# ---------------------------------------------------------------- handed to layers
class ProductRedirection(TorchFunctionMode):
    """Inside this block, the products of a module's own forward method are computed by the layers of `module.product_places`.

    A product is told by its weight, where that is a tensor that the module holds. Others are told by their number, the weights of
    layers below the module left out: these are computed by layers already. The innermost block alone counts: what a module below
    computes is its own.
    """

    def __init__(self, module: nn.Module) -> None:
        """Start with the first product."""
        super().__init__()
        self.module, self.number = module, 0
        places: tuple[Place, ...] = module.product_places
        self.numbered = [place for place in places if not place.held]
        self.held: dict[int, list[Place]] = {}
        for place in places:
            if place.held:
                self.held.setdefault(id(_tensor_at(module, place.held)), []).append(place)
        self.others = {id(w) for w in weights_below(module, {place.layer for place in places})}
        self.token: Token | None = None

    def __enter__(self) -> ProductRedirection:
        """Become the innermost block."""
        self.token = _INNERMOST.set(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Give the place back."""
        super().__exit__(*error)
        _INNERMOST.reset(self.token)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Hand a product on, run everything else."""
        product = product_of(func, args, kwargs or {})
        if product is None or _INNERMOST.get() is not self or id(product.weight) in self.others:
            return func(*args, **(kwargs or {}))
        place = self._place(product)
        if place is None:
            return func(*args, **(kwargs or {}))
        layer = self.module.get_submodule(place.layer)
        if product.settings == place.settings:
            return layer(product.input)
        return func(product.input, layer.weight, layer.bias, **dict(product.settings))

    def _place(self, product: Product) -> Place | None:
        """Where a product is computed; None: by its function."""
        known = [place for place in self.held.get(id(product.weight), ()) if place.function is product.function]
        if known:
            return next((place for place in known if place.settings == product.settings), known[0])
        if not self.numbered:
            return None
        place = self.numbered[self.number % len(self.numbered)]  # a loop over a longer sequence repeats them
        self.number += 1
        return place if place.fits(product) else None


def _tensor_at(module: nn.Module, path: str) -> Tensor | None:
    """The tensor of this dotted name below a module; None where its module has none any more."""
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name, None)


def weights_below(module: nn.Module, without: set[str]) -> list[Tensor]:
    """Weights of the layers below a module, but for those named."""
    return [layer.weight for name, layer in compressible_modules(module).items() if name and name not in without]
