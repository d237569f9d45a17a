"""Damping of second moments, and their Cholesky factors."""

from __future__ import annotations

import math

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.types.arrays import Float, Float64, Int32


def damped_diagonal(moment: Float[Tensor, "*batch K K"], damping: float) -> Float64[Tensor, "*batch K"]:
    """The diagonal of `damped(moment, damping)` alone, float64 `[..., K]`."""
    diagonal = moment.diagonal(dim1=-2, dim2=-1).to(torch.float64)
    mean = diagonal.mean(-1, keepdim=True)
    level = torch.where(mean > 0, mean, torch.ones_like(mean))
    raised = diagonal + damping * level
    return torch.where(raised > 0, raised, level)


def damped(moment: Float[Tensor, "*batch K K"], damping: float) -> Float64[Tensor, "*batch K K"]:
    """H + (damping * mean(diag H)) I, float64, with only positive numbers on the diagonal.

    A zero moment counts as having mean 1. With damping 0, the diagonal entry of an input that is always zero becomes the mean:
    its row and column are zero, so any positive number leaves the solutions for the other inputs unchanged.

    Args:
        moment: `[..., K, K]`, symmetric, non-negative definite.
        damping: share of the mean diagonal entry, at least 0.

    Raises:
        InvalidRequest: the moment holds NaN or infinity, or damping is negative.
    """
    if damping < 0:
        raise InvalidRequest(f"damping is {damping}; give a share of the mean diagonal entry, 0 or more.")
    result = moment.to(torch.float64, copy=True)
    if result.numel() and not all(math.isfinite(float(end)) for end in torch.aminmax(result)):  # isfinite copies the matrix
        raise InvalidRequest("the inputs' second moment holds NaN or infinite values; clean the calibration data.")
    result.diagonal(dim1=-2, dim2=-1).copy_(damped_diagonal(result, damping))
    return result


def damped_cholesky(moment: Float[Tensor, "*batch K K"], damping: float = 0.01) -> Float64[Tensor, "*batch K K"]:
    """Lower Cholesky factor L of the damped moment, L L^T = H + damping * mean(diag H) I (see `damped`).

    Where rounding errors make a matrix indefinite, its damping is multiplied by ten, from 1e-10 on, until the factorization
    succeeds; with the mean itself as damping it succeeds for every finite second moment. The other matrices of the batch keep the
    damping that was given.

    **Cost**: K^3 / 3 flops for each matrix; memory of one float64 matrix beside the moment.

    Args:
        moment: `[..., K, K]`, symmetric, non-negative definite.
        damping: share of the mean diagonal entry.

    Returns:
        `[..., K, K]`, float64, lower triangular.

    Raises:
        InvalidRequest: the moment holds NaN or infinity, or isn't a second moment at all (strongly indefinite).
    """
    factor, failed = _factor_in_place(damped(moment, damping))
    level = max(damping, 1e-11)
    while bool(failed.any()):
        level *= 10
        if level > 100:
            raise InvalidRequest("the matrix is far from non-negative definite: it is no second moment; observe the layer again.")
        again, still = _factor_in_place(damped(moment, level))
        factor = torch.where((failed > 0)[..., None, None], again, factor)
        failed = torch.where(failed > 0, still, failed)
    return factor


def _factor_in_place(matrix: Float64[Tensor, "*batch K K"]) -> tuple[Float64[Tensor, "*batch K K"], Int32[Tensor, "*batch"]]:
    """Cholesky factor of a symmetric matrix, in the matrix's own memory, and LAPACK's error codes (0: success)."""
    columns = matrix.mT  # column-major, as LAPACK expects
    failed = torch.empty(matrix.shape[:-2], dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(columns, out=(columns, failed))
    return columns, failed
