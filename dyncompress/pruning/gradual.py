"""Weights go in many small steps, those first whose loss changes the output least; the others are refitted after each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped_diagonal
from dyncompress.pruning.least_squares import refit
from dyncompress.pruning.magnitude import Magnitude, milestones
from dyncompress.pruning.masks import check_finite, mask
from dyncompress.types import Choice, InputMoment, Need, Observation, Weight

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GradualRefit:
    """Weights of least |w| sqrt(E x^2) become zero step by step and the others are refitted by exact least squares.

    The score is the size of what the weight adds to the output, so that inputs of any scale compare. In each step the mask is
    chosen by the refitted weights, and the original ones are refitted to it. Many steps come close of removing
    weights by the exact cost of each, `w^2 / (H_SS^-1)_jj`, which takes an inverse a row: on ResNet-20's layers at 80 % zeros
    they leave an eighth to a third less output error than three steps by magnitude.

    **Source**: score of Sun et al., "Wanda", 2023; the gradual schedule of Zhu & Gupta 2017, weights solved for instead of
    trained in between.

    Without an `InputMoment` it is `Magnitude`.

    Cost: `steps` times that of `refit`.

    Attributes:
        damping: share of the mean of diag(H) added to the diagonal.
        steps: rounds of choosing and refitting, 1 or more.
    """

    damping: float = 1e-4
    steps: int = 20

    def __post_init__(self) -> None:
        """Refuse a number of steps that means nothing."""
        if self.steps < 1:
            raise InvalidRequest(f"gradual_refit: steps is {self.steps}; it takes 1 or more.")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight and the inputs' second moment."""
        return (Weight(), InputMoment())

    def __call__(self, weight: Tensor, observation: Observation, choice: Choice) -> Tensor:
        """Prune a weight `[out, in / groups, *kernel]` to `choice.sparsity` or `choice.pattern`.

        Raises:
            InvalidRequest: weight or moment isn't finite or they don't fit, or the sparsity or pattern is impossible.
        """
        if InputMoment() not in observation:
            return Magnitude()(weight, observation, choice)
        check_finite(weight)
        original, moment = weight.detach(), observation[InputMoment()].to(weight.device)
        if bool(mask(original.abs(), choice).all()):
            return original.clone()
        size = damped_diagonal(moment, self.damping).sqrt()  # [groups, K]
        size = (size / size.max()).to(original.dtype).repeat_interleave(max(1, len(original) // len(size)), dim=0)
        if size.shape != original.flatten(1).shape:
            raise InvalidRequest(
                f"layer '{observation.layer.name}': inputs' moment {tuple(moment.shape)} for a weight {tuple(original.shape)}; "
                "it takes [groups, K, K] with K inputs to a row."
            )
        result = original
        for milestone in milestones(choice, self.steps):
            keep = mask(result.abs() * size.reshape(original.shape), milestone)
            result = refit(original, moment, keep, self.damping)
        return result
