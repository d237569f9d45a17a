"""The smallest weights go; and the same with the others refitted, the strongest of the simple pruners."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import torch
from dyncompress.pruning.least_squares import refit
from dyncompress.pruning.masks import check_finite, mask, parsed
from dyncompress.types import Choice, InputMoment, Need, Observation, Weight

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Magnitude:
    """Weights of least |w| become zero; the others are left as they are."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """Only the weight."""
        return (Weight(),)

    def __call__(self, weight: Tensor, observation: Observation, choice: Choice) -> Tensor:
        """Prune a weight `[out, in / groups, *kernel]` to `choice.sparsity` or `choice.pattern`.

        Raises:
            InvalidRequest: the weight isn't finite, or the sparsity or pattern is impossible.
        """
        check_finite(weight)
        return torch.where(mask(weight.detach().abs(), choice), weight.detach(), 0)


def milestones(choice: Choice, steps: int) -> list[Choice]:
    """Ever sparser requests that end in `choice`: the share kept falls geometrically, the n of n:m linearly."""
    if not choice.pattern:
        return [replace(choice, sparsity=1 - (1 - choice.sparsity) ** (i / steps)) for i in range(1, steps)] + [choice]
    n, m = parsed(choice.pattern)
    counts = sorted({m - (m - n) * i // steps for i in range(1, steps)} - {n, m}, reverse=True)
    return [replace(choice, pattern=f"{count}:{m}") for count in counts] + [choice]


@dataclass(frozen=True)
class MagnitudeRefit:
    """Weights of least |w| become zero and the others are refitted by exact least squares on the inputs' moment.

    It is done in a few steps, each choosing by the refitted weights and refitting the original ones, since a weight that
    has taken over others' work is no longer small. At 70 to 80 % zeros even one step beats error feedback, which fixes
    each weight before it has seen all the others go. Without an `InputMoment` it is `Magnitude`.

    Cost: `steps` times that of `refit`.

    Attributes:
        damping: share of the mean of diag(H) added to the diagonal.
        steps: rounds of choosing and refitting, 1 or more.
    """

    damping: float = 1e-4
    steps: int = 3

    def __post_init__(self) -> None:
        """Refuse a number of steps that means nothing."""
        if self.steps < 1:
            raise InvalidRequest(f"magnitude_refit: steps is {self.steps}; it takes 1 or more.")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight and the inputs' second moment."""
        return (Weight(), InputMoment())

    def __call__(self, weight: Tensor, observation: Observation, choice: Choice) -> Tensor:
        """Prune a weight `[out, in / groups, *kernel]` to `choice.sparsity` or `choice.pattern`.

        Raises:
            InvalidRequest: weight or moment isn't finite or they don't fit, or the sparsity or pattern is impossible.
        """
        check_finite(weight)
        original = weight.detach()
        keep = mask(original.abs(), choice)
        if InputMoment() not in observation or bool(keep.all()):
            return torch.where(keep, original, 0)
        result = original
        for milestone in milestones(choice, self.steps):
            keep = mask(result.abs(), milestone)
            result = refit(original, observation[InputMoment()], keep, self.damping)
        return result
