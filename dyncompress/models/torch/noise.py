# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""How layers carry noise: how much of an input's size a layer's weight keeps, and how much the rest of the network amplifies.

Nothing is trained: gradients flow through activations only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dyncompress.models.torch.calling import (
    call_calibration_batch,
    device_inputs,
    differentiable,
    split,
    temporary_hooks,
    tensors_of,
)
from dyncompress.models.torch.inputs import patches
from dyncompress.models.torch.layer_trace import SelectedLayers
from dyncompress.models.torch.layers import channel_axis, kind_of
from dyncompress.types import Batch

# Number of examples, how many run at once, and random directions of the output for each.
_EXAMPLES = 256
_AT_ONCE = 64
_PROBES = 4
# Numbers of one block of unfolded inputs.
_BLOCK_NUMBERS = 8_000_000


def noise_gains(layers: SelectedLayers, data: Iterable[Batch], seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The values of `types.NoiseGain` for the layers, from the first 256 examples.

    ||J||_F^2, with J the Jacobian of the network's outputs with respect to a layer's output, is the mean over random signs z of
    ||J^T z||^2; one backward pass gives J^T z for every layer.

    Args:
        layers: the network and the layers.
        data: calibration batches.
        seed: of the random signs.

    Returns:
        layer -> (cushion, gain), each `[examples]` float64; nan for an example whose inputs or outputs are all zero.

    Raises:
        InvalidRequest: a batch doesn't fit the model.
    """
    module, names = layers.module, layers.input_names
    values: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in layers.modules}
    generator = torch.Generator().manual_seed(seed)
    seen = 0
    with differentiable(module):
        for piece in (piece for batch in data for piece in split(batch, names, _AT_ONCE)):
            if seen >= _EXAMPLES:
                break
            inputs = device_inputs(piece, module, names)
            n = len(inputs[names[0]])
            seen += n
            cushions, outputs, ends = _observe_piece(layers, inputs, n)
            for name, gain in _gains(outputs, ends, n, generator).items():
                values[name][0].append(cushions[name])
                values[name][1].append(gain)
    return {name: (torch.cat(first), torch.cat(second)) for name, (first, second) in values.items() if first}


def _observe_piece(
    layers: SelectedLayers, inputs: Mapping[str, Tensor], n: int
) -> tuple[dict[str, Tensor], dict[str, list[Tensor]], Tensor]:
    """One forward pass: layer -> cushion `[n]`, layer -> its outputs for each call, and the network's outputs `[n, size]`."""
    targets = layers.modules
    energies: dict[str, tuple[Tensor, Tensor]] = {}
    outputs: dict[str, list[Tensor]] = {}

    def after(name: str, layer: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        if len(output) % n == 0:
            energy_in, energy_out = _input_energy(layer, args[0].detach(), n), _output_energy(layer, output.detach(), n)
            before = energies.get(name, (torch.zeros_like(energy_in), torch.zeros_like(energy_out)))
            energies[name] = (before[0] + energy_in, before[1] + energy_out)
            tensor = output if output.requires_grad else output.detach().requires_grad_()
            outputs.setdefault(name, []).append(tensor)
            return None if tensor is output else tensor.clone()  # a clone lets an activation work in place
        return None

    handles = [layer.register_forward_hook(lambda m, a, o, name=name: after(name, m, a, o)) for name, layer in targets.items()]
    with temporary_hooks(handles):
        ends = tensors_of(call_calibration_batch(layers.module, inputs, layers.input_names))
    whole = torch.cat([end.flatten(1).double() for end in ends if end.is_floating_point() and end.ndim and len(end) == n], dim=1)
    norms = {name: targets[name].weight.detach().double().square().sum() for name in energies}
    cushions = {name: (outgoing / (incoming * norms[name])).sqrt() for name, (incoming, outgoing) in energies.items()}
    return cushions, outputs, whole


def _gains(outputs: Mapping[str, list[Tensor]], ends: Tensor, n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Layer -> gain `[n]`, float64; empty where no gradient leads from the network's outputs to a layer."""
    parts = [(name, tensor) for name, tensors in outputs.items() for tensor in tensors]
    if not parts or not ends.requires_grad:
        return {}
    squares = {name: torch.zeros(n, dtype=torch.float64, device=ends.device) for name in outputs}
    for probe in range(_PROBES):
        signs = (2 * torch.randint(0, 2, ends.shape, generator=generator) - 1).to(ends)
        last = probe == _PROBES - 1
        gradients = torch.autograd.grad((ends * signs).sum(), [t for _, t in parts], retain_graph=not last, allow_unused=True)
        for (name, _), gradient in zip(parts, gradients, strict=True):
            if gradient is not None:
                squares[name] += gradient.reshape(n, -1).double().square().sum(1) / _PROBES
    size = ends.detach().square().sum(1)
    return {
        name: (squares[name] * _energy(outputs[name], n) / (sum(t.numel() for t in outputs[name]) / n * size)).sqrt()
        for name in outputs
    }


def _energy(tensors: Sequence[Tensor], n: int) -> Tensor:
    """Sum of squares over all tensors for each example, float64 `[n]`."""
    return torch.stack([t.detach().reshape(n, -1).double().square().sum(1) for t in tensors]).sum(0)


def _output_energy(layer: nn.Module, output: Tensor, n: int) -> Tensor:
    """||W X||^2 for each example, from the output without its bias; float64 `[n]`."""
    if layer.bias is not None:
        shape = [1] * output.ndim
        shape[channel_axis(layer, output)] = -1
        output = output - layer.bias.detach().reshape(shape)
    return output.reshape(n, -1).double().square().sum(1)


def _input_energy(layer: nn.Module, x: Tensor, n: int) -> Tensor:
    """||X||^2 for each example, where X holds the patches that the weight multiplies; float64 `[n]`."""
    if kind_of(layer) == "linear":
        return x.reshape(n, -1).double().square().sum(1)
    step = max(1, _BLOCK_NUMBERS // max(patches(layer, x[:1]).numel(), 1))
    blocks = []
    for block in x.split(step):
        rows = patches(layer, block)
        blocks.append(rows.reshape(len(rows), len(block), -1).double().square().sum((0, 2)))
    return torch.cat(blocks)
