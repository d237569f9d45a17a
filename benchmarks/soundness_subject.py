"""The subject of a cell of `benchmarks.soundness`: a network, the distribution of its inputs, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

Draw = Callable[[int, Generator], dict[str, Tensor]]  # number of examples, generator -> inputs by name


@dataclass(frozen=True)
class Subject:
    """A network and its inputs.

    Attributes:
        module: in eval mode.
        law: draws calibration inputs.
        fresh: draws the new inputs that the file is judged on; None uses `law`.
        calibration, n: numbers of calibration and of new inputs.
        keywords: whether the network is called with keyword arguments; otherwise by position, in the order of the names.
    """

    module: nn.Module
    law: Draw
    fresh: Draw | None = None
    calibration: int = 128
    n: int = 128
    keywords: bool = False

    def called(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """The outputs of the network as a user calls it, every tensor of a nested output in order."""
        with torch.no_grad():
            return _tensors(self.module(**inputs) if self.keywords else self.module(*inputs.values()))


def _tensors(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if hasattr(output, "values") else output if isinstance(output, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def normal(*shape: int, name: str = "x", scale: float = 1.0) -> Draw:
    """Draw independent normal inputs; `shape` is that of one example."""
    return lambda n, generator: {name: torch.randn(n, *shape, generator=generator) * scale}


def rows(x: Tensor, name: str = "x") -> Draw:
    """Draw rows of a data set, without replacement if there are enough."""

    def draw(n: int, generator: Generator) -> dict[str, Tensor]:
        few = n > len(x)
        chosen = torch.randint(0, len(x), (n,), generator=generator) if few else torch.randperm(len(x), generator=generator)[:n]
        return {name: x[chosen]}

    return draw


def trained(module: nn.Module, x: Tensor, y: Tensor, epochs: int = 8, rate: float = 3e-3) -> nn.Module:
    """Train by Adam with batches of 64 in a fixed order: cross-entropy for labels, squared error for numbers."""
    loss_of = functional.mse_loss if y.is_floating_point() else functional.cross_entropy
    adam, generator = torch.optim.Adam(module.parameters(), rate), torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=generator).split(64):
            adam.zero_grad()
            loss_of(module(x[part]), y[part]).backward()
            adam.step()
    return module.eval().requires_grad_(False)
