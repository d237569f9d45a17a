"""Choose the input channels to remove from a layer, and refit its weights on the channels that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped, damped_cholesky
from dyncompress.linalg.deferred import Tensor, torch, without_gradients
from dyncompress.types import Array
from dyncompress.types.arrays import Float, Float64, Int64

_PENDING_ROWS = 64  # rows of a removal's update that are collected before the inverse moment is updated


def _matrices(moment: Float[Tensor, ...], weight: Float[Tensor, ...]) -> tuple[Float[Tensor, "K K"], Float64[Tensor, "out K"]]:
    """The moment `[K, K]` on the weight's device, and the weight as a float64 matrix `[out, K]`.

    Raises:
        InvalidRequest: the moment isn't `[K, K]` (or `[1, K, K]`) for a weight of K columns.
    """
    matrix = weight.detach().flatten(1).double()
    square = moment[0] if moment.ndim == 3 and len(moment) == 1 else moment
    if square.shape != (matrix.shape[1], matrix.shape[1]):
        raise InvalidRequest(
            f"channels: the inputs' moment has shape {tuple(moment.shape)}, the weight {tuple(weight.shape)}; pass a moment "
            f"[{matrix.shape[1]}, {matrix.shape[1]}] (call once for each group of a grouped layer)."
        )
    return square.to(weight.device), matrix


@dataclass(frozen=True)
class Reader:
    """One layer whose inputs are the channels that are to be pruned.

    Attributes:
        moment: `[K, K]` (or `[1, K, K]`), second moment E[x x^T] of its inputs.
        weight: `[out, K]` or `[out, in, *kernel]`, the weight before pruning.
        columns: consecutive columns of the weight matrix that belong to one channel: the kernel's size, K / channels.
    """

    moment: Float[Tensor, ...]
    weight: Float[Tensor, ...]
    columns: int


def eliminate(
    moment: Float[Tensor, ...], weight: Float[Tensor, ...], columns_per_channel: int, keep: int = 1, *, damping: float = 1e-4
) -> tuple[Int64[Tensor, " removed"], Float64[Tensor, " removed"]]:
    """Order the input channels of one layer for removal: `eliminate_together` with a single reader.

    Example:
        Of three uncorrelated inputs the one of weight 1 goes first: it carries 1 / 9 of the output's power.

        >>> order, error = eliminate(torch.eye(3), torch.tensor([[2.0, 1.0, 2.0]]), 1, damping=0.0)
        >>> order.tolist(), [round(e, 4) for e in error.tolist()]
        ([1, 0], [0.1111, 0.5556])
    """
    return eliminate_together((Reader(moment, weight, columns_per_channel),), keep, damping=damping)


@without_gradients
def eliminate_together(
    readers: Sequence[Reader], keep: int = 1, *, damping: float = 1e-4
) -> tuple[Int64[Tensor, " removed"], Float64[Tensor, " removed"]]:
    """Order input channels for removal: each step removes the one that adds least to the output error of all readers.

    After each removal the remaining weights are refitted by least squares. With W the current weights, H the inputs' moment on
    the remaining columns and P the columns of a channel, the removal adds tr(W_P ((H^-1)_PP)^-1 W_P^T) to the output error;
    then W -= W_P ((H^-1)_PP)^-1 (H^-1)_P: and H^-1 -= (H^-1)_:P ((H^-1)_PP)^-1 (H^-1)_P:. The costs add up to the output error
    of a least-squares refit on the remaining channels, so the error curve is exact for this order. Each reader's error is
    divided by the power of its output, and the mean over the readers is minimised.

    **Source**: optimal brain surgeon (Hassibi & Stork 1993) on groups of columns.

    **Cost**: (K + out) K flops for each removed column and reader, float64; practical for K up to a few thousand.

    Args:
        readers: the layers that read these channels, at least one.
        keep: number of channels to keep, 1 or more.
        damping: share of the mean of diag(H) that is added to the diagonal.

    Returns:
        The channels in the order of removal, `[channels - keep]`, int64, and the relative output error
        tr(E H E^T) / tr(W H W^T) after each removal and refit, averaged over the readers, `[channels - keep]`, float64.

    Raises:
        InvalidRequest: shapes don't fit, the readers have different numbers of channels, or `keep` is out of range.
    """
    states = [_Elimination(reader, keep, damping) for reader in readers]
    channels = {state.channels for state in states}
    if len(channels) != 1:
        raise InvalidRequest(
            f"channels: the readers have {sorted(channels)} channels; pass only layers that read the same channels."
        )
    order, costs = [], []
    for _ in range(channels.pop() - keep):
        cost = torch.stack([state.removal_costs() for state in states]).mean(0)
        channel = int(cost.argmin())
        for state in states:
            state.remove(channel)
        order.append(channel)
        costs.append(cost[channel])
    device = states[0].weight.device
    error = torch.stack(costs).cumsum(0) if costs else torch.zeros(0, dtype=torch.float64, device=device)
    return torch.tensor(order, dtype=torch.long, device=device), error


class _Elimination:
    """One reader's weight and inverse moment on the remaining channels.

    The inverse moment is `inverse - pending^T pending`: a removal adds the rows of one channel to `pending`, and the product is
    subtracted when `_PENDING_ROWS` have come together. A step then costs a few rows instead of the whole matrix.
    """

    def __init__(self, reader: Reader, keep: int, damping: float) -> None:
        """Check the shapes and invert the moment."""
        square, weight = _matrices(reader.moment, reader.weight)
        self.weight = weight.clone()
        columns = weight.shape[1]
        self.size = reader.columns
        if self.size < 1 or columns % self.size or not 1 <= keep <= columns // self.size:
            limit = columns // max(self.size, 1)
            raise InvalidRequest(
                f"channels: {columns} columns of {self.size} per channel, keep is {keep}; keep 1 to {limit} channels."
            )
        self.channels = columns // self.size
        hessian = damped(square, damping)
        self.power = float((weight @ hessian * weight).sum())
        self.inverse = torch.cholesky_inverse(damped_cholesky(hessian, 0.0))
        self.pending = self.inverse[:0]
        blocks = self.inverse.reshape(self.channels, self.size, self.channels, self.size)
        self.blocks = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
        self.removed = torch.zeros(self.channels, dtype=torch.bool, device=weight.device)

    def removal_costs(self) -> Float64[Tensor, " channels"]:
        """What the removal of each channel adds to the relative output error, `[channels]`; infinite for removed ones."""
        if self.size == 1:
            blocks = self.blocks.flatten()
            cost = self.weight.square().sum(0) / torch.where(blocks > 0, blocks, 1.0)
        else:
            own = self.weight.reshape(len(self.weight), self.channels, self.size).permute(1, 2, 0)
            cost = torch.linalg.solve_triangular(self._factors(slice(None)), own, upper=False).square().sum((1, 2))
        return (cost / self.power if self.power > 0 else torch.zeros_like(cost)).masked_fill(self.removed, torch.inf)

    def remove(self, channel: int) -> None:
        """Remove a channel and refit the others."""
        part = slice(channel * self.size, (channel + 1) * self.size)
        factor = self._factors(slice(channel, channel + 1))[0]
        rows = self.inverse[part] - self.pending[:, part].mT @ self.pending
        rows = torch.linalg.solve_triangular(factor, rows, upper=False)  # L^-1 (H^-1)_P:, for L L^T = (H^-1)_PP
        self.weight -= torch.linalg.solve_triangular(factor, self.weight[:, part].mT, upper=False).mT @ rows
        self.weight[:, part] = 0
        self.removed[channel] = True
        by_channel = rows.reshape(-1, self.channels, self.size)
        by_channel[:, self.removed] = 0
        self.blocks -= by_channel.permute(1, 2, 0) @ by_channel.permute(1, 0, 2)
        self.pending = torch.cat([self.pending, rows])
        if len(self.pending) >= _PENDING_ROWS:
            self.inverse -= self.pending.mT @ self.pending
            self.pending = self.pending[:0]

    def _factors(self, channels: slice) -> Float64[Tensor, "some size size"]:
        """Cholesky factors of the blocks (H^-1)_PP of some channels; the identity for removed ones."""
        blocks, removed = self.blocks[channels], self.removed[channels]
        identity = torch.eye(self.size, dtype=blocks.dtype, device=blocks.device)
        return damped_cholesky(torch.where(removed[:, None, None], identity, (blocks + blocks.mT) / 2), 0.0)


@without_gradients
def refit_columns(
    weight: Float[Tensor, ...], moment: Float[Tensor, ...], kept_columns: Array | Sequence[int], damping: float = 1e-4
) -> Float[Tensor, "out kept"]:
    """Least-squares weights on a subset S of the inputs that best reproduce the outputs W x: W H_:S (H_SS)^-1.

    Example:
        The second input is correlated with the first, whose weight takes over a half of the second one's.

        >>> refit_columns(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.5, 1.0]]), torch.tensor([0]), damping=0.0)
        tensor([[1.5000]])

    Args:
        weight: `[out, K]` or `[out, in, *kernel]`.
        moment: `[K, K]` (or `[1, K, K]`).
        kept_columns: S, column indices `[kept]`, or a boolean mask `[K]`; a tensor, array or list.
        damping: share of the mean of diag(H) that is added to the diagonal; it pulls the solution towards `weight`.

    Returns:
        `[out, kept]`, in the weight's dtype.

    Raises:
        InvalidRequest: the moment doesn't fit the weight.
    """
    square, w = _matrices(moment, weight)
    hessian = damped(square, damping)
    kept = torch.as_tensor(kept_columns, device=weight.device)
    is_kept = torch.zeros(w.shape[1], dtype=torch.bool, device=w.device)
    is_kept[kept] = True
    cross = torch.where(is_kept, 0, w) @ hessian[:, kept]
    factor = damped_cholesky(hessian[kept][:, kept], 0.0)
    return (w[:, kept] + torch.cholesky_solve(cross.T, factor).T).to(weight.dtype)
