"""Pruning with error feedback: the columns still to come make up for each weight that goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped, damped_cholesky, full_precision
from dyncompress.linalg.deferred import torch, without_gradients
from dyncompress.pruning.masks import check_finite, kept_of_remainder, mask, parsed, zeros_wanted
from dyncompress.types import Choice, InputMoment, Need, Observation, Weight

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SparseGpt:
    """Optimal brain surgeon, column by column, with one Cholesky factor for all rows.

    With H = R R^T, R upper triangular, and t_j = w_j + sum_{i<j} e_i R_ij / R_jj, zeroing t_j costs (t_j R_jj)^2. A block
    of columns chooses its zeros at once, by that cost; a pattern n:m chooses run by run.

    **Source**: Frantar & Alistarh, "SparseGPT", ICML 2023, in the form without an inverse (R^-T is their factor of H^-1).
    Differs: each block takes as many zeros as make the running total exact.

    Cost: K^3 / 3 + rows K^2 flops.

    Attributes:
        damping: share of the mean of diag(H) added to the diagonal.
        block: columns that choose their zeros together.
    """

    damping: float = 0.01
    block: int = 128

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight and the inputs' second moment."""
        return (Weight(), InputMoment())

    @without_gradients
    def __call__(self, weight: Tensor, observation: Observation, choice: Choice) -> Tensor:
        """Prune a weight `[out, in / groups, *kernel]` to `choice.sparsity` or `choice.pattern`.

        Raises:
            InvalidRequest: no moment was observed, weight or moment isn't finite or they don't fit, or the request is impossible.
        """
        check_finite(weight)
        moment = observation[InputMoment()].to(weight.device)
        columns = weight[0].numel()
        if moment.shape[1:] != (columns, columns) or len(weight) % len(moment):
            raise InvalidRequest(
                f"layer '{observation.layer.name}': inputs' moment {tuple(moment.shape)} for a weight {tuple(weight.shape)}; it "
                f"takes [groups, {columns}, {columns}] with groups dividing {len(weight)}."
            )
        # Kernel positions outermost: a run of consecutive inputs at one position is then a run of columns.
        inputs = weight.shape[1]
        order = torch.arange(columns, device=weight.device).reshape(inputs, -1).T.flatten()
        hessian = damped(moment, self.damping)[:, order][:, :, order]
        factor = damped_cholesky(hessian.flip(-1, -2), 0.0).flip(-1, -2)
        matrix = weight.detach().flatten(1)[:, order].to(torch.promote_types(weight.dtype, torch.float32))
        rows = matrix.unflatten(0, (len(moment), -1))
        with full_precision(weight.device):
            result = self._columns(rows, factor.to(rows.dtype), self._segments(inputs, columns, choice), choice)
        pruned = torch.empty_like(matrix)
        pruned[:, order] = result.flatten(0, 1)
        return pruned.to(weight.dtype).reshape(weight.shape)

    def _segments(self, inputs: int, columns: int, choice: Choice) -> list[int]:
        """Ends of the runs of columns that choose their zeros together."""
        if not choice.pattern:
            return [*range(self.block, columns, self.block), columns]
        _, m = parsed(choice.pattern)
        return [first + stop for first in range(0, columns, inputs) for stop in (*range(m, inputs, m), inputs)]

    def _columns(self, rows: Tensor, factor: Tensor, ends: list[int], choice: Choice) -> Tensor:
        """The pruned rows, `[groups, out / groups, K]`, columns in the order of the factor."""
        diagonal = factor.diagonal(dim1=-2, dim2=-1)[:, None, :]
        unit = factor / diagonal
        result, errors = rows.clone(), torch.zeros_like(rows)
        start = 0
        for stop in ends:
            wanted = rows[..., start:stop] + errors[..., :start] @ unit[:, :start, start:stop]
            keep = self._keep(wanted * diagonal[..., start:stop], rows, start, choice)
            for j in range(start, stop):
                value = torch.where(keep[..., j - start], wanted[..., j - start], 0)
                error = rows[..., j] - value
                result[..., j], errors[..., j] = value, error
                wanted[..., j + 1 - start :] += error[..., None] * unit[:, j, None, j + 1 : stop]
            start = stop
        return result

    def _keep(self, cost: Tensor, rows: Tensor, start: int, choice: Choice) -> Tensor:
        """Which weights of columns `start` and on stay, by the cost (before squaring) of zeroing them."""
        stop, per_column = start + cost.shape[-1], rows[..., 0].numel()
        flat = cost.abs().flatten(0, 1)
        if choice.pattern:
            n, m = parsed(choice.pattern)
            count = kept_of_remainder(n, m, flat.shape[1])
            return mask(flat, Choice(pattern=f"{count}:{flat.shape[1]}")).reshape(cost.shape)
        zeros = zeros_wanted(per_column * stop, choice.sparsity) - zeros_wanted(per_column * start, choice.sparsity)
        keep = torch.ones(flat.numel(), dtype=torch.bool, device=flat.device)
        keep[flat.flatten().argsort(stable=True)[:zeros]] = False
        return keep.reshape(cost.shape)
