"""Gradual pruning: in many small steps, zero the weights that contribute least to the output and refit the others."""

from __future__ import annotations

from dataclasses import dataclass

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped_diagonal
from dyncompress.linalg.deferred import Tensor
from dyncompress.pruning.least_squares import refit
from dyncompress.pruning.magnitude import Magnitude, milestones
from dyncompress.pruning.masks import check_finite, mask
from dyncompress.types import Choice, InputMoment, Need, Observation, Weight
from dyncompress.types.arrays import Float


@dataclass(frozen=True)
class GradualRefit:
    """Zero the weights of smallest |w| sqrt(E[x^2]) step by step, and refit the others by least squares after each step.

    The score is the root mean square of what the weight adds to the output, so it compares weights whose inputs have different
    scales. Each step chooses its mask by the refitted weights, then refits the original weights under that mask. With many
    steps the result comes close to removing weights one by one by their exact cost, `w^2 / (H_SS^-1)_jj`, which would need a
    matrix inverse for every row. On the layers of ResNet-20 at 80 % zeros the default leaves an eighth to a third less output
    error than `MagnitudeRefit` with its three steps.

    Without an `InputMoment` in the observation it does what `Magnitude` does.

    **Source**: the score is that of Sun et al., "Wanda", 2023; the schedule is that of Zhu & Gupta 2017, with a least-squares
    solution in place of training between the steps.

    **Cost**: `steps` times that of `refit`.

    Attributes:
        damping: share of the mean of diag(H) that is added to the diagonal.
        steps: rounds of choosing a mask and refitting, 1 or more.

    Example:
        >>> import torch
        >>> from dyncompress.types import Layer
        >>> seen = Observation(Layer("fc", "linear", (1, 2), 0), {InputMoment(): torch.tensor([[[1.0, 0.0], [0.0, 100.0]]])})
        >>> GradualRefit()(torch.tensor([[2.0, 1.0]]), seen, Choice(sparsity=0.5))  # the input of weight 1 is ten times larger
        tensor([[0., 1.]])
    """

    damping: float = 1e-4
    steps: int = 20

    def __post_init__(self) -> None:
        """Check the number of steps."""
        if self.steps < 1:
            raise InvalidRequest(f"gradual_refit: steps is {self.steps}; it takes 1 or more.")

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
                f"layer '{observation.layer.name}': the inputs' moment has shape {tuple(moment.shape)}, the weight "
                f"{tuple(original.shape)}; pass a moment [groups, K, K], K = in / groups * kernel size."
            )
        result = original
        for milestone in milestones(choice, self.steps):
            keep = mask(result.abs() * size.reshape(original.shape), milestone)
            result = refit(original, moment, keep, self.damping)
        return result
