"""What a cell of `benchmarks.soundness` is made of: a network, the law of its inputs, how it is called and trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

Draw = Callable[[int, Generator], dict[str, Tensor]]  # how many examples, and the generator -> inputs by name


@dataclass(frozen=True)
class Subject:
    """A network and its inputs.

    Attributes:
        module: in eval mode.
        law: draws calibration inputs.
        fresh: draws the new inputs that the file is judged on; None: by the same law.
        calibration, n: how many of each are drawn.
        keywords: whether the network is called with keyword arguments; else by position, in the order of the names.
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
    """Independent normal inputs of this shape an example."""
    return lambda n, generator: {name: torch.randn(n, *shape, generator=generator) * scale}


def rows(x: Tensor, name: str = "x") -> Draw:
    """Rows of a data set, without replacement where there are enough."""

    def draw(n: int, generator: Generator) -> dict[str, Tensor]:
        few = n > len(x)
        chosen = torch.randint(0, len(x), (n,), generator=generator) if few else torch.randperm(len(x), generator=generator)[:n]
        return {name: x[chosen]}

    return draw


def trained(module: nn.Module, x: Tensor, y: Tensor, epochs: int = 8, rate: float = 3e-3) -> nn.Module:
    """The network after Adam: cross-entropy for labels, squared error for numbers; batches of 64 in a fixed order."""
    loss_of = functional.mse_loss if y.is_floating_point() else functional.cross_entropy
    adam, generator = torch.optim.Adam(module.parameters(), rate), torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=generator).split(64):
            adam.zero_grad()
            loss_of(module(x[part]), y[part]).backward()
            adam.step()
    return module.eval().requires_grad_(False)
