# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Fold BatchNorm into the layer before it, and tell whether inputs look like what BatchNorm remembers.

In eval mode BatchNorm is y -> gamma (y - mean) / sqrt(var + eps) + beta, one affine map a channel, so a convolution or linear
layer before it can carry it: W' = g W, b' = g (b - mean) + beta, g = gamma / sqrt(var + eps). Exporters do the same; folding
here makes the weights that are measured and rounded the weights that are shipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dyncompress.models.torch.calling import EnoughError, outputs, private_copy, temporary_hooks, tensors_of
from dyncompress.models.torch.hooks import absorb
from dyncompress.models.torch.layers import canonical, compressible_modules, has_inputs, native_layout
from dyncompress.models.torch.rewriting import reference
from dyncompress.types import Batch

# A folded network may differ by float32 rounding through its depth, not more; a wrong fold is off by orders of magnitude.
_FOLD_TOLERANCE = 1e-4
# Inputs whose normalised distance to the remembered moments is above this are not preprocessed as in training. Measured on
# CIFAR ResNet-20 and -44: 0.25 when they are (0.37 on 16 images), 1.0 for images in [-1, 1], 1.6 for [0, 1], 63 for [0, 255].
_FOREIGN_DISTANCE = 0.6
# Examples that are enough to tell.
_LOOKED_AT = 256


@dataclass(frozen=True)
class FoldResult:
    """What folding did.

    Attributes:
        pairs: layer -> the BatchNorm it took in.
        notes: sentences about those that had to stay.
    """

    pairs: Mapping[str, str]
    notes: tuple[str, ...]


def norms_with_statistics(module: nn.Module) -> dict[str, _BatchNorm]:
    """BatchNorm modules that normalise by remembered statistics in eval mode."""
    return {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}


