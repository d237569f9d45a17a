"""Trellis-coded quantization with error feedback: a Viterbi search for the codes of least output error.

The codes of a row form a path through the states of a trellis. In a state of class 0 a code is an even number, in a state of
class 1 it is 0 or an odd number, and the parity of its index selects the next state (see `coding.trellis`). For every state
the search keeps the path of least cost that leads there, the survivor, with its own rounding errors, which later columns
compensate.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from dyncompress.coding.trellis import CLASS, NEXT, STATES
from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.types.arrays import Float, Int64

_BLOCK = 64  # columns between two products with the errors of all earlier columns
_AT_ONCE = 1 << 24  # number of errors in memory


def nearest_path(
    target: Float[Tensor, "rows K"], factor: Float[Tensor, "K K"], starts: Set[int], largest: int
) -> Float[Tensor, "rows K"]:
    """Codes of small output error |e R|^2, e = w - q, that lie on paths of the trellis.

    The number of bits of a code isn't part of the cost: the step size decides how many bytes a layer takes, and a rate term
    didn't lower the divergence on new examples.

    **Source**: the Viterbi search of trellis-coded quantization (Marcellin and Fischer 1990) with per-survivor processing
    (Raheli, Polydoros and Tzou 1995) of the feedback of `gptq.nearest_plane`; the combination is this library's.

    **Cost**: states * rows * K^2 flops in K sequential steps; memory of 2^24 errors, or those of one row.

    Args:
        target: weights in units of their step, columns in the order of the paths, `[rows, K]`.
        factor: R, upper triangular, `[K, K]`; the inputs' moment is R R^T.
        starts: the columns where a path begins, among them 0.
        largest: largest magnitude of a code.

    Returns:
        Integers in a float tensor `[rows, K]`.

    Example:
        A path begins in a state of class 0, whose codes are even.

        >>> nearest_path(torch.tensor([[3.7, 1.0]]), torch.eye(2), {0, 1}, 127).tolist()
        [[4.0, 0.0]]
    """
    diagonal = factor.diagonal()
    unit = (factor / diagonal).to(target.dtype)
    weight = (2 * (diagonal.log() - diagonal.log().mean())).exp().to(target.dtype)
    width = max(1, _AT_ONCE // (STATES * target.shape[1]))
    return torch.cat([_search(part, unit, weight, starts, largest) for part in target.split(width)])


def _search(
    target: Float[Tensor, "rows K"], unit: Float[Tensor, "K K"], weight: Float[Tensor, " K"], starts: Set[int], largest: int
) -> Float[Tensor, "rows K"]:
    """`nearest_path` of some rows; column j compensates earlier errors by `unit[:j, j]` and has the weight `weight[j]`."""
    rows, columns = target.shape
    trellis = _Trellis(rows, target, largest)
    errors = target.new_zeros(rows * STATES, columns)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        # for every survivor: errors of the columns already rounded, compensated weights of those that follow
        buffer = target[:, None, start:stop].expand(rows, STATES, -1).reshape(rows * STATES, -1)
        buffer = buffer + errors[:, :start] @ unit[:start, start:stop]
        ancestor = torch.arange(rows * STATES, device=target.device)
        for j in range(start, stop):
            if j in starts:
                best = trellis.restart()
                buffer, ancestor = buffer.index_select(0, best), ancestor.index_select(0, best)
            codes, best = trellis.step(buffer[:, j - start], weight[j])
            buffer, ancestor = buffer.index_select(0, best), ancestor.index_select(0, best)
            error = target[:, j, None].expand(rows, STATES).reshape(-1) - codes
            buffer[:, j - start] = error
            if j + 1 < stop:
                buffer[:, j + 1 - start :].addr_(error, unit[j, j + 1 : stop])
        errors[:, :start] = errors[:, :start].index_select(0, ancestor)
        errors[:, start:stop] = buffer
    return (target - errors.index_select(0, trellis.restart()[::STATES])).round_()


class _Trellis:
    """The survivors of all rows and their costs, `[rows, states]`."""

    def __init__(self, rows: int, like: Float[Tensor, ...], largest: int) -> None:
        device = like.device
        source = np.argsort(NEXT.ravel(), kind="stable").reshape(STATES, 2)  # the two transitions into each state
        self.source, self.parity = (torch.from_numpy(part).to(device) for part in np.divmod(source, 2))
        self.kind = torch.from_numpy(CLASS).to(device)
        self.even = (self.kind == 0)[None]
        self.row = torch.arange(rows, device=device)[:, None] * STATES
        self.far = torch.finfo(like.dtype).max / 4
        self.cost = torch.zeros(rows, STATES, dtype=like.dtype, device=device)
        self.most = largest // 4

    def restart(self) -> Int64[Tensor, " rows_x_states"]:
        """Begin a path: the best survivor of each row continues in state 0. Returns each state's survivor, `[rows * states]`."""
        cost, best = self.cost.min(1, keepdim=True)
        self.cost = torch.full_like(self.cost, self.far)
        self.cost[:, :1] = cost
        return (self.row + best).expand(-1, STATES).flatten()

    def step(
        self, values: Float[Tensor, " rows_x_states"], weight: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, " rows_x_states"], Int64[Tensor, " rows_x_states"]]:
        """Round the compensated weights of one column.

        Returns:
            The codes of the new survivors, and the earlier survivor that each of them continues, both `[rows * states]`.
        """
        values = values.view(self.cost.shape)
        codes = self._nearest(values)
        cost = (values[..., None] - codes).square_().mul_(weight).add_(self.cost[..., None])
        self.cost, pick = cost[:, self.source, self.parity].min(-1)
        before = torch.where(pick == 0, self.source[:, 0], self.source[:, 1])
        parity = torch.where(pick == 0, self.parity[:, 0], self.parity[:, 1])
        from_ = (self.row + before).flatten()
        return codes.flatten().index_select(0, from_ * 2 + parity.flatten()), from_

    def _nearest(self, values: Float[Tensor, "rows states"]) -> Float[Tensor, "rows states 2"]:
        """The nearest code of even index and the nearest one of odd index in every state, `[rows, states, 2]`."""
        most, size = self.most, values.abs()
        sign = torch.where(values < 0, -1.0, 1.0)
        # class 0: the codes 4k have even indices, the codes 4k + 2 odd ones
        class0_even = (values * 0.25).round_().clamp_(-most, most) * 4
        class0_odd = ((values - 2) * 0.25).round_().clamp_(-most, most) * 4 + 2
        # class 1: 0 and the codes of magnitude 4k + 3 have even indices, those of magnitude 4k + 1 odd ones
        class1_even = torch.where(size < 1.5, 0.0, ((size - 3) * 0.25).round_().clamp_(0, most) * 4 + 3) * sign
        class1_odd = (((size - 1) * 0.25).round_().clamp_(0, most) * 4 + 1) * sign
        first = torch.where(self.even, class0_even, class1_even)
        return torch.stack([first, torch.where(self.even, class0_odd, class1_odd)], -1)
