"""Hooks a TrajectoryWriter into a torch training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.recording.writer import EVERY, TrajectoryWriter


@dataclass
class Recorder:
    """Counts optimizer steps and records every `every`-th iterate of a module.

    Attributes:
        module: being trained.
        writer: where iterates go.
        every: record when the number of steps is a multiple of it.
        gradients: whether sketches of the minibatch gradients are recorded too.
        steps: taken so far.
    """

    module: nn.Module
    writer: TrajectoryWriter
    every: int = EVERY
    gradients: bool = False
    steps: int = field(default=0, init=False)

    def step(self, loss: Tensor | float | None = None, learning_rate: float = math.nan) -> None:
        """To be called after `optimizer.step()` and before gradients are cleared.

        Args:
            loss: of this step, where it is at hand.
            learning_rate: of this step; nan: as the writer was told.
        """
        self.steps += 1
        if self.steps % self.every:
            return
        if math.isfinite(learning_rate):
            self.writer.learning_rate = float(learning_rate)
        slopes = layer_gradients(self.module) if self.gradients else None
        self.writer.append(self.steps, layer_weights(self.module), loss, gradients=slopes)

    def finish(self) -> None:
        """Tie the record to the module as it is now: to be called when training has ended; nothing where nothing is recorded."""
        if self.steps >= self.every:
            self.writer.finish(layer_weights(self.module))

    def attach(self, optimizer: torch.optim.Optimizer) -> Any:
        """Call `step` by itself after every `optimizer.step()`; the returned handle's `remove()` ends that."""
        return optimizer.register_step_post_hook(lambda own, *_: self.step(learning_rate=rate_of(own)))


def record(module: nn.Module, writer: TrajectoryWriter, every: int = EVERY, *, gradients: bool = False) -> Recorder:
    """A recorder of `module`'s convolution, linear and embedding weights.

    Args:
        module: being trained.
        writer: where iterates go.
        every: optimizer steps from one record to the next.
        gradients: whether sketches of the minibatch gradients are recorded too.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> recorder = record(model, TrajectoryWriter(), every=1)
        >>> recorder.step(loss=0.5)
        >>> recorder.writer.trajectory().steps.tolist()
        [1]

    Raises:
        InvalidRequest: `every` is below 1 or the module has no such layer.
    """
    if every < 1:
        raise InvalidRequest(f"record: every is {every}; it must be at least 1.")
    if not layer_weights(module):
        raise InvalidRequest(f"record: {type(module).__name__} has no convolution, linear or embedding layer to record.")
    return Recorder(module, writer, every, gradients)


def layer_weights(module: nn.Module) -> dict[str, Tensor]:
    """Layer -> weight `(out, in / groups, *kernel)`, detached, of every convolution, linear and embedding layer.

    Names are those of `named_modules`, without the prefix that `torch.compile` adds.
    """
    return {name: _outputs_first(layer, layer.weight.detach()) for name, layer in _layers(module).items()}


def layer_gradients(module: nn.Module) -> dict[str, Tensor]:
    """Layer -> gradient of its weight in the same layout, of the layers whose weight has one."""
    found = {}
    for name, layer in _layers(module).items():
        slope = layer.weight.grad if layer.weight.is_leaf else None  # a weight computed from other parameters has none
        if slope is not None:
            found[name] = _outputs_first(layer, slope.detach())
    return found


def rate_of(optimizer: Any) -> float:
    """The learning rate of an optimizer's first group; nan where it has none."""
    groups = getattr(optimizer, "param_groups", None)
    return float(groups[0].get("lr", math.nan)) if groups else math.nan


def _layers(module: nn.Module) -> dict[str, Any]:
    """The layers that are recorded: those that the library compresses."""
    module = getattr(module, "_orig_mod", module)
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, _KINDS) or _inputs_first(layer)}


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
_KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding, *_TRANSPOSED)


def _inputs_first(layer: nn.Module) -> bool:
    """Whether this is GPT-2's linear layer of the transformers package, told by its name: weight `(in, out)`."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def _outputs_first(layer: Any, weight: Tensor) -> Tensor:
    """A layer's weight, or its gradient, as `(out, in / groups, *kernel)`."""
    if _inputs_first(layer):
        return weight.t()
    if not isinstance(layer, _TRANSPOSED):
        return weight
    rows, columns, *kernel = weight.shape  # (in, out / groups, *kernel)
    blocks = weight.reshape(layer.groups, rows // layer.groups, columns, *kernel)
    return blocks.transpose(1, 2).reshape(layer.groups * columns, rows // layer.groups, *kernel)
