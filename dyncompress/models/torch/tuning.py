# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Label-free distillation of the cheap parameters: a gain and a shift for every output channel of every layer.

A compressed network learns to answer as its teacher does, min KL(teacher || student), on unlabelled images that are flipped and
shifted a little; outputs that aren't scores by their squared error over the teacher's variance. Only y -> gain y + shift of the
layers' outputs moves: scales take the gains, biases the shifts, and both are stored anyway, so that it costs no byte. Integer
codes and zeros stay where they are. Weights ask for no gradient, which saves a third of the backward pass.

A part of the examples is kept aside; the state of least divergence on it is returned, the one that came in included.

**Source**: knowledge distillation (Hinton et al. 2015) of normalisation parameters; gains are learned by their logarithm, shifts
in units of the output's standard deviation, so that one rate fits all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dyncompress.errors import InvalidRequest
from dyncompress.models.augmentation import augmented, is_image
from dyncompress.models.torch.calling import hooked
from dyncompress.models.torch.layers import channel_axis, used_once
from dyncompress.models.torch.learning import Network, learned, loss, networks
from dyncompress.models.torch.matching import moments_of, together
from dyncompress.models.torch.model import TorchModel
from dyncompress.types import Affine, Batch, Distillation

__all__ = ["augmented", "is_image", "loss", "tuned"]

_LOOKED_AT = 256  # examples whose outputs' moments set the units


def tuned(
    model: TorchModel,
    teacher: TorchModel,
    batches: Sequence[Batch],
    *,
    spec: Distillation,
    seed: int = 0,
    gains: bool = True,
    mirrored: bool = True,
) -> tuple[TorchModel, dict[str, tuple[Tensor, Tensor]]]:
    """Distil the teacher into gains and shifts.

    Args:
        model: the compressed network.
        teacher: the original.
        batches: unlabelled inputs; a share `spec.held_out` of the examples, drawn by the seed, chooses among the epochs' states.
        spec: how long, how fast.
        seed: of the order of the examples and their augmentation.
        gains: whether the outputs' scale may change; else shifts alone are learned.
        mirrored: whether images may be flipped left to right.

    Returns:
        the new model, and layer -> (gain, shift), each `[out]`: an encoding's scale takes the gain.

    Raises:
        InvalidRequest: fewer than two examples.
    """
    inputs = together(batches, model.input_names, 2**62)
    few = {name: value[:_LOOKED_AT] for name, value in inputs.items()}
    original, network = networks(teacher, model, few)
    student = _Student(model, network, few, gains)
    kept = learned(student, original, inputs, spec=spec, seed=seed, live=model.trace.activations, mirrored=mirrored)
    found = student.affine(kept)
    return model.edited([Affine(name, gain, shift) for name, (gain, shift) in found.items()]), found


def tunable(model: TorchModel) -> bool:
    """Whether a layer has one gain and one shift to distil into: it is called once a pass and shares its weight with no other."""
    return any(used_once(model.module, model.trace, name) for name in model.trace.modules)


class _Student:
    """The compressed network with a gain and a shift behind every layer."""

    def __init__(self, model: TorchModel, network: Network, example: Batch, gains: bool) -> None:
        """Look at the outputs' moments once: y -> mean + exp(a) (y - mean) + b std keeps the two apart."""
        self.network, self.gains = network, gains
        paths = {name: path for name, path in model.trace.modules.items() if used_once(model.module, model.trace, name)}
        self.layers = {name: network.module.get_submodule(path) for name, path in paths.items()}
        if not self.layers:
            raise InvalidRequest("the model has no layer that is called once a pass, with a weight of its own, to distil into.")
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        with hooked(self._hooks(self._look)), torch.no_grad():
            network(example)
        self.gain = {name: torch.zeros_like(mean, requires_grad=gains) for name, (mean, _) in self.moments.items()}
        self.shift = {name: torch.zeros_like(mean, requires_grad=True) for name, (mean, _) in self.moments.items()}

    def _hooks(self, hook: Callable[[str, nn.Module, Tensor], Tensor | None]) -> list[RemovableHandle]:
        """The same hook behind every layer."""
        return [m.register_forward_hook(lambda m, _a, y, name=name: hook(name, m, y)) for name, m in self.layers.items()]

    def _look(self, name: str, layer: nn.Module, output: Tensor) -> None:
        mean, std = moments_of(layer, output)
        typical = 1e-3 * std.median()
        self.moments[name] = mean.float(), torch.maximum(std, typical).clamp_min(1e-12).float()

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """What is learned, all at one rate."""
        return [{"params": [*(self.gain.values() if self.gains else ()), *self.shift.values()], "lr": rate}]

    def state(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Copies of the parameters as they are."""
        return {name: (self.gain[name].detach().clone(), self.shift[name].detach().clone()) for name in self.gain}

    def affine(self, state: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        """A state as layer -> (gain, shift) in the outputs' own units."""
        found = {}
        for name, (a, b) in state.items():
            mean, std = self.moments[name]
            found[name] = a.exp(), mean - a.exp() * mean + b * std
        return found

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs with the present gains and shifts."""
        with hooked(self._hooks(self._applied)):
            return self.network(batch)

    def _applied(self, name: str, layer: nn.Module, output: Tensor) -> Tensor:
        """An evaluating BatchNorm is exactly this map, and one kernel forward and one backward."""
        mean, std = self.moments[name]
        axis = channel_axis(layer, output)
        y = output.movedim(axis, 1) if output.ndim > 2 and axis != 1 else output
        weight, bias = self.gain[name].exp() * std, mean + self.shift[name] * std
        # not functional.batch_norm: torch 2.10 refuses eps = 0 there
        y = torch.batch_norm(y, weight, bias, mean, std.square(), False, 0.0, 0.0, torch.backends.cudnn.enabled)
        return y.movedim(1, axis).contiguous() if output.ndim > 2 and axis != 1 else y  # models call view on it
