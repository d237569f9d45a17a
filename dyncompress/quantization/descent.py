"""Coordinate descent on integer codes: improve each code in turn while all others are held."""

from __future__ import annotations

from typing import NamedTuple

from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.types.arrays import Float

# Columns between two matrix products: inside a block errors are propagated by rank-one updates.
_BLOCK = 64


class DampedMoment(NamedTuple):
    """The inputs' second moment with a damped diagonal, kept apart so that the moment isn't copied.

    Attributes:
        matrix: `[groups, K, K]`, the inputs' second moment.
        added: `[groups, K]`, what is added to the moment's diagonal.
    """

    matrix: Float[Tensor, "groups K K"]
    added: Float[Tensor, "groups K"]


def descend(
    target: Float[Tensor, "groups K rows"],
    codes: Float[Tensor, "groups K rows"],
    scale: Float[Tensor, "#groups #K #rows"],
    limits: tuple[int, int],
    moment: DampedMoment,
) -> Float[Tensor, "groups K rows"]:
    """One sweep of coordinate descent on the output error e H e^T, e = w - s q, H the damped moment.

    Column by column, with all other codes held, the best code is

        q_j = clamp(round(q_j + (e H)_j / (H_jj s_j))),

    so no step raises the error. Error feedback rounds a column once, before the codes of later columns are known; a sweep
    rounds it again when they are.

    **Source**: coordinate descent on rounding, e.g. Behdin et al., "QuantEase", 2023.

    **Cost**: rows * K^2 flops; memory of a few copies of the weights.

    Args:
        target: weights, columns first, `[groups, K, rows]`; where a weight and its code are both 0 the code stays 0.
        codes: integers in a float tensor of the same shape.
        scale: positive, the same shape or one that expands to it.
        limits: lowest and highest code.
        moment: H, the inputs' second moment and what is added to its diagonal.

    Returns:
        The new codes, in the shape and dtype of `codes`.
    """
    matrix, added = moment
    codes, scale = codes.clone(), scale.expand_as(target)
    error = target - codes * scale
    may_change = (target != 0) | (codes != 0)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1) + added  # [groups, K]
    step = (diagonal[:, :, None] * scale).clamp_min(torch.finfo(target.dtype).tiny)
    for start in range(0, target.shape[1], _BLOCK):
        stop = min(start + _BLOCK, target.shape[1])
        inside = matrix[:, start:stop, start:stop].to(target.dtype)
        # (e H) of the block's columns, kept up to date as codes change
        gradient = matrix[:, start:stop].to(target.dtype) @ error
        gradient = gradient + added[:, start:stop, None].to(target.dtype) * error[:, start:stop]
        for j in range(start, stop):
            own = gradient[:, j - start]
            q = torch.where(may_change[:, j], (codes[:, j] + own / step[:, j]).round_().clamp_(*limits), codes[:, j])
            change = (codes[:, j] - q) * scale[:, j]
            codes[:, j] = q
            error[:, j] += change
            gradient += inside[:, :, j - start, None] * change[:, None]
            own += added[:, j, None].to(target.dtype) * change
    return codes
