"""Which input channels a layer can do without, and its weights once they are gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped, damped_cholesky
from dyncompress.linalg.deferred import torch, without_gradients

if TYPE_CHECKING:
    from torch import Tensor


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


@dataclass(frozen=True)
class Reader:
    """One layer that reads a channel group.

    Attributes:
        moment: `[K, K]` (or `[1, K, K]`), second moment of its inputs.
        weight: `[out, K]` or `[out, in, *kernel]`, the best weight on all inputs.
        columns: consecutive columns that one channel owns.
    """

    moment: Tensor
    weight: Tensor
    columns: int


def eliminate(
    moment: Tensor, weight: Tensor, columns_per_channel: int, keep: int = 1, *, damping: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """`eliminate_together` for a group with one reader.

    Example:
        >>> order, error = eliminate(torch.eye(3), torch.tensor([[2.0, 1.0, 2.0]]), 1, damping=0.0)
        >>> order.tolist(), [round(e, 4) for e in error.tolist()]
        ([1, 0], [0.1111, 0.5556])
    """
    return eliminate_together((Reader(moment, weight, columns_per_channel),), keep, damping=damping)


@without_gradients
def eliminate_together(readers: Sequence[Reader], keep: int = 1, *, damping: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Remove input channels one by one, always the one whose loss the others make up for best, in all readers together.

    Removing columns P from the best weights W on what is left costs tr(W_P ((H^-1)_PP)^-1 W_P^T); then
    W -= W_P ((H^-1)_PP)^-1 (H^-1)_P: and H^-1 -= (H^-1)_:P ((H^-1)_PP)^-1 (H^-1)_P:. The costs add up to the output error of
    the least-squares refit on the channels left, so the curve is exact for this order. Every reader's cost counts relative to
    its output's power.

    **Source**: optimal brain surgeon (Hassibi & Stork 1993) on groups of columns.

    Cost: (K + out) K flops for each column removed and reader, float64; K up to a few thousand.

    Args:
        readers: one at least, of the same channels.
        keep: channels at which to stop, 1 or more.
        damping: share of the mean of diag(H) added to the diagonal.

    Returns:
        Channels in the order of removal, `[channels - keep]`, and the relative output error
        tr(E H E^T) / tr(W H W^T) after each, the readers refitted, their mean, float64.

    Raises:
        InvalidRequest: shapes that don't fit, or `keep` out of range.
    """
    states = [_Elimination(reader, keep, damping) for reader in readers]
    channels = {state.channels for state in states}
    if len(channels) != 1:
        raise InvalidRequest(f"channels: readers of {sorted(channels)} channels; those of one group read the same ones.")
    order, costs = [], []
    for _ in range(channels.pop() - keep):
        price = torch.stack([state.prices() for state in states]).mean(0)
        channel = int(price.argmin())
        for state in states:
            state.remove(channel)
        order.append(channel)
        costs.append(price[channel])
    device = states[0].weight.device
    error = torch.stack(costs).cumsum(0) if costs else torch.zeros(0, dtype=torch.float64, device=device)
    return torch.tensor(order, dtype=torch.long, device=device), error


class _Elimination:
    """One reader's weight and inverse moment on the channels left."""

    def __init__(self, reader: Reader, keep: int, damping: float) -> None:
        """Invert the moment."""
        square, self.weight = _checked(reader.moment, reader.weight)
        columns = self.weight.shape[1]
        self.size = reader.columns
        if self.size < 1 or columns % self.size or not 1 <= keep <= columns // self.size:
            limit = columns // max(self.size, 1)
            raise InvalidRequest(
                f"channels: {columns} columns at {self.size} a channel, keep {keep}; keep 1 to {limit} channels."
            )
        self.channels = columns // self.size
        hessian = damped(square, damping)
        self.power = float((self.weight @ hessian * self.weight).sum())
        self.inverse = torch.cholesky_inverse(damped_cholesky(hessian, 0.0))
        self.gone = torch.zeros(self.channels, dtype=torch.bool, device=self.weight.device)
        self.factors = self.inverse

    def prices(self) -> Tensor:
        """What each channel's removal adds to the relative output error, `[channels]`; infinite for those gone."""
        channels, size, weight = self.channels, self.size, self.weight
        blocks = self.inverse.reshape(channels, size, channels, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        identity = torch.eye(size, dtype=weight.dtype, device=weight.device)
        blocks = torch.where(self.gone[:, None, None], identity, (blocks + blocks.mT) / 2)
        self.factors = damped_cholesky(blocks, 0.0)
        own = weight.reshape(len(weight), channels, size).permute(1, 2, 0)
        price = torch.linalg.solve_triangular(self.factors, own, upper=False).square().sum((1, 2))
        return (price / self.power if self.power > 0 else torch.zeros_like(price)).masked_fill(self.gone, torch.inf)

    def remove(self, channel: int) -> None:
        """Let the other channels make up for one, priced just before."""
        part = slice(channel * self.size, (channel + 1) * self.size)
        share = torch.cholesky_solve(self.inverse[part].clone(), self.factors[channel])
        self.weight = self.weight - self.weight[:, part] @ share
        self.inverse -= self.inverse[:, part].clone() @ share
        self.weight[:, part], self.inverse[part], self.inverse[:, part] = 0, 0, 0
        self.gone[channel] = True


@without_gradients
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
