# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportReturnType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""The layers of a torch module: their kinds, the layout of their weights, and how a weight or bias is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.models.torch.recurrent import RecurrentWeight
from dyncompress.types import Layer
from dyncompress.types.network import WITHOUT_INPUTS

Weighted = Any  # a module with a kind; torch annotates every attribute of a module as `Tensor | Module`

# The first class that a module is an instance of gives its kind.
_KINDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.ConvTranspose1d, "conv_transpose1d"),
    (nn.ConvTranspose2d, "conv_transpose2d"),
    (nn.Linear, "linear"),
    (nn.Embedding, "embedding"),
    (RecurrentWeight, "recurrent"),
)


def kind_of(module: nn.Module) -> str:
    """The kind of a module whose weight can be compressed, e.g. "conv2d"; empty for a module that can't be compressed.

    GPT-2's `Conv1D` of the transformers package is a linear layer that stores its weight as `(in, out)`. Its class name and
    attribute identify it, so that the package needn't be installed.
    """
    if is_conv1d_of_transformers(module):
        return "linear"
    if module.__dict__.get("product_places"):  # a layer below it holds the weight (plain_layers.py)
        return ""
    return next((kind for cls, kind in _KINDS if isinstance(module, cls)), "")


def has_own_forward(module: nn.Module) -> bool:
    """Whether a module of a torch layer's class may compute something else than that layer: it overrides a forward method, or its
    weight isn't a parameter."""
    cls = torch_class(module)
    if cls is None or is_conv1d_of_transformers(module):
        return False
    return any(overrides(module, cls, name) for name in ("forward", "_conv_forward")) or "weight" not in module._parameters


def torch_class(module: nn.Module) -> type[nn.Module] | None:
    """The torch layer that a module is an instance of; None where it is of another class."""
    return next((cls for cls, _ in _KINDS if isinstance(module, cls)), None)


def overrides(module: nn.Module, cls: type[nn.Module], method: str) -> bool:
    """Whether a module's method of this name differs from that of torch's class."""
    return method in vars(module) or getattr(type(module), method, None) is not getattr(cls, method, None)


def is_conv1d_of_transformers(module: nn.Module) -> bool:
    """Whether a module is GPT-2's linear layer, which stores its weight as `(in, out)`."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def has_inputs(module: nn.Module) -> bool:
    """Whether the inputs that the weight multiplies can be observed; the same answer as `Layer.has_inputs`."""
    return kind_of(module) not in WITHOUT_INPUTS


def groups_of(module: nn.Module) -> int:
    """Number of groups of a convolution; 1 for every other module."""
    return int(getattr(module, "groups", 1))


def canonical(module: nn.Module, weight: Tensor | None = None) -> Tensor:
    """A weight in the canonical layout `(out, in / groups, *kernel)`: a view where the module's own layout allows it.

    Args:
        module: a module with a kind.
        weight: a tensor in the module's own layout; None for the module's weight.

    Example:
        >>> tuple(canonical(nn.ConvTranspose2d(4, 6, 3)).shape)
        (6, 4, 3, 3)
    """
    own = module.weight if weight is None else weight
    if kind_of(module).startswith("conv_transpose"):
        groups = groups_of(module)
        split = own.reshape(groups, own.shape[0] // groups, *own.shape[1:]).transpose(1, 2)
        return split.reshape(-1, *split.shape[2:])
    return own.t() if is_conv1d_of_transformers(module) else own


def native_layout(module: nn.Module, weight: Tensor) -> Tensor:
    """A weight in the module's own layout, from the canonical layout: the inverse of `canonical`."""
    if kind_of(module).startswith("conv_transpose"):
        groups = groups_of(module)
        split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2)
        return split.reshape(-1, *split.shape[2:])
    return weight.t() if is_conv1d_of_transformers(module) else weight


def channel_axis(module: nn.Module, output: Tensor) -> int:
    """The axis of a layer's output that holds its output channels."""
    return 1 if kind_of(module).startswith("conv") else output.ndim - 1


def compressible_modules(module: nn.Module) -> dict[str, nn.Module]:
    """Module name -> module, for every module with a kind and a weight; a module with two names appears once."""
    return {name: m for name, m in module.named_modules() if kind_of(m) and isinstance(getattr(m, "weight", None), Tensor)}


def parameter_of(module: nn.Module, layer: Layer) -> Tensor:
    """The weight of any layer, compressible or not; in canonical layout where the layer is a module."""
    try:
        owner = module.get_submodule(layer.name)
    except AttributeError:
        return module.get_parameter(layer.name)
    return canonical(owner)


