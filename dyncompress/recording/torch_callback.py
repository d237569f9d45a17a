"""Hooks a TrajectoryWriter into a torch training loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.recording.writer import TrajectoryWriter


@dataclass
class Recorder:
    """Counts optimizer steps and records every `every`-th iterate of a module.

    Attributes:
        module: being trained.
        writer: where iterates go.
        every: record when the number of steps is a multiple of it.
        steps: taken so far.
    """

    module: nn.Module
    writer: TrajectoryWriter
    every: int = 1
    steps: int = field(default=0, init=False)

    def step(self, loss: Tensor | float | None = None) -> None:
        """To be called after `optimizer.step()`, with the training loss where it is at hand."""
        self.steps += 1
        if self.steps % self.every == 0:
            self.writer.append(self.steps, layer_weights(self.module), loss)

    def attach(self, optimizer: torch.optim.Optimizer) -> Any:
        """Call `step` by itself after every `optimizer.step()`; the returned handle's `remove()` ends that."""
        return optimizer.register_step_post_hook(lambda *_: self.step())


def record(module: nn.Module, writer: TrajectoryWriter, every: int = 1) -> Recorder:
    """A recorder of `module`'s convolution, linear and embedding weights.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> recorder = record(model, TrajectoryWriter())
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
    return Recorder(module, writer, every)


def layer_weights(module: nn.Module) -> dict[str, Tensor]:
    """Layer -> weight `(out, in / groups, *kernel)`, detached, of every convolution, linear and embedding layer.

    Names are those of `named_modules`, without the prefix that `torch.compile` adds.
    """
    module = getattr(module, "_orig_mod", module)
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, kinds):
            found[name] = layer.weight.detach()
        elif isinstance(layer, transposed):
            found[name] = _outputs_first(layer.weight.detach(), layer.groups)
    return found


def _outputs_first(weight: Tensor, groups: int) -> Tensor:
    """`(in, out / groups, *kernel)` of a transposed convolution -> `(out, in / groups, *kernel)`."""
    rows, columns, *kernel = weight.shape
    blocks = weight.reshape(groups, rows // groups, columns, *kernel)
    return blocks.transpose(1, 2).reshape(groups * columns, rows // groups, *kernel)
