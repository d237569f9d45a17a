# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportReturnType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""A torch module seen as layers: their order, layout, multiply-accumulates, and which weights are left alone and why."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.models.torch.calling import flattened, hooked, outputs
from dyncompress.models.torch.recurrent import RecurrentWeight
from dyncompress.types import Batch, Layer
from dyncompress.types.network import WITHOUT_INPUTS

Weighted = Any  # a module that `kind_of` names: torch's annotations don't say what its attributes are

# Exact classes come before their relatives: isinstance is asked in this order.
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
    """The kind of a module whose weight can be compressed; empty: it can't.

    GPT-2's `Conv1D` of the transformers package is a linear layer that stores its weight as (in, out); it is told by its
    name and its attribute, so that the package needn't be there.
    """
    if is_conv1d_of_transformers(module):
        return "linear"
    if module.__dict__.get("product_places"):  # a layer below it holds the weight (`torch_plain_layers`)
        return ""
    return next((kind for cls, kind in _KINDS if isinstance(module, cls)), "")


def has_own_forward(module: nn.Module) -> bool:
    """Whether a module with a kind computes something else than torch's layer of that kind, or may do so."""
    cls = next((cls for cls, _ in _KINDS if isinstance(module, cls)), None)
    if cls is None or is_conv1d_of_transformers(module):
        return False
    return any(_changed(module, cls, name) for name in ("forward", "_conv_forward")) or "weight" not in module._parameters


def _changed(module: nn.Module, cls: type[nn.Module], method: str) -> bool:
    """Whether a module has another method of this name than torch's class."""
    return method in vars(module) or getattr(type(module), method, None) is not getattr(cls, method, None)


def is_conv1d_of_transformers(module: nn.Module) -> bool:
    """Whether this is GPT-2's linear layer, weight `(in, out)`."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def has_inputs(module: nn.Module) -> bool:
    """Whether the inputs that the weight multiplies can be observed, as `Layer.has_inputs` tells of a layer."""
    return kind_of(module) not in WITHOUT_INPUTS


def groups_of(module: nn.Module) -> int:
    """Convolution groups; 1 for anything else."""
    return int(getattr(module, "groups", 1))


def canonical(module: nn.Module, weight: Tensor | None = None) -> Tensor:
    """The weight as `(out, in / groups, *kernel)`: a view where the module's own layout allows it.

    Args:
        module: a module that `kind_of` names.
        weight: a tensor in the module's own layout; None: its weight.
    """
    own = module.weight if weight is None else weight
    if kind_of(module).startswith("conv_transpose"):
        groups = groups_of(module)
        split = own.reshape(groups, own.shape[0] // groups, *own.shape[1:]).transpose(1, 2)
        return split.reshape(-1, *split.shape[2:])
    return own.t() if is_conv1d_of_transformers(module) else own


def stored(module: nn.Module, weight: Tensor) -> Tensor:
    """The inverse of `canonical`: a canonical weight in the module's own layout."""
    if kind_of(module).startswith("conv_transpose"):
        groups = groups_of(module)
        split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2)
        return split.reshape(-1, *split.shape[2:])
    return weight.t() if is_conv1d_of_transformers(module) else weight


def channel_axis(module: nn.Module, output: Tensor) -> int:
    """The axis of the layer's output that counts its output channels."""
    return 1 if kind_of(module).startswith("conv") else output.ndim - 1


@dataclass
class Trace:
    """What one forward pass showed.

    Attributes:
        layers: all layers in forward order, those never called last.
        modules: layer name -> name of the module that owns it, for layers that can be compressed.
        calls: layer name -> how often it is called in a forward pass.
        users: layer name -> modules that share its weight, itself included.
        largest: numbers in the largest output of a layer, one example.
        activations: numbers in all layers' outputs together, one example.
    """

    layers: list[Layer] = field(default_factory=list)
    modules: dict[str, str] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    users: dict[str, tuple[str, ...]] = field(default_factory=dict)
    largest: int = 1
    activations: int = 1


def used_once(module: nn.Module, trace: Trace, name: str) -> bool:
    """Whether a layer's weight stands for one use alone, with inputs to be observed: it is called once a pass and not shared."""
    if name not in trace.modules or trace.calls.get(name, 0) != 1 or len(trace.users[name]) > 1:
        return False
    return has_inputs(module.get_submodule(trace.modules[name]))


def compressible(module: nn.Module) -> dict[str, nn.Module]:
    """Module name -> module, for every module with a kind; a module used under two names appears once."""
    return {name: m for name, m in module.named_modules() if kind_of(m) and isinstance(getattr(m, "weight", None), Tensor)}


