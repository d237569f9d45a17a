# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Fold BatchNorm into the layer before it, and compare inputs with BatchNorm's running statistics.

In eval mode BatchNorm is y -> gamma (y - mean) / sqrt(var + eps) + beta, an affine map of each channel, which the convolution or
linear layer before it can absorb: W' = g W, b' = g (b - mean) + beta, with g = gamma / sqrt(var + eps). Exporters do the same.
Folding first makes the weights that are measured and rounded equal to those in the file.
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

from dyncompress.models.torch.calling import EnoughError, outputs, temporary_hooks, tensors_of
from dyncompress.models.torch.copying import private_copy
from dyncompress.models.torch.hooks import absorb
from dyncompress.models.torch.layers import canonical, compressible_modules, has_inputs, native_layout
from dyncompress.models.torch.rewriting import reference
from dyncompress.types import Batch

# A folded network differs by float32 rounding through its depth; a wrong fold differs by orders of magnitude more.
_FOLD_TOLERANCE = 1e-4
# Distance to the running statistics above which inputs are not preprocessed as in training. Measured on CIFAR ResNet-20 and
# ResNet-44: 0.25 when they are (0.37 on 16 images), 1.0 for images in [-1, 1], 1.6 for [0, 1], 63 for [0, 255].
_FOREIGN_DISTANCE = 0.6
# Examples that the distance is computed from.
_DISTANCE_EXAMPLES = 256


@dataclass(frozen=True)
class FoldResult:
    """The result of `fold`.

    Attributes:
        pairs: layer -> the BatchNorm that was folded into it.
        notes: sentences about the BatchNorms that weren't folded.
    """

    pairs: Mapping[str, str]
    notes: tuple[str, ...]


def norms_with_statistics(module: nn.Module) -> dict[str, _BatchNorm]:
    """Name -> BatchNorm module, for those that normalise with running statistics in eval mode."""
    return {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}


