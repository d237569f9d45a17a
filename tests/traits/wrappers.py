"""Models inside wrappers, and parameters that are not plain tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import prune

from tests.traits.subject import Subject, convolutions, images, perceptron, randn, seeded


class Two(nn.Module):
    """A model with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(20, 32), nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Scores, `[n, 4]`."""
        return self.c((self.a(left) + self.b(right)).relu())


def both() -> dict[str, Tensor]:
    """Inputs by name."""
    return {"left": randn(64, 20), "right": randn(64, 8)}


def pair() -> list[tuple[Tensor, Tensor]]:
    """One batch by position."""
    return [(randn(64, 20), randn(64, 8))]


class Inner(nn.Module):
    """A compiled or scripted part between ordinary layers."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(20, 64), wrap(nn.Sequential(nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.c(self.b(self.a(x).relu()))


class Random(nn.Module):
    """A model that draws random numbers in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(20, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.b(nn.functional.dropout(self.a(x).relu(), 0.2, training=True))


class Noisy(Random):
    """A model that adds noise to its features."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        y = self.a(x).relu()
        return self.b(y + 0.1 * torch.randn_like(y))


class Keeps(nn.Module):
    """A model with tensors of an autograd graph in an attribute, a list and a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(20, 64), nn.Linear(64, 5)
        self.norm = self.a.weight.norm()
        self.history, self.cache = [self.a.weight.sum()], {"b": [self.b.weight * 2]}

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`; the last features are kept."""
        self.last = self.a(x).relu()
        self.history.append(self.last.mean())
        return self.b(self.last)


class Factors(nn.Module):
    """A model with a complex parameter, an empty one and an unused one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(20, 64), nn.Linear(64, 5)
        self.phase = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))
        self.nothing = nn.Parameter(torch.empty(0, 8))

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.b(self.a(x).relu())


def after_a_pass(model: nn.Module) -> nn.Module:
    """The model after a forward pass, whose computed weights belong to an autograd graph."""
    model(randn(2, 20))
    return model


def pruned(quiet: bool) -> nn.Module:
    """A model with half of a layer masked by torch's own pruning."""
    model = perceptron()
    prune.l1_unstructured(model[0], "weight", 0.5)
    with torch.set_grad_enabled(not quiet):
        model(randn(2, 20))
    return model


def normed(old: bool) -> nn.Module:
    """A model with weight normalisation, in either of torch's forms."""
    model = perceptron()
    (nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm)(model[0])
    return after_a_pass(model)


def spectral(old: bool) -> nn.Module:
    """A model with spectral normalisation, in either of torch's forms."""
    model = perceptron()
    (nn.utils.spectral_norm if old else nn.utils.parametrizations.spectral_norm)(model[0])
    return after_a_pass(model)


def sparse() -> nn.Module:
    """A model with a weight as a sparse tensor."""
    model = perceptron()
    model[2].weight = nn.Parameter(model[2].weight.detach().to_sparse())
    return model


def on_meta() -> nn.Module:
    """A model with weights on the meta device."""
    with torch.device("meta"):
        return perceptron()


def lazy(run: bool) -> nn.Module:
    """A model with lazy layers, whose shapes the first pass sets."""
    model = nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(5))
    if run:
        model(randn(2, 20))
    return model


def in_inference_mode() -> nn.Module:
    """A model with weights that were created in inference mode."""
    with torch.inference_mode():
        return perceptron()


def frozen() -> nn.Module:
    """A model whose parameters need no gradient."""
    return convolutions().requires_grad_(False)


def rows() -> Tensor:
    """Inputs of `perceptron`."""
    return randn(64, 20)


def averaged() -> nn.Module:
    """A running mean of weights, as in torch's SWA and EMA."""
    return torch.optim.swa_utils.AveragedModel(perceptron())


SUBJECTS = {
    "compiled": Subject(seeded(lambda: torch.compile(Two())), both),
    "compiled, by position": Subject(seeded(lambda: torch.compile(Two())), pair),
    "DataParallel, two inputs": Subject(seeded(lambda: nn.DataParallel(Two())), both),
    "DataParallel inside compile": Subject(seeded(lambda: torch.compile(nn.DataParallel(Two()))), pair),
    "scripted": Subject(seeded(lambda: torch.jit.script(Two())), both),
    "traced": Subject(seeded(lambda: torch.jit.trace(Two(), (randn(2, 20), randn(2, 8)))), pair),
    "compiled part": Subject(seeded(lambda: Inner(torch.compile)), rows),
    "scripted part": Subject(seeded(lambda: Inner(torch.jit.script)), rows, refused="TorchScript"),
    "averaged": Subject(seeded(averaged), rows),
    "fx graph": Subject(seeded(lambda: fx.symbolic_trace(perceptron())), rows),
    "exported program": Subject(seeded(lambda: torch.export.export(perceptron(), (randn(2, 20),))), rows),
    "function": Subject(lambda: torch.relu, rows, refused=r"torch\.nn\.Module"),
    "weight norm, old": Subject(seeded(lambda: normed(old=True)), rows),
    "weight norm": Subject(seeded(lambda: normed(old=False)), rows),
    "spectral norm, old": Subject(seeded(lambda: spectral(old=True)), rows),
    "spectral norm": Subject(seeded(lambda: spectral(old=False)), rows),
    "pruned": Subject(seeded(lambda: pruned(quiet=False)), rows),
    "pruned, then run without a graph": Subject(seeded(lambda: pruned(quiet=True)), rows),
    "tensors kept from the graph": Subject(seeded(lambda: after_a_pass(Keeps())), rows),
    "meta": Subject(seeded(on_meta), rows, refused="meta"),
    "lazy": Subject(seeded(lambda: lazy(run=False)), rows, refused="run the model once"),
    "lazy after a pass": Subject(seeded(lambda: lazy(run=True)), rows),
    "sparse": Subject(seeded(sparse), rows, refused="to_dense"),
    "inference mode": Subject(in_inference_mode, rows),
    "frozen": Subject(seeded(frozen), images),
    "dropout in eval mode": Subject(seeded(Random), rows, refused="random"),
    "noise in eval mode": Subject(seeded(Noisy), rows, refused="random"),
    "complex and empty parameters": Subject(seeded(Factors), rows),
}
