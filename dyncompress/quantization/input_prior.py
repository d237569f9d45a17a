"""A prior on a layer's inputs, for use without data: a common mean, correlated neighbours, scales from a recorded run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.types import Observation, WeightFisher
from dyncompress.types.arrays import Float, Float64

_FLOOR = 1e-2  # added as a share of the mean, since the information of weights that hardly moved is estimated from few steps


@dataclass(frozen=True)
class InputPrior:
    """Derive the inputs' second moment, up to a factor, and the outputs' Fisher information from that of the weights.

    With F_i the Fisher information of output i and M the inputs' moment, the Fisher information f_ij of weight ij is about
    F_i M_jj. M is normalised to a mean diagonal of 1, so F_i is the mean of f_ij over a row, and M_jj is the mean of f_ij / F_i
    over the rows. The entries off the diagonal are assumed:

        M_jk = sqrt(M_jj M_kk) (mean + (1 - mean) [same channel] near^distance).

    The default `mean` is that of a rectified Gaussian, 1 / pi of whose energy lies in its mean. Where the assumption is wrong it
    costs little: errors of rounding to nearest have the same expected cost under every moment with this diagonal.

    **Source**: this library's; a diagonal fitted as a product of rows and columns is Adafactor's (Shazeer, Stern 2018).
    **Assumes**: the gradients of the outputs are independent of the inputs.
    **Fails when**: inputs are correlated otherwise, say all channels with one of them; error feedback can't use that then.

    Attributes:
        mean: share of the inputs' energy that lies in one mean common to all inputs, in [0, 1).
        near: correlation of the inputs at neighbouring positions of a kernel, in [0, 1).
    """

    mean: float = 1 / math.pi
    near: float = 0.5

    def split(
        self, weight: Float[Tensor, " out *rest"], observation: Observation
    ) -> tuple[Float64[Tensor, " out"], Float64[Tensor, "groups K"]]:
        """Split the weights' Fisher information into that of the outputs and the diagonal of the inputs' moment.

        Args:
            weight: `[out, in / groups, *kernel]`.
            observation: of its layer; its `WeightFisher`, in the weight's shape, is read if it is there. Without one, the cost
                of an error is its share of the squared weights.

        Returns:
            F `[out]` and diag(M) `[groups, K]`, float64, positive.
        """
        groups = observation.layer.groups
        recorded = WeightFisher() in observation and bool(observation[WeightFisher()].any())
        if not recorded:
            energy = weight.double().square().sum().clamp_min(torch.finfo(torch.float32).tiny)
            columns = math.prod(weight.shape[1:])
            return (2 / energy).repeat(len(weight)), energy.new_ones(groups, columns)
        fisher = observation[WeightFisher()].to(weight.device).double().flatten(1)
        rows = fisher.mean(1)
        rows = rows + _FLOOR * rows.mean()
        columns = (fisher / rows[:, None]).unflatten(0, (groups, -1)).mean(1)
        columns = columns / columns.mean(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny) + _FLOOR
        return rows, columns / columns.mean(1, keepdim=True)

    def moment(self, columns: Float64[Tensor, "groups K"], shape: torch.Size, kind: str) -> Float64[Tensor, "groups K K"]:
        """M, `[groups, K, K]`, float64.

        Args:
            columns: its diagonal, `[groups, K]`.
            shape: of the weight, `(out, in / groups, *kernel)`.
            kind: the layer's kind; the inputs of an "embedding" have no common mean.
        """
        channels = torch.eye(shape[1], dtype=columns.dtype, device=columns.device)
        correlation = torch.kron(channels, self._neighbour_correlation(shape, columns))
        mean = self._mean(kind)
        size = columns.sqrt()
        return (mean + (1 - mean) * correlation) * size[:, :, None] * size[:, None, :]

    def energy(
        self, error: Float[Tensor, " out *rest"], columns: Float64[Tensor, "groups K"], kind: str
    ) -> Float64[Tensor, " out"]:
        """e M e^T for each row of an error, without forming M.

        Args:
            error: `[out, in / groups, *kernel]`.
            columns: diag(M), `[groups, K]`.
            kind: the layer's kind, as in `moment`.

        Returns:
            `[out]`, float64.
        """
        groups, near = len(columns), self._neighbour_correlation(error.shape, columns)
        scaled = error.double().flatten(1).unflatten(0, (groups, -1)) * columns.sqrt()[:, None, :]
        mean, positions = self._mean(kind), scaled.unflatten(-1, (error.shape[1], -1))
        within_channels = ((positions @ near) * positions).sum((-1, -2))
        return (mean * scaled.sum(-1).square() + (1 - mean) * within_channels).flatten()

    def _mean(self, kind: str) -> float:
        """The share of the common mean; 0 for an embedding, which reads one input at a time."""
        return 0.0 if kind == "embedding" else self.mean

    def _neighbour_correlation(self, shape: torch.Size, like: Float[Tensor, ...]) -> Float[Tensor, "k k"]:
        """near^distance between the k positions of a kernel, `[k, k]`, with distances along the axes added up."""
        correlation = torch.ones(1, 1, dtype=like.dtype, device=like.device)
        for size in shape[2:]:
            position = torch.arange(size, device=like.device)
            distance = (position[:, None] - position[None, :]).abs().to(like.dtype)
            correlation = torch.kron(correlation, torch.full_like(distance, self.near) ** distance)
        return correlation
