"""What a layer's inputs are taken to be where there are no data: a common mean, neighbours alike, sizes that weights tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncompress.linalg.deferred import torch
from dyncompress.types import Observation, WeightFisher

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-2  # of the mean: what hardly ever moved still counts so much, since it was seen in few steps


@dataclass(frozen=True)
class InputPrior:
    """The inputs' second moment up to a factor, and each output's Fisher information, from that of the weights.

    With F_i the Fisher information of output i and M the inputs' moment, that of weight ij is about F_i M_jj. So the mean over a
    row is F_i (M has unit mean diagonal), the mean over rows of f_ij / F_i is M_jj, and the rest is assumed:

        M_jk = sqrt(M_jj M_kk) (mean + (1 - mean) [same channel] near^distance).

    A rectified Gaussian has 1 / pi of its energy in its mean; neighbours in a kernel see nearly the same. On other inputs the
    assumption costs little: an error of rounding to nearest has the same expected cost under any moment of this diagonal.

    **Source**: this library's; a diagonal fitted as a product of rows and columns is Adafactor's (Shazeer, Stern 2018).
    **Assumes**: outputs' gradients independent of the inputs.
    **Fails when**: inputs are correlated otherwise, say all channels with one of them; error feedback misses that.

    Attributes:
        mean: share of the inputs' energy that is one common mean, in [0, 1).
        near: correlation of what neighbouring positions of a kernel see, in [0, 1).
    """

    mean: float = 1 / math.pi
    near: float = 0.5

    def split(self, weight: Tensor, observation: Observation) -> tuple[Tensor, Tensor]:
        """Fisher information of the outputs `[out]` and the moment's diagonal `[groups, K]`, float64, positive.

        Where nothing was recorded, an error counts relative to the layer's weights.
        """
        groups = observation.layer.groups
        known = WeightFisher() in observation and bool(observation[WeightFisher()].any())
        if not known:
            energy = weight.double().square().sum().clamp_min(torch.finfo(torch.float32).tiny)
            columns = math.prod(weight.shape[1:])
            return (2 / energy).repeat(len(weight)), energy.new_ones(groups, columns)
        fisher = observation[WeightFisher()].to(weight.device).double().flatten(1)
        rows = fisher.mean(1)
        rows = rows + _LEAST * rows.mean()
        columns = (fisher / rows[:, None]).unflatten(0, (groups, -1)).mean(1)
        columns = columns / columns.mean(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny) + _LEAST
        return rows, columns / columns.mean(1, keepdim=True)

    def moment(self, columns: Tensor, shape: torch.Size, kind: str) -> Tensor:
        """M `[groups, K, K]` float64 of a weight `(out, in / groups, *kernel)` with this diagonal."""
        alike = torch.kron(torch.eye(shape[1], dtype=columns.dtype, device=columns.device), self._near(shape, columns))
        mean = self._mean(kind)
        size = columns.sqrt()
        return (mean + (1 - mean) * alike) * size[:, :, None] * size[:, None, :]

    def energy(self, error: Tensor, columns: Tensor, kind: str) -> Tensor:
        """e M e^T of each row of an error `[out, in / groups, *kernel]`, float64 `[out]`; M is never formed."""
        groups, near = len(columns), self._near(error.shape, columns)
        sized = error.double().flatten(1).unflatten(0, (groups, -1)) * columns.sqrt()[:, None, :]
        mean, positions = self._mean(kind), sized.unflatten(-1, (error.shape[1], -1))
        own = ((positions @ near) * positions).sum((-1, -2))
        return (mean * sized.sum(-1).square() + (1 - mean) * own).flatten()

    def _mean(self, kind: str) -> float:
        """An embedding's inputs are one at a time."""
        return 0.0 if kind == "embedding" else self.mean

    def _near(self, shape: torch.Size, like: Tensor) -> Tensor:
        """near^distance between the positions of a kernel, `[k, k]`, distances along the axes added up."""
        found = torch.ones(1, 1, dtype=like.dtype, device=like.device)
        for size in shape[2:]:
            at = torch.arange(size, device=like.device)
            distance = (at[:, None] - at[None, :]).abs().to(like.dtype)
            found = torch.kron(found, torch.full_like(distance, self.near) ** distance)
        return found
