"""A model with a trait of public bug reports: how it is built, its calibration data, and the expected result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@dataclass(frozen=True)
class Subject:
    """A model and its data.

    Attributes:
        model: builds the model, in eval mode unless the trait is training mode.
        data: calibration data, anything that a user may pass.
        refused: a pattern in the message of the refusal; empty if the model is compressed.
        fresh: new inputs by name, for the file and for the model; None uses `data`.
        judged: whether the file's outputs are compared with the model's.
    """

    model: Callable[[], Any]
    data: Callable[[], Any]
    refused: str = ""
    fresh: Callable[[], dict[str, Any]] | None = None
    judged: bool = True


def randn(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal numbers from a fixed seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(*shape: int, most: int = 30) -> Tensor:
    """Random integers below `most`."""
    return torch.randint(0, most, shape, generator=torch.Generator().manual_seed(1))


def with_values_of_training(model: Any) -> Any:
    """The model, in place, with small random numbers added to its parameters that are all zero or all one.

    No trained network has such biases. An exporter merges equal ones, so that every file of such a model is exported anew.
    """
    for parameter in model.parameters() if isinstance(model, nn.Module) else ():
        ordinary = parameter.is_floating_point() and not (is_lazy(parameter) or parameter.is_meta or parameter.is_inference())
        if ordinary and parameter.layout == torch.strided and parameter.numel() > 1:
            with torch.no_grad():
                first = parameter.flatten()[0]
                if bool((parameter == first).all()):
                    parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def seeded(build: Callable[[], Any]) -> Callable[[], Any]:
    """A builder with weights from a fixed seed; the model is in eval mode."""

    def made() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = with_values_of_training(build())
        return model.eval() if isinstance(model, nn.Module) else model

    return made


def perceptron() -> nn.Sequential:
    """Two linear layers from 20 features to 5 scores."""
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))


def convolutions() -> nn.Sequential:
    """Two convolutions and a linear layer from images `[n, 3, 12, 12]` to 5 scores."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(576, 5)
    )


def images() -> Tensor:
    """64 images for `convolutions`."""
    return randn(64, 3, 12, 12)


def pixels() -> np.ndarray:
    """The same images as a numpy array."""
    return images().numpy()
