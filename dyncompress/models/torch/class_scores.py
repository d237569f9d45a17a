"""Class scores of a network, whose softmax are its predicted probabilities."""

from __future__ import annotations

from torch import Tensor

SMALLEST = 1e-7  # of a probability; smaller ones are rounding errors in float32
ROUNDING = 1e-3  # by which a row of probabilities may miss 1


def are_scores(output: Tensor) -> bool:
    """Whether an output holds class scores or probabilities, `[n, c]` with c > 1."""
    return output.ndim == 2 and output.shape[1] > 1


def are_probabilities(output: Tensor) -> bool:
    """Whether an output `[n, c]` ends in a softmax: every row is positive and adds up to 1.

    Example:
        >>> import torch
        >>> are_probabilities(torch.tensor([[0.2, 0.8]])), are_probabilities(torch.tensor([[2.0, 0.8]]))
        (True, False)
    """
    output = output.detach()
    return bool((output >= 0).all()) and bool(((output.sum(1) - 1).abs() <= ROUNDING).all())


def as_scores(output: Tensor, like: Tensor | None = None) -> Tensor:
    """The scores `[n, c]` whose softmax are the predicted probabilities: the logarithm, where an output is probabilities already.

    Args:
        output: scores or probabilities `[n, c]`, floating point.
        like: the output that decides which of the two it is; None: the output itself.
    """
    return output.clamp_min(SMALLEST).log() if are_probabilities(output if like is None else like) else output
