# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportPrivateImportUsage=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Products of inputs and weights that forward methods compute through functions: recorded in a run, and redirected to layers.

A forward method may multiply its input by a weight through a function such as `functional.conv2d`, often after it computed that
weight or masked its input. `watched_run` records, for every module, the products (linear maps, convolutions and embedding
look-ups) of its own forward method. `ProductRedirection` lets plain layers compute them, so that a hook on such a layer observes
exactly what its weight multiplies.
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

_INNERMOST: ContextVar[Any] = ContextVar("_INNERMOST", default=None)  # the redirection of the running module

Settings = tuple[tuple[str, Any], ...]  # stride, padding, ... sorted by name, with one number for each axis of the kernel


@dataclass(frozen=True)
class Product:
    """One call of a function that multiplies an input by a weight, or looks up rows of the weight.

    Attributes:
        function: torch's function.
        input: the tensor that the weight multiplies.
        weight, bias: in the layout of torch's layer.
        settings: stride, padding and other settings of a convolution; empty for other products.
    """

    function: Callable
    input: Tensor = field(repr=False)
    weight: Tensor = field(repr=False)
    bias: Tensor | None = field(repr=False)
    settings: Settings

    @property
    def layer_type(self) -> type[nn.Module]:
        """torch's layer class for this product."""
        return nn.Linear if self.function in _MATRIX_PRODUCTS else _FUNCTIONS[self.function][0]


@dataclass(frozen=True)
class Place:
    """Which layer computes a product of a forward method.

    Attributes:
        layer: name of the layer inside the module; empty where the function itself computes the product.
        function, settings: of the product.
        shape: of the product's weight.
        weight_path: path inside the module of the tensor that is the weight; empty where every call computes the weight.
    """

    layer: str
    function: Callable | None = None
    shape: tuple[int, ...] = ()
    settings: Settings = ()
    weight_path: str = ""

    def fits(self, product: Product) -> bool:
        """Whether a product may be the one that was recorded at this place."""
        if not self.layer or product.function is not self.function:
            return False
        # A trace would treat the sizes as values to freeze, and it runs on the recorded examples anyway.
        return torch.jit.is_tracing() or tuple(product.weight.shape) == self.shape


def product_of(function: Callable, args: tuple, keywords: Mapping[str, Any]) -> Product | None:
    """The product that a call of a torch function computes; None for other functions, and for inputs without a batch axis."""
    if function in _MATRIX_PRODUCTS:
        left, right = [*args, *keywords.values()][:2]
        return Product(function, left, right.mT, None, ()) if right.ndim == 2 and left.ndim > 1 else None
    if function not in _FUNCTIONS:
        return None
    _, axes, names = _FUNCTIONS[function]
    arguments = {**dict(zip(names, args, strict=False)), **keywords}
    if axes and arguments["input"].ndim != axes + 2:
        return None
    if arguments.get("max_norm") is not None:  # it writes into the weight
        return None
    settings = {name: _per_axis(arguments.get(name, _DEFAULTS[name]), axes, name) for name in names[3:]}
    return Product(function, arguments["input"], arguments["weight"], arguments.get("bias"), tuple(sorted(settings.items())))


def _per_axis(value: Any, axes: int, name: str) -> Any:
    """A setting with one number for each axis; `groups` and padding names stay as they are."""
    if name == "groups" or isinstance(value, str):
        return value
    numbers = tuple(value) if isinstance(value, Sequence) else (value,)
    return tuple(int(n) for n in (numbers * axes if len(numbers) == 1 else numbers))


def settings_of(layer: nn.Module) -> Settings:
    """The settings with which torch's layer calls its function; paddings other than zeros are applied before the call."""
    names = next((names[3:] for cls, _, names in _FUNCTIONS.values() if isinstance(layer, cls)), ())
    settings = {name: getattr(layer, name) for name in names}
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        settings["padding"] = (0,) * len(layer.kernel_size)
    return tuple(sorted(settings.items()))


