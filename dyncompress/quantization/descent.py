"""Codes that were found one after the other, each looked at again with all others as they ended up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyncompress.linalg.deferred import torch

if TYPE_CHECKING:
    from torch import Tensor


# Columns between two matrix products: inside a block errors spread by rank-one updates.
_BLOCK = 64


def descended(target: Tensor, codes: Tensor, scale: Tensor, limits: tuple[int, int], moment: Tensor, added: Tensor) -> Tensor:
    """One sweep of coordinate descent on e H e^T, e = w - s q, H the moment with `added` on its diagonal.

    Column by column, with the others held, the best code is

        q_j = clamp(round(q_j + (e H)_j / (H_jj s_j))),

    so that no step raises the error. Error feedback looks at a column once, before those to come are known.

    **Source**: coordinate descent on rounding, e.g. Behdin et al., "QuantEase", 2023.

    Cost: rows * K^2 flops; memory of a few copies of the weights.

    Args:
        target: weights, columns first, `[groups, K, rows]`; where they are 0 and their code is 0 it stays so.
        codes: the same shape.
        scale: the same shape, or one that expands to it.
        limits: lowest and highest code.
        moment: `[groups, K, K]`.
        added: `[groups, K]`, added to its diagonal.

    Returns:
        New codes, the same shape.
    """
    codes, scale = codes.clone(), scale.expand_as(target)
    error = target - codes * scale
    free = (target != 0) | (codes != 0)
    diagonal = moment.diagonal(dim1=-2, dim2=-1) + added  # [groups, K]
    step = (diagonal[:, :, None] * scale).clamp_min(torch.finfo(target.dtype).tiny)
    for start in range(0, target.shape[1], _BLOCK):
        stop = min(start + _BLOCK, target.shape[1])
        inside = moment[:, start:stop, start:stop].to(target.dtype)
        pull = moment[:, start:stop].to(target.dtype) @ error + added[:, start:stop, None].to(target.dtype) * error[:, start:stop]
        for j in range(start, stop):
            own = pull[:, j - start]
            q = torch.where(free[:, j], (codes[:, j] + own / step[:, j]).round_().clamp_(*limits), codes[:, j])
            change = (codes[:, j] - q) * scale[:, j]
            codes[:, j] = q
            error[:, j] += change
            pull += inside[:, :, j - start, None] * change[:, None]
            own += added[:, j, None].to(target.dtype) * change
    return codes
