# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Distillation of gains and shifts: y -> gain y + shift for every output channel of every layer, without labels.

The compressed network learns its teacher's outputs on unlabelled examples (`distillation.py`). Only the gain and the shift of
each layer's output channels learn. A quantized layer's scale takes the gain and its bias takes the shift; the file stores both
anyway, so that distillation adds no byte. Integer codes and zeros stay as they are. Weights require no gradient, which saves a
third of the backward pass.

**Source**: knowledge distillation (Hinton et al. 2015) of normalisation parameters. Gains are learned as logarithms and shifts in
standard deviations of the output, so that one learning rate fits all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import temporary_hooks
from dyncompress.models.torch.distillation import Network, distill, networks
from dyncompress.models.torch.layer_trace import used_once
from dyncompress.models.torch.layers import channel_axis
from dyncompress.models.torch.matching import join_batches, moments_of
from dyncompress.models.torch.traced_model import M, TracedModel
from dyncompress.types import Affine, Batch, DistillationTask

_MOMENT_EXAMPLES = 256  # examples whose output moments set the units


def distill_gains(
    model: M, teacher: TracedModel, batches: Sequence[Batch], task: DistillationTask
) -> tuple[M, dict[str, tuple[Tensor, Tensor]]]:
    """Distil the teacher into the gains and shifts of the model's layers.

    Args:
        model: the compressed network.
        teacher: the original network.
        batches: unlabelled inputs; a share `task.spec.held_out` of the examples chooses among the epochs' states.
        task: the schedule, whose rate is in log gains and in standard deviations; the seed; and whether the gains learn, or the
            shifts alone.

    Returns:
        the new model, and layer -> (gain, shift), each `[out]`. The scale of an encoding has to be multiplied by the gain.

    Raises:
        InvalidRequest: there are fewer than two examples, or no layer is called exactly once with a weight of its own.
    """
    inputs = join_batches(batches, model.input_names, 2**62)
    few = {name: value[:_MOMENT_EXAMPLES] for name, value in inputs.items()}
    original, network = networks(teacher, model, few)
    student = _Student(model, network, few, task.gains)
    state = distill(student, original, inputs, task, live=model.trace.activations)
    affine = student.affine(state)
    return model.edited([Affine(name, gain, shift) for name, (gain, shift) in affine.items()]), affine


def tunable(model: TracedModel) -> bool:
    """Whether `distill_gains` can run: at least one layer is called exactly once with a weight of its own."""
    return any(used_once(model.module, model.trace, name) for name in model.trace.modules)


class _Student:
    """The compressed network with a gain and a shift after every layer: y -> mean + exp(a) (y - mean) + b std."""

    def __init__(self, model: TracedModel, network: Network, example: Batch, gains: bool) -> None:
        """Observe the moments of the outputs on the example; a and b start at 0."""
        self.network, self.gains = network, gains
        paths = {name: path for name, path in model.trace.modules.items() if used_once(model.module, model.trace, name)}
        self.layers = {name: network.module.get_submodule(path) for name, path in paths.items()}
        if not self.layers:
            raise InvalidRequest(
                "no layer is called exactly once in a forward pass with a weight of its own, so gains can't be distilled; set "
                "distill.epochs = 0."
            )
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        with temporary_hooks(self._hooks(self._observe)), torch.no_grad():
            network(example)
        self.gain = {name: torch.zeros_like(mean, requires_grad=gains) for name, (mean, _) in self.moments.items()}
        self.shift = {name: torch.zeros_like(mean, requires_grad=True) for name, (mean, _) in self.moments.items()}

    def _hooks(self, hook: Callable[[str, nn.Module, Tensor], Tensor | None]) -> list[RemovableHandle]:
        """Register the same forward hook at every layer."""
        return [m.register_forward_hook(lambda m, _a, y, name=name: hook(name, m, y)) for name, m in self.layers.items()]

    def _observe(self, name: str, layer: nn.Module, output: Tensor) -> None:
        """Store the moments of one layer's output; a standard deviation near zero is raised to a positive number."""
        mean, std = moments_of(layer, output)
        typical = 1e-3 * std.median()
        self.moments[name] = mean.float(), torch.maximum(std, typical).clamp_min(1e-12).float()

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """All parameters in one group."""
        return [{"params": [*(self.gain.values() if self.gains else ()), *self.shift.values()], "lr": rate}]

    def state(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer -> copies of a and b, each `[out]`."""
        return {name: (self.gain[name].detach().clone(), self.shift[name].detach().clone()) for name in self.gain}

    def affine(self, state: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer -> (gain, shift), each `[out]`, in the units of the outputs."""
        affine = {}
        for name, (a, b) in state.items():
            mean, std = self.moments[name]
            affine[name] = a.exp(), mean - a.exp() * mean + b * std
        return affine

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs with the present gains and shifts."""
        with temporary_hooks(self._hooks(self._apply)):
            return self.network(batch)

    def _apply(self, name: str, layer: nn.Module, output: Tensor) -> Tensor:
        """One layer's output with gain and shift: BatchNorm in eval mode is exactly this map, and runs as one kernel."""
        mean, std = self.moments[name]
        axis = channel_axis(layer, output)
        y = output.movedim(axis, 1) if output.ndim > 2 and axis != 1 else output
        weight, bias = self.gain[name].exp() * std, mean + self.shift[name] * std
        # not functional.batch_norm: torch 2.10 refuses eps = 0 there
        y = torch.batch_norm(y, weight, bias, mean, std.square(), False, 0.0, 0.0, torch.backends.cudnn.enabled)
        return y.movedim(1, axis).contiguous() if output.ndim > 2 and axis != 1 else y  # models call view on it
