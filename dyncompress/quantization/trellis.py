"""Rounding to codes that depend on each other: the best path of a trellis, with error feedback along every path.

In a state of class 0 a code is an even number, in one of class 1 it is 0 or odd, and its index's parity chooses the next state
(`coding.trellis`). Of all paths that lead to a state the cheapest one survives (Viterbi); every survivor keeps its own errors,
which the columns to come make up for.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

import numpy as np

from dyncompress.coding.trellis import CLASS, NEXT, STATES
from dyncompress.linalg.deferred import torch

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 64  # columns between two products with all errors before
_AT_ONCE = 1 << 24  # errors in memory


def nearest_path(target: Tensor, factor: Tensor, starts: Set[int], largest: int) -> Tensor:
    """Codes of small |e R|^2 on paths of the trellis. What they cost in bits isn't asked: steps are what a layer's bytes hang on,
    and a price made harm on new examples no smaller.

    **Source**: the Viterbi search of trellis-coded quantization (Marcellin and Fischer 1990) with per-survivor processing
    (Raheli, Polydoros and Tzou 1995) of the feedback of `gptq.nearest_plane`; their meeting is ours.

    Cost: states * (rows * K^2 flops), and K steps; memory of 2^24 errors, or one row's.

    Args:
        target: weights in steps, columns in the order of their paths, `[rows, K]`.
        factor: R, upper triangular, `[K, K]`: the inputs' moment is R R^T.
        starts: columns where a path begins, 0 among them.
        largest: magnitude of a code.

    Returns:
        Codes, `[rows, K]`.
    """
    diagonal = factor.diagonal()
    unit = (factor / diagonal).to(target.dtype)
    weight = (2 * (diagonal.log() - diagonal.log().mean())).exp().to(target.dtype)
    width = max(1, _AT_ONCE // (STATES * target.shape[1]))
    return torch.cat([_searched(part, unit, weight, starts, largest) for part in target.split(width)])


def _searched(target: Tensor, unit: Tensor, weight: Tensor, starts: Set[int], largest: int) -> Tensor:
    """`nearest_path` of some rows; errors in front of column j come with `unit[:j, j]`, and weigh `weight[j]` there."""
    rows, columns = target.shape
    trellis = _Trellis(rows, target, largest)
    errors = target.new_zeros(rows * STATES, columns)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        # errors of the columns done, and what is wanted of those to come, of every survivor
        buffer = target[:, None, start:stop].expand(rows, STATES, -1).reshape(rows * STATES, -1)
        buffer = buffer + errors[:, :start] @ unit[:start, start:stop]
        ancestor = torch.arange(rows * STATES, device=target.device)
        for j in range(start, stop):
            if j in starts:
                best = trellis.restart()
                buffer, ancestor = buffer.index_select(0, best), ancestor.index_select(0, best)
            chosen, best = trellis.step(buffer[:, j - start], weight[j])
            buffer, ancestor = buffer.index_select(0, best), ancestor.index_select(0, best)
            error = target[:, j, None].expand(rows, STATES).reshape(-1) - chosen
            buffer[:, j - start] = error
            if j + 1 < stop:
                buffer[:, j + 1 - start :].addr_(error, unit[j, j + 1 : stop])
        errors[:, :start] = errors[:, :start].index_select(0, ancestor)
        errors[:, start:stop] = buffer
    return (target - errors.index_select(0, trellis.restart()[::STATES])).round_()


class _Trellis:
    """Costs of the survivors of all rows `[rows, states]`."""

    def __init__(self, rows: int, like: Tensor, largest: int) -> None:
        device = like.device
        source = np.argsort(NEXT.ravel(), kind="stable").reshape(STATES, 2)  # the two transitions into each state
        self.source, self.parity = (torch.from_numpy(part).to(device) for part in np.divmod(source, 2))
        self.kind = torch.from_numpy(CLASS).to(device)
        self.even = (self.kind == 0)[None]
        self.row = torch.arange(rows, device=device)[:, None] * STATES
        self.far = torch.finfo(like.dtype).max / 4
        self.cost = torch.zeros(rows, STATES, dtype=like.dtype, device=device)
        self.most = largest // 4

    def restart(self) -> Tensor:
        """Begin a path: the best survivor of each row goes on from state 0; where each state comes from, `[rows * states]`."""
        cost, best = self.cost.min(1, keepdim=True)
        self.cost = torch.full_like(self.cost, self.far)
        self.cost[:, :1] = cost
        return (self.row + best).expand(-1, STATES).flatten()

    def step(self, wanted: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """One column: the codes that the survivors take, and which survivors they were, both `[rows * states]`."""
        wanted = wanted.view(self.cost.shape)
        codes = self._nearest(wanted)
        cost = (wanted[..., None] - codes).square_().mul_(weight).add_(self.cost[..., None])
        self.cost, pick = cost[:, self.source, self.parity].min(-1)
        before = torch.where(pick == 0, self.source[:, 0], self.source[:, 1])
        parity = torch.where(pick == 0, self.parity[:, 0], self.parity[:, 1])
        from_ = (self.row + before).flatten()
        return codes.flatten().index_select(0, from_ * 2 + parity.flatten()), from_

    def _nearest(self, wanted: Tensor) -> Tensor:
        """The nearest code of every state with an even index, and with an odd one, `[rows, states, 2]`."""
        most, size = self.most, wanted.abs()
        sign = torch.where(wanted < 0, -1.0, 1.0)
        even = (wanted * 0.25).round_().clamp_(-most, most) * 4
        odd = ((wanted - 2) * 0.25).round_().clamp_(-most, most) * 4 + 2
        zero_or_odd = torch.where(size < 1.5, 0.0, ((size - 3) * 0.25).round_().clamp_(0, most) * 4 + 3) * sign
        one_and_on = (((size - 1) * 0.25).round_().clamp_(0, most) * 4 + 1) * sign
        first = torch.where(self.even, even, zero_or_odd)
        return torch.stack([first, torch.where(self.even, odd, one_and_on)], -1)
