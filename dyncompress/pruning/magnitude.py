"""The smallest weights go; and the same with the others refitted, the strongest of the simple pruners."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyncompress.pruning.least_squares import refit
from dyncompress.pruning.masks import check_finite, mask
from dyncompress.types import Choice, InputMoment, Need, Observation, Weight


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


@dataclass(frozen=True)
class MagnitudeRefit:
    """Weights of least |w| become zero and the others are refitted by exact least squares on the inputs' moment.

    At 70 to 80 % zeros it beats error feedback, which fixes each weight before it has seen all the others go. Without an
    `InputMoment` it is `Magnitude`.

    Attributes:
        damping: share of the mean of diag(H) added to the diagonal.
    """

    damping: float = 1e-4

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
        keep = mask(weight.detach().abs(), choice)
        if InputMoment() not in observation or bool(keep.all()):
            return torch.where(keep, weight.detach(), 0)
        return refit(weight, observation[InputMoment()], keep, self.damping)
