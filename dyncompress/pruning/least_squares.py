"""Exact least-squares refit of the kept weights, given which weights are pruned."""

from __future__ import annotations

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped, damped_cholesky
from dyncompress.linalg.deferred import Tensor, torch, without_gradients
from dyncompress.types.arrays import Bool, Float, Float64, Int64

# Entries of the systems solved together: 256 MB in float64.
_ENTRIES_AT_ONCE = 1 << 25


@without_gradients
def refit(
    weight: Float[Tensor, ...], moment: Float[Tensor, ...], mask: Bool[Tensor, ...], damping: float = 1e-4
) -> Float[Tensor, ...]:
    """The weight of least output error E|(w - w') x|^2 among those that are zero outside the mask.

    Each row is a problem of its own. With S the kept and P the pruned columns, the solution is

        w'_S = w_S + w_P H_PS (H_SS)^-1          or, equally,          w' = w - w_P ((H^-1)_PP)^-1 (H^-1)_P:

    The rows are solved in batches of similar size, each by the form with the smaller system.

    **Source**: the group form of optimal brain surgeon (Hassibi & Stork 1993; Kurtic et al. 2022).

    **Cost**: sum over rows of min(|S|, |P|)^3 / 3 flops in float64, and K^3 for each group; memory is bounded.

    Args:
        weight: `[out, in / groups, *kernel]`.
        moment: `[groups, K, K]`, the second moment E[x x^T] of the inputs, K = in / groups * kernel size.
        mask: the shape of the weight, boolean, True where the weight is kept.
        damping: share of the mean of diag(H) that is added to the diagonal; it pulls the solution towards `weight`.

    Returns:
        The new weight, of the same shape, dtype and device, with exact zeros outside the mask.

    Raises:
        InvalidRequest: shapes don't fit, or the moment isn't finite.

    Example:
        >>> moment = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]])
        >>> refit(torch.tensor([[1.0, 1.0]]), moment, torch.tensor([[True, False]]), damping=0.0)
        tensor([[1.5000, 0.0000]])
    """
    matrix, keep = weight.detach().flatten(1).double(), mask.flatten(1)
    out, columns = matrix.shape
    if mask.shape != weight.shape or moment.ndim != 3 or moment.shape[1:] != (columns, columns) or out % len(moment):
        raise InvalidRequest(
            f"refit: weight {tuple(weight.shape)}, mask {tuple(mask.shape)} and moment {tuple(moment.shape)} don't fit; pass a "
            f"mask of the weight's shape and a moment [groups, {columns}, {columns}] with groups dividing {out}."
        )
    hessian = damped(moment.to(weight.device), damping)
    group = torch.arange(out, device=weight.device) // (out // len(moment))
    kept = keep.sum(1)
    inverse = torch.cholesky_inverse(damped_cholesky(hessian, 0.0)) if bool((2 * kept > columns).any()) else hessian
    change = torch.zeros_like(matrix)
    for mostly_pruned in (True, False):
        rows = torch.nonzero((2 * kept <= columns) == mostly_pruned)[:, 0]
        size = kept[rows] if mostly_pruned else columns - kept[rows]
        rows, size = rows[size.argsort()], size.sort().values
        for part in _batches(size.tolist()):
            batch = rows[part]
            solve = _solve_for_kept if mostly_pruned else _solve_for_pruned
            change[batch] = solve(matrix[batch], keep[batch], hessian if mostly_pruned else inverse, group[batch])
    return torch.where(keep, matrix + change, 0).to(weight.dtype).reshape(weight.shape)


def _batches(sizes: list[int]) -> list[slice]:
    """Slices of a list of ascending system sizes, such that the padded systems of each slice fit into memory."""
    parts, start = [], 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or (stop + 1 - start) * sizes[stop] ** 2 > _ENTRIES_AT_ONCE:
            parts.append(slice(start, stop))
            start = stop
    return parts


def _column_indices(mask: Bool[Tensor, "n K"]) -> tuple[Int64[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """Column indices of the True entries of each row, padded to the longest row, `[n, k]`, and which of them aren't padding."""
    count = mask.sum(1)
    width = int(count.max())
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    return order, torch.arange(width, device=mask.device) < count[:, None]


def _solve(system: Float64[Tensor, "n k k"], valid: Bool[Tensor, "n k"], right: Float64[Tensor, "n k"]) -> Float64[Tensor, "n k"]:
    """Solve positive definite systems `[n, k, k]` for right-hand sides `[n, k]`; where `valid` is False they are padding."""
    pair = valid[:, :, None] & valid[:, None, :]
    system = torch.where(pair, system, 0)
    system.diagonal(dim1=-2, dim2=-1).add_((~valid).to(system.dtype))
    factor, failed = torch.linalg.cholesky_ex(system)
    if bool(failed.any()):
        # Rounding made a singular moment indefinite: use the smallest damping that factors, for the failed rows alone.
        factor = damped_cholesky(system, 0.0)
    return torch.cholesky_solve(torch.where(valid, right, 0)[:, :, None], factor)[:, :, 0]


def _solve_for_kept(
    matrix: Float64[Tensor, "n K"], keep: Bool[Tensor, "n K"], hessian: Float64[Tensor, "groups K K"], group: Int64[Tensor, " n"]
) -> Float64[Tensor, "n K"]:
    """Change of the kept weights, `w_P H_PS (H_SS)^-1`, `[n, K]`, by systems of the size of S."""
    index, valid = _column_indices(keep)
    pruned = torch.where(keep, 0, matrix)
    cross = torch.zeros_like(matrix)
    for g in group.unique().tolist():
        cross[group == g] = pruned[group == g] @ hessian[g]
    system = hessian[group[:, None, None], index[:, :, None], index[:, None, :]]
    solution = _solve(system, valid, cross.gather(1, index))
    return torch.zeros_like(matrix).scatter_add(1, index, torch.where(valid, solution, 0))


def _solve_for_pruned(
    matrix: Float64[Tensor, "n K"], keep: Bool[Tensor, "n K"], inverse: Float64[Tensor, "groups K K"], group: Int64[Tensor, " n"]
) -> Float64[Tensor, "n K"]:
    """Change of the weights, `-w_P ((H^-1)_PP)^-1 (H^-1)_P:`, `[n, K]`, by systems of the size of P."""
    index, valid = _column_indices(~keep)
    system = inverse[group[:, None, None], index[:, :, None], index[:, None, :]]
    solution = _solve(system, valid, matrix.gather(1, index))
    lagrange = torch.zeros_like(matrix).scatter_add(1, index, torch.where(valid, solution, 0))
    change = torch.zeros_like(matrix)
    for g in group.unique().tolist():
        change[group == g] = -lagrange[group == g] @ inverse[g]
    return change