@dataclass
class WatchedRun:
    """The products and calls of one forward pass.

    Attributes:
        products: module -> the products that its own forward method computes, in order, without those of its children.
        calls: module -> positional and keyword arguments of each of its calls.
    """

    products: dict[str, list[Product]] = field(default_factory=dict)
    calls: dict[str, list[tuple[tuple, dict[str, Any]]]] = field(default_factory=dict)


class _Watch(TorchFunctionMode):
    """Records each product together with the module whose forward method computes it."""

    def __init__(self, run: WatchedRun) -> None:
        """Start outside of all modules."""
        super().__init__()
        self.run = run
        self.inside: list[str] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Record the product, and run the function."""
        product = product_of(func, args, kwargs or {})
        if product is not None and self.inside:
            self.run.products.setdefault(self.inside[-1], []).append(product)
        return func(*args, **(kwargs or {}))


def watched_run(module: nn.Module, example: Batch, names: Sequence[str]) -> WatchedRun:
    """Run one forward pass, and record its products and calls.

    Args:
        module: its buffers are restored.
        example: one batch by input name.
        names: input names, in order.
    """
    run = WatchedRun()
    watch = _Watch(run)

    def enter(name: str, args: tuple, keywords: dict) -> None:
        watch.inside.append(name)
        run.calls.setdefault(name, []).append((args, keywords))

    handles = []
    for name, part in module.named_modules():
        record = lambda _m, a, k, name=name: enter(name, a, k)  # noqa: E731
        handles.append(part.register_forward_pre_hook(record, with_kwargs=True))
        handles.append(part.register_forward_hook(lambda _m, _a, _o: _leave(watch.inside), always_call=True))
    inputs = device_inputs(example, module, names)
    with restoring_buffers(module), temporary_hooks(handles), watch:
        call(module, inputs, names)
    return run


def _leave(inside: list[str]) -> None:
    """Remove the module whose forward method ends."""
    inside.pop()


class ProductRedirection(TorchFunctionMode):
    """Context manager: the layers of `module.product_places` compute the products of the module's own forward method.

    A product whose weight is a tensor of the module is identified by that weight. Other products are identified by their number
    in the call. Products with weights of other layers inside the module don't count, since these layers compute them already.
    Only the innermost context is active, so that products of a child module belong to the child.
    """

    def __init__(self, module: nn.Module) -> None:
        """Start at the first product."""
        super().__init__()
        self.module, self.number = module, 0
        places: tuple[Place, ...] = module.product_places
        self.numbered = [place for place in places if not place.weight_path]
        self.by_weight: dict[int, list[Place]] = {}
        for place in places:
            if place.weight_path:
                self.by_weight.setdefault(id(_tensor_at(module, place.weight_path)), []).append(place)
        self.others = {id(w) for w in weights_below(module, {place.layer for place in places})}
        self.token: Token | None = None

    def __enter__(self) -> ProductRedirection:
        """Become the innermost context."""
        self.token = _INNERMOST.set(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Make the outer context the innermost again."""
        super().__exit__(*error)
        _INNERMOST.reset(self.token)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Redirect a product to its layer; run any other function."""
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
        """The place of a product; None where its function computes it."""
        candidates = [place for place in self.by_weight.get(id(product.weight), ()) if place.function is product.function]
        if candidates:
            return next((place for place in candidates if place.settings == product.settings), candidates[0])
        if not self.numbered:
            return None
        place = self.numbered[self.number % len(self.numbered)]  # a loop over a longer sequence repeats the products
        self.number += 1
        return place if place.fits(product) else None


def _tensor_at(module: nn.Module, path: str) -> Tensor | None:
    """The tensor with this dotted name inside a module; None where it was removed."""
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name, None)


def weights_below(module: nn.Module, without: set[str]) -> list[Tensor]:
    """Weights of the layers inside a module, except the layers in `without`."""
    return [layer.weight for name, layer in compressible_modules(module).items() if name and name not in without]
