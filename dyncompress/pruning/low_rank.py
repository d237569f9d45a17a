"""Two thin layers in place of one: the factors that change its outputs least."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import torch

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = 1e-12  # share of the largest power below which a direction is rounding error


def factors(weight: Tensor, moment: Tensor | None, ranks: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """For each rank r the pair (A, B) with the smallest E|(W - B A) x|^2, whose inner outputs A x have power 1 each.

    With G = E[(W x)(W x)^T] = W S W^T, S the inputs' moment, and U its r leading eigenvectors, of eigenvalues L:

        A = L^-1/2 U^T W,   B = U L^1/2,   E|(W - B A) x|^2 = the sum of the other eigenvalues

    so it is the truncated singular value decomposition of W S^1/2, without a root or an inverse of S, and no gain of any
    output could lower the error further. Inner outputs of equal power lose the least where they share one grid.

    Source: Eckart and Young, 1936, in the metric of the inputs; Zhang et al., "Accelerating very deep convolutional networks",
    TPAMI 2016.
    Cost: one symmetric eigenvalue problem of size out, for all ranks.

    Args:
        weight: `[out, in, *kernel]`, groups = 1.
        moment: S, `[K, K]`; None: the identity, the plain decomposition.
        ranks: each from 1 to min(out, K).

    Returns:
        for each rank A `[r, in, *kernel]` and B `[out, r]`, float32.

    Raises:
        InvalidRequest: a rank is out of range.

    Example:
        >>> ((inner, outer),) = factors(torch.diag(torch.tensor([3.0, 1.0])), None, (1,))
        >>> (outer @ inner).round(decimals=4).tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    flat = weight.detach().double().flatten(1)
    out, fan_in = flat.shape
    for rank in ranks:
        if not 1 <= rank <= min(out, fan_in):
            raise InvalidRequest(f"low_rank: rank {rank} of a {out} x {fan_in} weight; give 1 to {min(out, fan_in)}.")
    seen = flat if moment is None else flat @ moment.double()
    power, directions = torch.linalg.eigh(seen @ flat.T)
    power, directions = power.flip(0).clamp(min=0), directions.flip(1)
    scale = power.clamp(min=FLOOR * float(power.max()) or 1.0).sqrt()
    inner = (directions.T @ flat) / scale[:, None]
    outer = directions * scale
    return [(inner[:r].reshape(r, *weight.shape[1:]).float(), outer[:, :r].float()) for r in ranks]


def composed(inner: Tensor, outer: Tensor) -> Tensor:
    """B A in the shape of the weight that it stands for, `[out, in, *kernel]`."""
    return (outer.double() @ inner.double().flatten(1)).reshape(len(outer), *inner.shape[1:])


def inner_moment(inner: Tensor, moment: Tensor) -> Tensor:
    """Second moment of the inner outputs, A S A^T, `[1, r, r]`, from S `[1, K, K]`."""
    flat = inner.double().flatten(1)
    return (flat @ moment[0].double() @ flat.T)[None].to(moment.dtype)