def pairs_of(module: nn.Module, example: Batch, names: Sequence[str]) -> dict[str, str]:
    """Layer -> BatchNorm for which one forward pass shows the layer's output object going into the BatchNorm.

    Each must be called exactly once, and share its weight with nobody.
    """
    layers, norms = compressible_modules(module), norms_with_statistics(module)
    uses: dict[int, int] = {}
    for layer in layers.values():
        uses[id(layer.weight)] = uses.get(id(layer.weight), 0) + 1
    made: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept alive, so that no other takes its id
    calls: dict[str, int] = {}
    pairs: dict[str, str] = {}

    def made_by(name: str, output: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        if isinstance(output, Tensor):
            made[id(output)] = (name, output)

    def taken_by(name: str, args: tuple) -> None:
        calls[name] = calls.get(name, 0) + 1
        producer = made.get(id(args[0])) if args else None
        if producer is not None:
            pairs[producer[0]] = name

    handles = [m.register_forward_hook(lambda _m, _a, o, name=name: made_by(name, o)) for name, m in layers.items()]
    handles += [m.register_forward_pre_hook(lambda _m, a, name=name: taken_by(name, a)) for name, m in norms.items()]
    with temporary_hooks(handles):
        outputs(module, example, names)

    def sound(layer: str, norm: str) -> bool:
        fits = canonical(layers[layer]).shape[0] == norms[norm].num_features and has_inputs(layers[layer])
        return fits and calls[layer] == 1 and calls[norm] == 1 and uses[id(layers[layer].weight)] == 1

    return {layer: norm for layer, norm in pairs.items() if sound(layer, norm)}


def fold(module: nn.Module, example: Batch, names: Sequence[str]) -> FoldResult:
    """Fold every pair that leaves the outputs as they are, in place; the others are undone and noted.

    All pairs are tried at once; only where the outputs then differ, one by one.
    """
    pairs = pairs_of(module, example, names)
    known = reference(module, example, names, _FOLD_TOLERANCE) if pairs else None
    if known is None:
        return FoldResult({}, ())
    undo = [_fold_pair(module, layer, norm) for layer, norm in pairs.items()]
    if known.holds():
        return FoldResult(pairs, ())
    for restore in reversed(undo):
        restore()
    kept, notes = {}, []
    for layer, norm in pairs.items():
        restore = _fold_pair(module, layer, norm)
        if known.holds():
            kept[layer] = norm
        else:
            restore()
            notes.append(f"BatchNorm '{norm}' stays: the output of '{layer}' is also used elsewhere, so it can't be folded.")
    return FoldResult(kept, tuple(notes))


def _fold_pair(module: nn.Module, layer_name: str, norm_name: str) -> Any:
    """Fold one pair in place; returns the function that undoes it."""
    layer, norm = module.get_submodule(layer_name), module.get_submodule(norm_name)
    old_weight, old_bias = layer.weight.detach().clone(), layer.bias
    gain, shift = affine_of(norm)
    weight = canonical(layer).detach().double()
    bias = torch.zeros_like(gain) if old_bias is None else old_bias.detach().double()
    new = native_layout(layer, weight * gain.view(-1, *[1] * (weight.ndim - 1)))
    with torch.no_grad():
        layer.weight.copy_(new)
    layer.bias = nn.Parameter((bias * gain + shift).to(layer.weight.dtype), requires_grad=layer.weight.requires_grad)
    _replace(module, norm_name, nn.Identity())

    def restore() -> None:
        with torch.no_grad():
            layer.weight.copy_(old_weight)
        layer.bias = old_bias
        _replace(module, norm_name, norm)

    return restore


def affine_of(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Gain and shift of a BatchNorm in eval mode, float64 `[channels]`."""
    mean, var = norm.running_mean.double(), norm.running_var.double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    gain = gamma / torch.sqrt(var + norm.eps)
    return gain, beta - mean * gain


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in another's place, under every name that the old one has."""
    old = module.get_submodule(name)
    for parent in module.modules():
        for key, child in list(parent.named_children()):
            if child is old:
                setattr(parent, key, new)


def distance_to_statistics(module: nn.Module, batches: Sequence[Batch], names: Sequence[str]) -> tuple[str, float]:
    """How far the inputs of the first BatchNorm lie from what it remembers, and its name.

    The distance is the root of the mean over channels of z^2 + log(s)^2, z the difference of the means in remembered standard
    deviations and s the ratio of the standard deviations; 0 for the training distribution itself. Only the first BatchNorm
    is read: deeper ones see the network's own drift.

    Args:
        module: in eval mode.
        batches: inputs by name.
        names: of the inputs.

    Returns:
        name and distance; ("", 0.0) for a model without BatchNorm.
    """
    norms = norms_with_statistics(module)
    sums: dict[str, list[Tensor]] = {}

    def look(name: str, norm: _BatchNorm, args: tuple, keywords: Mapping[str, Any]) -> None:
        """Add the moments of one normalisation's input."""
        x = tensors_of((args, keywords))[0].detach().double()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = x.numel() / x.shape[1]
        if not sums or name in sums:
            old = sums.setdefault(
                name, [torch.zeros(1).to(x), torch.zeros(norm.num_features).to(x), torch.zeros(norm.num_features).to(x)]
            )
            sums[name] = [old[0] + count, old[1] + x.sum(axes), old[2] + x.square().sum(axes)]
        raise EnoughError  # what comes behind the first one isn't read

    handles = [
        m.register_forward_pre_hook(lambda m, a, k, name=name: look(name, m, a, k), with_kwargs=True) for name, m in norms.items()
    ]
    seen = 0
    with temporary_hooks(handles):
        for batch in batches:
            with suppress(EnoughError):
                outputs(module, batch, names)
            seen += len(batch[names[0]])
            if seen >= _LOOKED_AT:
                break
    if not sums:
        return "", 0.0
    name, (count, total, squares) = next(iter(sums.items()))
    norm = norms[name]
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    known = (norm.running_var.double() + norm.eps).sqrt()
    z = (mean - norm.running_mean.double()) / known
    ratio = torch.log((std + 1e-3 * known) / (known * (1 + 1e-3)))
    return name, math.sqrt(float((z.square() + ratio.square()).mean()))


def preprocessing_warning(module: nn.Module, batches: Sequence[Batch]) -> str | None:
    """One sentence where the calibration inputs don't look like the data the model was trained on; None where they do.

    Args:
        module: the model before folding, BatchNorm still in it; left as it is.
        batches: calibration inputs by name; the first 256 examples are looked at.
    """
    if not batches or not norms_with_statistics(module):
        return None
    own, names = private_copy(module), tuple(batches[0])
    absorb(own, batches[0], names)
    name, distance = distance_to_statistics(own, batches, names)
    if distance <= _FOREIGN_DISTANCE:
        return None
    return (
        f"the calibration inputs don't look like the training data: at '{name}' their moments are {distance:.1f} away from "
        f"those it remembers (up to {_FOREIGN_DISTANCE} is usual); check that they are normalised as in training."
    )
