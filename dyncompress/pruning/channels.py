"""Which input channels a layer can do without, and its weights once they are gone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped, damped_cholesky


def _checked(moment: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Moment `[K, K]` and weight `[out, K]`, float64.

    Raises:
        InvalidRequest: they don't fit.
    """
    matrix = weight.detach().flatten(1).double()
    square = moment[0] if moment.ndim == 3 and len(moment) == 1 else moment
    if square.shape != (matrix.shape[1], matrix.shape[1]):
        raise InvalidRequest(
            f"channels: inputs' moment {tuple(moment.shape)} for a weight {tuple(weight.shape)}; it takes "
            f"[{matrix.shape[1]}, {matrix.shape[1]}] (a grouped layer goes group by group)."
        )
    return square.to(weight.device), matrix


@torch.no_grad()
def eliminate(
    moment: Tensor, weight: Tensor, columns_per_channel: int, keep: int = 1, *, damping: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Remove input channels one by one, always the one whose loss the others make up for best.

    Removing columns P from the best weights W on what is left costs tr(W_P ((H^-1)_PP)^-1 W_P^T); then
    W -= W_P ((H^-1)_PP)^-1 (H^-1)_P: and H^-1 -= (H^-1)_:P ((H^-1)_PP)^-1 (H^-1)_P:. The costs add up to the output error of
    the least-squares refit on the channels left, so the curve is exact for this order.

    **Source**: optimal brain surgeon (Hassibi & Stork 1993) on groups of columns.

    Cost: (K + out) K flops for each column removed, float64; K up to a few thousand.

    Example:
        >>> order, error = eliminate(torch.eye(3), torch.tensor([[2.0, 1.0, 2.0]]), 1, damping=0.0)
        >>> order.tolist(), [round(e, 4) for e in error.tolist()]
        ([1, 0], [0.1111, 0.5556])

    Args:
        moment: `[K, K]` (or `[1, K, K]`), second moment of the consumer's inputs.
        weight: the consumer's, `[out, K]` or `[out, in, *kernel]`.
        columns_per_channel: consecutive columns that one channel owns.
        keep: channels at which to stop, 1 or more.
        damping: share of the mean of diag(H) added to the diagonal.

    Returns:
        Channels in the order of removal, `[channels - keep]`, and the relative output error
        tr(E H E^T) / tr(W H W^T) after each, the consumer refitted, float64.

    Raises:
        InvalidRequest: shapes that don't fit, or `keep` out of range.
    """
    square, w = _checked(moment, weight)
    out, columns = w.shape
    size = columns_per_channel
    if size < 1 or columns % size or not 1 <= keep <= columns // size:
        limit = columns // max(size, 1)
        raise InvalidRequest(f"channels: {columns} columns at {size} a channel, keep {keep}; keep 1 to {limit} channels.")
    channels = columns // size
    hessian = damped(square, damping)
    total = float((w @ hessian * w).sum())
    inverse = torch.cholesky_inverse(damped_cholesky(hessian, 0.0))
    gone = torch.zeros(channels, dtype=torch.bool, device=w.device)
    identity = torch.eye(size, dtype=w.dtype, device=w.device)
    order, costs = [], []
    for _ in range(channels - keep):
        blocks = inverse.reshape(channels, size, channels, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        blocks = torch.where(gone[:, None, None], identity, (blocks + blocks.mT) / 2)
        own = w.reshape(out, channels, size).permute(1, 2, 0)
        factor = damped_cholesky(blocks, 0.0)
        price = torch.linalg.solve_triangular(factor, own, upper=False).square().sum((1, 2)).masked_fill(gone, torch.inf)
        channel = int(price.argmin())
        part = slice(channel * size, (channel + 1) * size)
        share = torch.cholesky_solve(inverse[part].clone(), factor[channel])
        w = w - w[:, part] @ share
        inverse -= inverse[:, part].clone() @ share
        w[:, part], inverse[part], inverse[:, part] = 0, 0, 0
        gone[channel] = True
        order.append(channel)
        costs.append(price[channel])
    error = torch.stack(costs).cumsum(0) if costs else w.new_zeros(0)
    return torch.tensor(order, dtype=torch.long, device=w.device), error / total if total > 0 else torch.zeros_like(error)


@torch.no_grad()
def refit_columns(weight: Tensor, moment: Tensor, kept_columns: Tensor | Sequence[int], damping: float = 1e-4) -> Tensor:
    """The weights on some of the inputs that reproduce the outputs best: W H_:S (H_SS)^-1.

    Example:
        >>> refit_columns(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.5, 1.0]]), torch.tensor([0]), damping=0.0)
        tensor([[1.5000]])

    Args:
        weight: `[out, K]` or `[out, in, *kernel]`.
        moment: `[K, K]` (or `[1, K, K]`).
        kept_columns: S, indices `[kept]` of columns, or bool `[K]`; a tensor, array or list.
        damping: share of the mean of diag(H) added to the diagonal; it draws towards the weight that came in.

    Returns:
        `[out, kept]`, the weight's dtype.

    Raises:
        InvalidRequest: shapes that don't fit.
    """
    square, w = _checked(moment, weight)
    hessian = damped(square, damping)
    kept = torch.as_tensor(kept_columns, device=weight.device)
    stays = torch.zeros(w.shape[1], dtype=torch.bool, device=w.device)
    stays[kept] = True
    pull = torch.where(stays, 0, w) @ hessian[:, kept]
    factor = damped_cholesky(hessian[kept][:, kept], 0.0)
    return (w[:, kept] + torch.cholesky_solve(pull.T, factor).T).to(weight.dtype)