def traced(module: nn.Module, example: Batch, names: Sequence[str]) -> Trace:
    """The layers, by one forward pass with hooks."""
    candidates = compressible(module)
    owners = _owners(candidates, module)
    n = len(example[names[0]])
    order: dict[str, int] = {}
    calls: dict[str, int] = {}
    macs: dict[str, float] = {}
    sizes: list[int] = [1]
    opaque: set[str] = set()

    def seen(name: str, count: float, size: int) -> None:
        """Note one call of a layer."""
        order.setdefault(name, len(order))
        calls[name] = calls.get(name, 0) + 1
        macs[name] = macs.get(name, 0.0) + count / n
        sizes.append(-(-size // n))

    def hook(name: str, layer: nn.Module, args: tuple, output: Any) -> None:
        tensor = flattened(output)[0]
        if not _multiplies_its_input(layer, args, output):
            opaque.add(name)
        seen(name, _positions(layer, args, tensor) * layer.weight.numel(), tensor.numel())

    handles = [m.register_forward_hook(lambda m, a, o, name=name: hook(name, m, a, o)) for name, m in candidates.items()]
    others = {
        name: m
        for name, m in module.named_modules()
        if name not in candidates and isinstance(m, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention)
    }
    handles += [m.register_forward_hook(lambda m, a, o, name=name: seen(name, _steps(a), 1)) for name, m in others.items()]
    with hooked(handles):
        outputs(module, example, names)
    trace = Trace(calls=calls, largest=max(sizes), activations=sum(sizes))
    found = [*_weights(candidates, owners, calls, macs, trace, opaque), *_parameters(module, candidates, macs)]
    trace.layers = sorted(found, key=lambda layer: order.get(_owner_called(layer.name, order), len(order)))
    return trace


def _owner_called(name: str, order: Mapping[str, int]) -> str:
    """The called module that a layer's name belongs to: itself, or the one that owns the parameter."""
    return name if name in order else name.rpartition(".")[0]


def _positions(layer: nn.Module, args: tuple, output: Tensor) -> float:
    """Positions at which the whole weight is multiplied, over the batch."""
    kind = kind_of(layer)
    if kind == "embedding":
        return 0
    if kind.startswith("conv_transpose") and args:
        return args[0].numel() / args[0].shape[1]
    return output.numel() / output.shape[channel_axis(layer, output)]


def _multiplies_its_input(layer: nn.Module, args: tuple, output: Any) -> bool:
    """Whether a layer called with one tensor returned what torch's layer of its kind returns for it."""
    if kind_of(layer) == "embedding" or not has_own_forward(layer):
        return True
    cls = next(cls for cls, _ in _KINDS if isinstance(layer, cls))
    known = "weight" in {**layer._parameters, **layer._buffers} and not _changed(layer, cls, "_conv_forward")
    if not known or len(args) != 1 or not isinstance(output, Tensor):
        return False
    plain = cls.forward(layer, args[0])
    return plain.shape == output.shape and torch.allclose(plain, output, rtol=1e-4, atol=1e-6 * float(plain.abs().max()))


def _steps(args: tuple) -> float:
    """Positions of a recurrent or attention module's input, over the batch."""
    inputs = flattened(args)
    return inputs[0].numel() / inputs[0].shape[-1] if inputs else 0


def _owners(candidates: Mapping[str, nn.Module], module: nn.Module) -> dict[int, list[str]]:
    """id of a weight -> the modules that use it. A linear user comes first: it computes, an embedding only looks up."""
    owners: dict[int, list[str]] = {}
    for name, layer in candidates.items():
        owners.setdefault(id(layer.weight), []).append(name)
    for users in owners.values():
        users.sort(key=lambda name: kind_of(candidates[name]) == "embedding")
    return owners


def _weights(
    candidates: Mapping[str, nn.Module],
    owners: Mapping[int, list[str]],
    calls: Mapping[str, int],
    macs: Mapping[str, float],
    trace: Trace,
    opaque: set[str],
) -> Iterator[Layer]:
    """One layer for each distinct weight of a compressible module."""
    for users in owners.values():
        users = sorted(users, key=lambda name: name not in calls)
        name, layer = users[0], candidates[users[0]]
        owner = name.rpartition(".")[0] if kind_of(layer) == "recurrent" else name
        trace.users[name] = tuple(users)
        layouts = {tuple(canonical(candidates[user]).shape) for user in users}
        reason = "" if owner in calls else "never called in the forward pass (unused, or its weight is read by another module)"
        if len(layouts) > 1:
            reason = f"its weight is shared by {' and '.join(users)} in different layouts"
        if not reason and opaque.intersection(users):
            reason = "its forward method isn't torch's, and what its weight multiplies there can't be told"
        if not reason:
            trace.modules[name] = name
        shape = tuple(int(s) for s in canonical(layer).shape)
        total = round(
            sum(macs.get(user, 0.0) for user in users) if owner == name else macs.get(owner, 0.0) * layer.weight.numel()
        )
        yield Layer(name, kind_of(layer), shape, total, groups_of(layer), left_alone=reason, fixed_channels=reason)


def _parameters(module: nn.Module, candidates: Mapping[str, nn.Module], macs: Mapping[str, float]) -> Iterator[Layer]:
    """Parameters with at least two axes longer than 1 that belong to no compressible module: counted, left alone."""
    seen = {id(p) for layer in candidates.values() for p in layer.parameters(recurse=False)}
    for owner_name, owner in module.named_modules():
        if owner_name in candidates:
            continue
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in seen or sum(size > 1 for size in parameter.shape) < 2:
                continue
            seen.add(id(parameter))
            kind = type(owner).__name__
            reason = f"a parameter of {kind}, which isn't a convolution, linear or embedding layer"
            full = f"{owner_name}.{name}" if owner_name else name
            count = round(macs.get(owner_name, 0.0) * parameter.numel())
            yield Layer(full, kind, tuple(parameter.shape), count, left_alone=reason, fixed_channels=reason)


def parameter_of(module: nn.Module, layer: Layer) -> Tensor:
    """The weight of any layer, left alone or not, in canonical layout where it has one."""
    try:
        owner = module.get_submodule(layer.name)
    except AttributeError:
        return module.get_parameter(layer.name)
    return canonical(owner)


def refuse_bad_values(module: nn.Module) -> None:
    """Every parameter must hold finite numbers, and no buffer NaN; a buffer may be infinite: masks of attention are, and limits.

    Raises:
        InvalidRequest: the name of the first that doesn't.
        Unsupported: a part of the model is TorchScript, or a parameter's storage isn't a plain array.
    """
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            where = f"part '{name}' of the model" if name else "the model"
            raise Unsupported(f"{where} is TorchScript, whose layers can't be edited; give the module that it was made of.")
        if "FakeQuant" in type(part).__name__:
            raise Unsupported(
                f"layer '{name}' simulates quantization ({type(part).__name__}); replace such layers by nn.Identity(): give "
                "the float model, which is quantized here."
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
                raise InvalidRequest(f"{_place(kind, name)} holds {count} {what} values; load a sound checkpoint.")


def _refuse_storage(kind: str, name: str, tensor: Tensor) -> None:
    """Refuse what holds no numbers, or holds them otherwise than an array does."""
    if is_lazy(tensor):
        raise InvalidRequest(f"{_place(kind, name)} has no shape yet; run the model once on an example, so that it gets one.")
    if tensor.is_meta:
        raise InvalidRequest(f"{_place(kind, name)} is on the meta device, without numbers; load the model's weights first.")
    if tensor.layout != torch.strided:
        raise Unsupported(f"{_place(kind, name)} is stored as {tensor.layout}; replace it by its to_dense().")
    if tensor.is_quantized:
        raise Unsupported(f"{_place(kind, name)} is quantized already; give the float model that it was made of.")


def _place(kind: str, name: str) -> str:
    """How a message about a tensor begins."""
    return f"layer '{name.rpartition('.')[0] or name}': {kind} '{name}'"


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """sha256 over the sorted names of (name, shape, float32 little-endian bytes)."""
    total = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].detach().cpu().float().contiguous().numpy().astype("<f4", copy=False)
        total.update(f"{name}\0{array.shape}\0".encode())
        total.update(array.tobytes())
    return total.hexdigest()


# ---------------------------------------------------------------- writing
@torch.no_grad()
def set_weight(name: str, module: nn.Module, weight: Any, bias: Any = None) -> None:
    """Write a canonical weight, and the bias if given, into a module.

    Raises:
        InvalidRequest: a shape doesn't fit, or a value isn't finite.
    """
    tensor = _fitting(name, "weight", weight, canonical(module))
    module.weight.copy_(stored(module, tensor))
    if bias is not None:
        _set_bias(module, _fitting(name, "bias", bias, canonical(module).flatten(1)[:, 0]))


@torch.no_grad()
def set_affine(name: str, module: nn.Module, gain: Any, shift: Any) -> None:
    """Multiply the output channels of a module by `gain` and add `shift`; a bias is created where there was none.

    Raises:
        InvalidRequest: a shape doesn't fit, a value isn't finite, or the module has no affine output.
    """
    if kind_of(module) == "embedding":
        raise InvalidRequest(f"layer '{name}' is an embedding: its output channels have no gain and shift.")
    weight = canonical(module)
    rows = weight.flatten(1)[:, 0]
    gain, shift = _fitting(name, "gain", gain, rows), _fitting(name, "shift", shift, rows)
    module.weight.copy_(stored(module, weight * gain.view(-1, *[1] * (weight.ndim - 1))))
    bias = module.bias
    _set_bias(module, shift if bias is None else bias * gain + shift)


def _fitting(name: str, what: str, value: Any, like: Tensor) -> Tensor:
    """`value` as a tensor on the device and in the dtype of `like`.

    Raises:
        InvalidRequest: another shape, or values that aren't finite.
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
    """Write a bias; a parameter is made where there was none."""
    if getattr(module, "bias", None) is None:
        module.bias = nn.Parameter(bias.clone(), requires_grad=module.weight.requires_grad)
    else:
        module.bias.copy_(bias)