def refuse_bad_values(module: nn.Module) -> None:
    """Refuse parameters that aren't finite and buffers that hold NaN. Buffers may be infinite, as attention masks are.

    Raises:
        InvalidRequest: a parameter or buffer has no numbers, or holds values that aren't allowed; names the first one.
        Unsupported: a part of the model is TorchScript or simulates quantization, or a tensor isn't stored as a dense array.
    """
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            where = f"part '{name}' of the model" if name else "the model"
            raise Unsupported(f"{where} is TorchScript, whose layers can't be edited; give the module that it was made from.")
        if "FakeQuant" in type(part).__name__:
            raise Unsupported(
                f"layer '{name}' simulates quantization ({type(part).__name__}); replace such layers by nn.Identity(): "
                "dyncompress takes the float model and quantizes it."
            )
    for kind, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for name, tensor in tensors:
            _refuse_storage(kind, name, tensor)
            if not tensor.is_floating_point():
                continue
            with torch.no_grad():
                bad = ~torch.isfinite(tensor) if kind == "parameter" else torch.isnan(tensor)
                count = int(bad.sum())
            if count:
                what = "NaN or infinite" if kind == "parameter" else "NaN"
                raise InvalidRequest(f"{_tensor_label(kind, name)} holds {count} {what} values; load a checkpoint without them.")


def _refuse_storage(kind: str, name: str, tensor: Tensor) -> None:
    """Refuse a tensor without numbers, and one that isn't stored as a dense array of numbers."""
    if is_lazy(tensor):
        raise InvalidRequest(f"{_tensor_label(kind, name)} has no shape yet; run the model once on an example first.")
    if tensor.is_meta:
        raise InvalidRequest(f"{_tensor_label(kind, name)} is on the meta device and holds no numbers; load the weights first.")
    if tensor.layout != torch.strided:
        raise Unsupported(f"{_tensor_label(kind, name)} is stored as {tensor.layout}; replace it by its to_dense().")
    if tensor.is_quantized:
        raise Unsupported(f"{_tensor_label(kind, name)} is quantized already; give the float model that it was made from.")


def _tensor_label(kind: str, name: str) -> str:
    """The beginning of a message about a parameter or buffer."""
    return f"layer '{name.rpartition('.')[0] or name}': {kind} '{name}'"


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """sha256 over name, shape and little-endian float32 bytes of every tensor, in the order of the sorted names."""
    total = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].detach().cpu().float().contiguous().numpy().astype("<f4", copy=False)
        total.update(f"{name}\0{array.shape}\0".encode())
        total.update(array.tobytes())
    return total.hexdigest()


# ---------------------------------------------------------------- writing
@torch.no_grad()
def set_weight(name: str, module: nn.Module, weight: Any, bias: Any = None) -> None:
    """Give a module another weight, in canonical layout, and another bias if one is given.

    Args:
        name: of the layer, for messages.
        module: the layer's module.
        weight: `(out, in / groups, *kernel)`.
        bias: `[out]`; None leaves the bias as it is.

    Raises:
        InvalidRequest: a shape doesn't fit, or a value isn't finite.
    """
    tensor = _fitting_tensor(name, "weight", weight, canonical(module))
    _replace_values(module.weight, native_layout(module, tensor))
    if bias is not None:
        _set_bias(module, _fitting_tensor(name, "bias", bias, canonical(module).flatten(1)[:, 0]))


@torch.no_grad()
def set_affine(name: str, module: nn.Module, gain: Any, shift: Any) -> None:
    """Multiply the output channels of a module by `gain` and add `shift`; a module without a bias gets one.

    Args:
        name: of the layer, for messages.
        module: the layer's module.
        gain, shift: `[out]`.

    Raises:
        InvalidRequest: a shape doesn't fit, a value isn't finite, or the module is an embedding.
    """
    if kind_of(module) == "embedding":
        raise InvalidRequest(f"layer '{name}' is an embedding, which can't take a gain and a shift; set its weight instead.")
    weight = canonical(module)
    rows = weight.flatten(1)[:, 0]
    gain, shift = _fitting_tensor(name, "gain", gain, rows), _fitting_tensor(name, "shift", shift, rows)
    _replace_values(module.weight, native_layout(module, weight * gain.view(-1, *[1] * (weight.ndim - 1))))
    bias = module.bias
    _set_bias(module, shift if bias is None else bias * gain + shift)


def _fitting_tensor(name: str, what: str, value: Any, like: Tensor) -> Tensor:
    """`value` as a tensor on the device, in the dtype and of the shape of `like`.

    Raises:
        InvalidRequest: the shapes differ, or a value isn't finite; names the layer and `what`.
    """
    tensor = torch.as_tensor(value).detach().to(like.device, like.dtype)
    if tensor.shape != like.shape:
        raise InvalidRequest(
            f"layer '{name}': the new {what} has shape {tuple(tensor.shape)}, the layer's is {tuple(like.shape)}."
        )
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidRequest(f"layer '{name}': the new {what} holds NaN or infinite values.")
    return tensor


def _set_bias(module: nn.Module, bias: Tensor) -> None:
    """Give a module another bias; a module without one gets a new parameter."""
    if getattr(module, "bias", None) is None:
        module.bias = nn.Parameter(bias.clone(), requires_grad=module.weight.requires_grad)
    else:
        _replace_values(module.bias, bias)


def _replace_values(parameter: Tensor, values: Tensor) -> None:
    """Give a parameter other values; what shares the old ones keeps them (`copying.sharing_copy`)."""
    parameter.data = values.detach().contiguous()
