"""Exact least squares for the weights that stay, given which ones go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped, damped_cholesky
from dyncompress.linalg.deferred import torch, without_gradients

if TYPE_CHECKING:
    from torch import Tensor

# Entries of the systems solved together: 256 MB in float64.
_ENTRIES_AT_ONCE = 1 << 25


@without_gradients
def refit(weight: Tensor, moment: Tensor, mask: Tensor, damping: float = 1e-4) -> Tensor:
    """The weight of least output error among those with zeros outside the mask.

    Row by row, with S what stays and P what goes, argmin ||(w - w') X||^2 is

        w'_S = w_S + w_P H_PS (H_SS)^-1          or, the same,          w' = w - w_P ((H^-1)_PP)^-1 (H^-1)_P:

    The rows are solved in batches of like size, by the form whose systems are smaller.

    **Source**: the group form of optimal brain surgeon (Hassibi & Stork 1993; Kurtic et al. 2022).

    Cost: sum over rows of min(|S|, |P|)^3 / 3 flops in float64, and K^3 a group; memory bounded.

    Args:
        weight: `[out, in / groups, *kernel]`.
        moment: `[groups, K, K]`, the inputs' second moment.
        mask: the weight's shape, True where it stays.
        damping: share of the mean of diag(H) added to the diagonal; it draws towards the weight that came in.

    Returns:
        The new weight, the same shape, dtype and device; exact zeros outside the mask.

    Raises:
        InvalidRequest: shapes that don't fit, or a moment that isn't finite.
    """
    matrix, keep = weight.detach().flatten(1).double(), mask.flatten(1)
    out, columns = matrix.shape
    if mask.shape != weight.shape or moment.ndim != 3 or moment.shape[1:] != (columns, columns) or out % len(moment):
        raise InvalidRequest(
            f"refit: weight {tuple(weight.shape)}, mask {tuple(mask.shape)} and moment {tuple(moment.shape)} don't fit; the mask "
            f"has the weight's shape and the moment is [groups, {columns}, {columns}] with groups dividing {out}."
        )
    hessian = damped(moment.to(weight.device), damping)
    group = torch.arange(out, device=weight.device) // (out // len(moment))
    staying = keep.sum(1)
    inverse = torch.cholesky_inverse(damped_cholesky(hessian, 0.0)) if bool((2 * staying > columns).any()) else hessian
    change = torch.zeros_like(matrix)
    for direct in (True, False):
        rows = torch.nonzero((2 * staying <= columns) == direct)[:, 0]
        size = staying[rows] if direct else columns - staying[rows]
        rows, size = rows[size.argsort()], size.sort().values
        for part in _batches(size.tolist()):
            chosen = rows[part]
            solver = _from_what_stays if direct else _from_what_goes
            change[chosen] = solver(matrix[chosen], keep[chosen], hessian if direct else inverse, group[chosen])
    return torch.where(keep, matrix + change, 0).to(weight.dtype).reshape(weight.shape)


def _batches(sizes: list[int]) -> list[slice]:
    """Slices of ascending system sizes whose padded systems fit into memory."""
    parts, start = [], 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or (stop + 1 - start) * sizes[stop] ** 2 > _ENTRIES_AT_ONCE:
            parts.append(slice(start, stop))
            start = stop
    return parts


def _selected(which: Tensor) -> tuple[Tensor, Tensor]:
    """Column indices of the True entries of each row, padded to the longest, `[n, k]`, and which of them are real."""
    count = which.sum(1)
    width = int(count.max())
    order = which.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    return order, torch.arange(width, device=which.device) < count[:, None]


def _solved(system: Tensor, real: Tensor, right: Tensor) -> Tensor:
    """Solutions `[n, k]` of symmetric positive systems `[n, k, k]`, padding replaced by the identity."""
    pair = real[:, :, None] & real[:, None, :]
    system = torch.where(pair, system, 0)
    system.diagonal(dim1=-2, dim2=-1).add_((~real).to(system.dtype))
    factor, failed = torch.linalg.cholesky_ex(system)
    if bool(failed.any()):
        # Rounding made a singular moment indefinite: the least damping that factors, for that row alone.
        factor = damped_cholesky(system, 0.0)
    return torch.cholesky_solve(torch.where(real, right, 0)[:, :, None], factor)[:, :, 0]


def _from_what_stays(matrix: Tensor, keep: Tensor, hessian: Tensor, group: Tensor) -> Tensor:
    """Change of the staying weights, `w_P H_PS (H_SS)^-1`, `[n, K]`."""
    index, real = _selected(keep)
    pruned = torch.where(keep, 0, matrix)
    pull = torch.zeros_like(matrix)
    for g in group.unique().tolist():
        pull[group == g] = pruned[group == g] @ hessian[g]
    system = hessian[group[:, None, None], index[:, :, None], index[:, None, :]]
    solution = _solved(system, real, pull.gather(1, index))
    return torch.zeros_like(matrix).scatter_add(1, index, torch.where(real, solution, 0))


def _from_what_goes(matrix: Tensor, keep: Tensor, inverse: Tensor, group: Tensor) -> Tensor:
    """Change of the weights, `-w_P ((H^-1)_PP)^-1 (H^-1)_P:`, `[n, K]`."""
    index, real = _selected(~keep)
    system = inverse[group[:, None, None], index[:, :, None], index[:, None, :]]
    solution = _solved(system, real, matrix.gather(1, index))
    lagrange = torch.zeros_like(matrix).scatter_add(1, index, torch.where(real, solution, 0))
    change = torch.zeros_like(matrix)
    for g in group.unique().tolist():
        change[group == g] = -lagrange[group == g] @ inverse[g]
    return change
