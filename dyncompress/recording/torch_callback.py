"""Record training in a PyTorch loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.recording import torch_optimizer
from dyncompress.recording.optimizer_state import OptimizerState
from dyncompress.recording.writer import EVERY, TrajectoryWriter


@dataclass
class Recorder:
    """Counts optimizer steps and records the weights of a module every `every` steps.

    Attributes:
        module: that is trained.
        writer: that receives the weights.
        every: steps between records.
        gradients: whether sketches of the minibatch gradients are recorded as well.
        steps: number of steps so far.
    """

    module: nn.Module
    writer: TrajectoryWriter
    every: int = EVERY
    gradients: bool = False
    steps: int = field(default=0, init=False)

    def step(
        self,
        loss: Tensor | float | None = None,
        learning_rate: float = math.nan,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Count a step, and record it if it is time; call this after `optimizer.step()` and before gradients are cleared.

        Args:
            loss: of this step; None: unknown.
            learning_rate: of this step; nan: that of the optimizer, or the writer's `learning_rate`.
            optimizer: whose state is recorded as well. With Adam and its relatives it is needed for the Fisher information.
        """
        self.steps += 1
        if self.steps % self.every:
            return
        if optimizer is not None:
            self.writer.optimizer = optimizer_state(self.module, optimizer)
            learning_rate = learning_rate if math.isfinite(learning_rate) else rate_of(optimizer)
        if math.isfinite(learning_rate):
            self.writer.learning_rate = float(learning_rate)
        gradients = layer_gradients(self.module) if self.gradients else None
        self.writer.append(self.steps, layer_weights(self.module), loss, gradients=gradients)

    def finish(self) -> None:
        """Store the digest of the module's final weights, if there are records; call this at the end of training."""
        if self.steps >= self.every:
            self.writer.finish(layer_weights(self.module))

    def attach(self, optimizer: torch.optim.Optimizer) -> Any:
        """Let every `optimizer.step()` call `step`; returns a handle whose `remove()` ends that."""
        return optimizer.register_step_post_hook(lambda own, *_: self.step(optimizer=own))


def record(module: nn.Module, writer: TrajectoryWriter, every: int = EVERY, *, gradients: bool = False) -> Recorder:
    """A recorder of the convolution, linear and embedding weights of a module.

    Args:
        module: that is trained.
        writer: that receives the weights.
        every: optimizer steps between records.
        gradients: whether sketches of the minibatch gradients are recorded as well.

    Returns:
        The recorder. Call its `step` after every optimizer step, or `attach` it to the optimizer, and `finish` at the end.

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
    """The weights of all convolution, linear and embedding layers.

    Returns:
        Layer name -> weight `(out, in / groups, *kernel)`, detached. Names are those of `named_modules`, without the prefix that
        `torch.compile` adds.

    Example:
        >>> {name: tuple(weight.shape) for name, weight in layer_weights(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU())).items()}
        {'0': (8, 3, 5, 5)}
    """
    return {name: _outputs_first(layer, layer.weight.detach()) for name, layer in _layers(module).items()}


def layer_gradients(module: nn.Module) -> dict[str, Tensor]:
    """Layer name -> gradient of its weight, in the layout of `layer_weights`; layers without a gradient are left out."""
    gradients = {}
    for name, layer in _layers(module).items():
        gradient = layer.weight.grad if layer.weight.is_leaf else None  # a weight computed from other parameters has none
        if gradient is not None:
            gradients[name] = _outputs_first(layer, gradient.detach())
    return gradients


def optimizer_state(module: nn.Module, optimizer: Any) -> OptimizerState:
    """Step sizes and squared gradients of the layers' weights, in the layout of `layer_weights`, as the optimizer stores them.

    Layers without such state are left out: all of SGD's, those that aren't trained, and weights in shards.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        >>> (3 * layer(torch.ones(1, 2)).sum()).backward()
        >>> optimizer.step()
        >>> optimizer_state(layer, optimizer).squares[""]
        tensor([[9.0000, 9.0000]])
    """
    own = getattr(optimizer, "optimizer", optimizer)  # of accelerate and Lightning, which put theirs around it
    groups = {parameter: group for group in own.param_groups for parameter in group["params"]}
    name, mean, sizes, squares = type(own).__name__, 0.0, {}, {}
    for key, layer in _layers(module).items():
        weight = layer.weight
        if weight not in groups or weight not in own.state:
            continue
        state, group = own.state[weight], groups[weight]
        mean = torch_optimizer.averaging(group)
        values = (torch_optimizer.step_sizes(name, state, group), torch_optimizer.squared_gradients(state, group))
        for part, value in zip((sizes, squares), values, strict=True):
            if value is not None and value.shape == weight.shape:
                part[key] = _outputs_first(layer, value)
    return OptimizerState(name, mean, sizes, squares)


def rate_of(optimizer: Any) -> float:
    """The learning rate of an optimizer's first parameter group; nan if there is none."""
    groups = getattr(optimizer, "param_groups", None)
    return float(groups[0].get("lr", math.nan)) if groups else math.nan


def _layers(module: nn.Module) -> dict[str, Any]:
    """Layer name -> layer, for the kinds of layers that the library compresses."""
    module = getattr(module, "_orig_mod", module)
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, _KINDS) or _inputs_first(layer)}


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
_KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding, *_TRANSPOSED)


def _inputs_first(layer: nn.Module) -> bool:
    """Whether a module is the `Conv1D` of transformers (GPT-2), a linear layer with weight `(in, out)`, judged by its name."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def _outputs_first(layer: Any, weight: Tensor) -> Tensor:
    """A layer's weight, or its gradient, in the layout `(out, in / groups, *kernel)`."""
    if _inputs_first(layer):
        return weight.t()
    if not isinstance(layer, _TRANSPOSED):
        return weight
    rows, columns, *kernel = weight.shape  # (in, out / groups, *kernel)
    blocks = weight.reshape(layer.groups, rows // layer.groups, columns, *kernel)
    return blocks.transpose(1, 2).reshape(layer.groups * columns, rows // layer.groups, *kernel)
