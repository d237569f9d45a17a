"""Magnitude pruning, alone and with a least-squares refit of the remaining weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.pruning.least_squares import refit
from dyncompress.pruning.masks import check_finite, mask, parse_pattern
from dyncompress.types import Choice, InputMoment, Need, Observation, Weight
from dyncompress.types.arrays import Float


@dataclass(frozen=True)
class Magnitude:
    """Set the weights of smallest |w| to zero and leave the others as they are.

    Example:
        >>> from dyncompress.types import Layer
        >>> nothing = Observation(Layer("fc", "linear", (2, 2), 0), {})
        >>> Magnitude()(torch.tensor([[3.0, 1.0], [2.0, -4.0]]), nothing, Choice(sparsity=0.5))
        tensor([[ 3.,  0.],
                [ 0., -4.]])
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """Only the weight."""
        return (Weight(),)

    def __call__(self, weight: Float[Tensor, ...], observation: Observation, choice: Choice) -> Float[Tensor, ...]:
        """Prune a weight `[out, in / groups, *kernel]` to `choice.sparsity`, or to `choice.pattern` n:m if there is one.

        Returns:
            A new weight of the same shape, dtype and device.

        Raises:
            InvalidRequest: the weight isn't finite, or the sparsity or pattern is impossible.
        """
        check_finite(weight)
        return torch.where(mask(weight.detach().abs(), choice), weight.detach(), 0)


def milestones(choice: Choice, steps: int) -> list[Choice]:
    """A schedule of choices of growing sparsity that ends in `choice`.

    The share of kept weights falls geometrically, the n of a pattern n:m linearly. A pattern may have fewer steps than asked for.
    """
    if not choice.pattern:
        return [replace(choice, sparsity=1 - (1 - choice.sparsity) ** (i / steps)) for i in range(1, steps)] + [choice]
    n, m = parse_pattern(choice.pattern)
    counts = sorted({m - (m - n) * i // steps for i in range(1, steps)} - {n, m}, reverse=True)
    return [replace(choice, pattern=f"{count}:{m}") for count in counts] + [choice]


@dataclass(frozen=True)
class MagnitudeRefit:
    """Set the weights of smallest |w| to zero and refit the others by exact least squares on the inputs' second moment.

    This is done in a few steps, because a weight that has taken over part of the pruned ones is no longer small: each step
    chooses its mask by the refitted weights, then refits the original weights under that mask. At 70 to 80 % zeros even one
    step leaves less output error than the error feedback of `SparseGpt`, which fixes each weight before it knows which later
    ones are pruned. Without an `InputMoment` in the observation it does what `Magnitude` does.

    **Cost**: `steps` times that of `refit`.

    Attributes:
        damping: share of the mean of diag(H) that is added to the diagonal.
        steps: rounds of choosing a mask and refitting, 1 or more.

    Example:
        >>> from dyncompress.types import Layer
        >>> seen = Observation(Layer("fc", "linear", (1, 2), 0), {InputMoment(): torch.tensor([[[1.0, 0.5], [0.5, 1.0]]])})
        >>> MagnitudeRefit(damping=0.0)(torch.tensor([[2.0, 1.0]]), seen, Choice(sparsity=0.5))
        tensor([[2.5000, 0.0000]])
    """

    damping: float = 1e-4
    steps: int = 3

    def __post_init__(self) -> None:
        """Check the number of steps."""
        if self.steps < 1:
            raise InvalidRequest(f"magnitude_refit: steps is {self.steps}; it takes 1 or more.")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight and the second moment of the inputs."""
        return (Weight(), InputMoment())

    def __call__(self, weight: Float[Tensor, ...], observation: Observation, choice: Choice) -> Float[Tensor, ...]:
        """Prune a weight to `choice.sparsity` or `choice.pattern`.

        Args:
            weight: `[out, in / groups, *kernel]`.
            observation: of the weight's layer; its `InputMoment` `[groups, K, K]` is read if it is there.
            choice: its `sparsity`, or its `pattern` n:m if there is one.

        Returns:
            A new weight of the same shape, dtype and device.

        Raises:
            InvalidRequest: the weight or the moment isn't finite, they don't fit, or the sparsity or pattern is impossible.
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
