"""What a checkpoint holds, in whatever places: states of optimizers, sets of weights, and numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

DEPTH = 5  # levels of a checkpoint that are searched
BATCH_SIZES = ("train_batch_size", "batch_size")  # names under which trainers keep it
ACCUMULATED = ("gradient_accumulation_steps", "accumulate_grad_batches")
_AVERAGED = re.compile(r"ema|aver|avg|swa|shadow", re.IGNORECASE)
_BUFFERS = (".running_mean", ".running_var")


@dataclass(frozen=True)
class Weights:
    """A set of weights.

    Attributes:
        path: of its place in the checkpoint.
        tensors: name -> tensor, in order, with tied ones once and running means of normalisation layers left out.
        ordered: whether the order is the model's; files of safetensors are sorted by name.
    """

    path: str
    tensors: Mapping[str, Tensor]
    ordered: bool = True

    @property
    def averaged(self) -> bool:
        """Whether its place says that these are averages of the weights (EMA, SWA)."""
        return bool(_AVERAGED.search(self.path))


@dataclass(frozen=True)
class OptimizerState:
    """The state dict of an optimizer.

    Attributes:
        path: of its place in the checkpoint.
        states: key -> what the optimizer keeps of a parameter.
        groups: of parameters, each with `params`, the keys, and hyper-parameters.
    """

    path: str
    states: Mapping[Any, Any]
    groups: Sequence[Mapping[str, Any]]

    def parameters(self) -> Iterator[tuple[int, Any]]:
        """(group, key) of every parameter, in the optimizer's order."""
        for group, values in enumerate(self.groups):
            for key in values["params"]:
                yield group, key


@dataclass
class Contents:
    """What a checkpoint holds.

    Attributes:
        optimizers: states of optimizers.
        weights: sets of weights, those that were averaged last.
        numbers: the numbers in it by their name, such as `global_step`.
        clipped: whether gradients were clipped so often that the squares have a unit of their own.
        notes: sentences.
    """

    optimizers: list[OptimizerState] = field(default_factory=list)
    weights: list[Weights] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    clipped: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def batch_size(self) -> int:
        """Examples of one step as the file says it, accumulated batches included; 0 if it doesn't."""
        size = next((self.numbers[key] for key in BATCH_SIZES if key in self.numbers), 0.0)
        times = next((self.numbers[key] for key in ACCUMULATED if key in self.numbers), 1.0)
        return int(size * max(times, 1.0)) if 0 < size * times < 2**53 else 0


def contents_of(value: Any) -> Contents:
    """Find optimizers, sets of weights and numbers in what a checkpoint holds."""
    found = Contents()
    _search(value, found, DEPTH, "")
    found.weights.sort(key=lambda weights: weights.averaged)
    return found


def _search(value: Any, found: Contents, depth: int, path: str) -> None:
    """Search one level and those below it."""
    if isinstance(value, Mapping):
        if isinstance(value.get("state"), Mapping) and isinstance(value.get("param_groups"), list):
            found.optimizers.append(OptimizerState(path, value["state"], value["param_groups"]))
            return
        tensors = {str(k): v for k, v in value.items() if isinstance(v, Tensor) and v.is_floating_point()}
        if any(tensor.ndim > 1 for tensor in tensors.values()):
            found.weights.append(Weights(path, _without_twins(tensors)))
        for key, number in value.items():
            if isinstance(number, int | float) and not isinstance(number, bool):
                found.numbers.setdefault(str(key), float(number))
        parts = list(value.items())
    elif isinstance(value, list | tuple):
        parts = list(enumerate(value))
    else:
        return
    if depth:
        for key, part in parts:
            _search(part, found, depth - 1, f"{path}.{key}".removeprefix("."))


def _without_twins(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with tied ones once, and without buffers that no optimizer has."""
    kept: dict[str, Tensor] = {}
    seen = set()
    for name, value in tensors.items():
        place = (value.data_ptr(), value.shape, value.stride()) if value.numel() else name
        if place not in seen and not name.endswith(_BUFFERS):
            kept[name] = value
        seen.add(place)
    return kept