def pairs_of(module: nn.Module, example: Batch, names: Sequence[str]) -> dict[str, str]:
    """Layer -> BatchNorm, where in one forward pass the layer's output tensor is the BatchNorm's input.

    Both must be called exactly once, and the layer must not share its weight.
    """
    layers, norms = compressible_modules(module), norms_with_statistics(module)
    uses: dict[int, int] = {}
    for layer in layers.values():
        uses[id(layer.weight)] = uses.get(id(layer.weight), 0) + 1
    producers: dict[int, tuple[str, Tensor]] = {}  # holds the tensor, so that no other gets its id
    calls: dict[str, int] = {}
    pairs: dict[str, str] = {}

    def record_output(name: str, output: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        if isinstance(output, Tensor):
            producers[id(output)] = (name, output)

    def record_input(name: str, args: tuple) -> None:
        calls[name] = calls.get(name, 0) + 1
        producer = producers.get(id(args[0])) if args else None
        if producer is not None:
            pairs[producer[0]] = name

    handles = [m.register_forward_hook(lambda _m, _a, o, name=name: record_output(name, o)) for name, m in layers.items()]
    handles += [m.register_forward_pre_hook(lambda _m, a, name=name: record_input(name, a)) for name, m in norms.items()]
    with temporary_hooks(handles):
        outputs(module, example, names)

    def sound(layer: str, norm: str) -> bool:
        fits = canonical(layers[layer]).shape[0] == norms[norm].num_features and has_inputs(layers[layer])
        return fits and calls[layer] == 1 and calls[norm] == 1 and uses[id(layers[layer].weight)] == 1

    return {layer: norm for layer, norm in pairs.items() if sound(layer, norm)}


def fold(module: nn.Module, example: Batch, names: Sequence[str]) -> FoldResult:
    """Fold every pair that leaves the outputs unchanged, in place; other pairs are restored and get a note.

    All pairs are folded at once. Only where the outputs then differ is each pair tried alone.

    Args:
        module: a private copy in eval mode.
        example: one batch by input name.
        names: input names, in order.
    """
    pairs = pairs_of(module, example, names)
    before = reference(module, example, names, _FOLD_TOLERANCE) if pairs else None
    if before is None:
        return FoldResult({}, ())
    undo = [_fold_pair(module, layer, norm) for layer, norm in pairs.items()]
    if before.holds():
        return FoldResult(pairs, ())
    for restore in reversed(undo):
        restore()
    pairs_folded, notes = {}, []
    for layer, norm in pairs.items():
        restore = _fold_pair(module, layer, norm)
        if before.holds():
            pairs_folded[layer] = norm
        else:
            restore()
            notes.append(f"BatchNorm '{norm}' stays: the output of '{layer}' is also used elsewhere, so it can't be folded.")
    return FoldResult(pairs_folded, tuple(notes))


def _fold_pair(module: nn.Module, layer_name: str, norm_name: str) -> Any:
    """Fold one pair in place; returns a function that restores it."""
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
    """Gain and shift of a BatchNorm in eval mode, each `[channels]` float64."""
    mean, var = norm.running_mean.double(), norm.running_var.double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    gain = gamma / torch.sqrt(var + norm.eps)
    return gain, beta - mean * gain


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    """Replace a module by another, under every name that it has, in place."""
    old = module.get_submodule(name)
    for parent in module.modules():
        for key, child in list(parent.named_children()):
            if child is old:
                setattr(parent, key, new)


def distance_to_statistics(module: nn.Module, batches: Sequence[Batch], names: Sequence[str]) -> tuple[str, float]:
    """Distance between the inputs of the first BatchNorm and its running statistics.

    The distance is the root of the mean over channels of z^2 + log(s)^2, where z is the difference of the means in running
    standard deviations and s the ratio of the standard deviations. It is 0 for the training distribution. Only the first
    BatchNorm counts, since deeper ones see changes that the network itself makes.

    Args:
        module: in eval mode.
        batches: inputs by name, of which the first 256 examples are used.
        names: input names, in order.

    Returns:
        name of the BatchNorm and distance; ("", 0.0) for a model without BatchNorm.
    """
    norms = norms_with_statistics(module)
    sums: dict[str, list[Tensor]] = {}

    def add_moments(name: str, norm: _BatchNorm, args: tuple, keywords: Mapping[str, Any]) -> None:
        """Add the moments of a BatchNorm's input, and end the forward pass."""
        x = tensors_of((args, keywords))[0].detach().double()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = x.numel() / x.shape[1]
        if not sums or name in sums:
            old = sums.setdefault(
                name, [torch.zeros(1).to(x), torch.zeros(norm.num_features).to(x), torch.zeros(norm.num_features).to(x)]
            )
            sums[name] = [old[0] + count, old[1] + x.sum(axes), old[2] + x.square().sum(axes)]
        raise EnoughError  # nothing after the first BatchNorm is needed

    handles = [
        m.register_forward_pre_hook(lambda m, a, k, name=name: add_moments(name, m, a, k), with_kwargs=True)
        for name, m in norms.items()
    ]
    examples = 0
    with temporary_hooks(handles):
        for batch in batches:
            with suppress(EnoughError):
                outputs(module, batch, names)
            examples += len(batch[names[0]])
            if examples >= _DISTANCE_EXAMPLES:
                break
    if not sums:
        return "", 0.0
    name, (count, total, squares) = next(iter(sums.items()))
    norm = norms[name]
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    running = (norm.running_var.double() + norm.eps).sqrt()
    z = (mean - norm.running_mean.double()) / running
    ratio = torch.log((std + 1e-3 * running) / (running * (1 + 1e-3)))
    return name, math.sqrt(float((z.square() + ratio.square()).mean()))


def preprocessing_warning(module: nn.Module, batches: Sequence[Batch]) -> str | None:
    """A warning where the calibration inputs don't look like the model's training data; None where they do.

    Args:
        module: the model before folding; it isn't changed. Without BatchNorm nothing can be compared.
        batches: calibration inputs by name; the first 256 examples are used.
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
        f"its running statistics (up to {_FOREIGN_DISTANCE} is usual); check that they are normalised as in training."
    )
