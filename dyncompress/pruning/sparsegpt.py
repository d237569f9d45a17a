"""Pruning with error feedback: the error of each pruned weight is compensated by the columns that follow."""

from __future__ import annotations

from dataclasses import dataclass

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped, damped_cholesky, full_precision
from dyncompress.linalg.deferred import Tensor, torch, without_gradients
from dyncompress.pruning.masks import check_finite, kept_count, mask, parse_pattern, zero_count
from dyncompress.types import Choice, InputMoment, Need, Observation, Weight
from dyncompress.types.arrays import Bool, Float


@dataclass(frozen=True)
class SparseGpt:
    """SparseGPT: optimal brain surgeon, column by column, with one Cholesky factor for all rows.

    With H = R R^T the inputs' second moment, R upper triangular, and t_j = w_j + sum_{i<j} e_i R_ij / R_jj the weight after
    compensation of the errors e_i of earlier columns, setting t_j to zero costs (t_j R_jj)^2. The zeros of a block of columns
    are chosen together, by that cost; with a pattern n:m those of each run of m.

    **Source**: Frantar & Alistarh, "SparseGPT", ICML 2023, in the form without an inverse (R^-T is their factor of H^-1).
    It differs in the number of zeros of a block, which is chosen so that the running total is exact.

    **Cost**: K^3 / 3 + rows K^2 flops.

    Attributes:
        damping: share of the mean of diag(H) that is added to the diagonal.
        block: number of columns whose zeros are chosen together.

    Example:
        >>> from dyncompress.types import Layer
        >>> seen = Observation(Layer("fc", "linear", (1, 2), 0), {InputMoment(): torch.tensor([[[1.0, 0.5], [0.5, 1.0]]])})
        >>> SparseGpt(damping=0.0)(torch.tensor([[1.0, 2.0]]), seen, Choice(sparsity=0.5))
        tensor([[0.0000, 2.5000]])
    """

    damping: float = 0.01
    block: int = 128

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight and the second moment of the inputs."""
        return (Weight(), InputMoment())

    @without_gradients
    def __call__(self, weight: Float[Tensor, ...], observation: Observation, choice: Choice) -> Float[Tensor, ...]:
        """Prune a weight to `choice.sparsity` or `choice.pattern`.

        Args:
            weight: `[out, in / groups, *kernel]`.
            observation: of the weight's layer, with its `InputMoment` `[groups, K, K]`.
            choice: its `sparsity`, or its `pattern` n:m if there is one.

        Returns:
            A new weight of the same shape, dtype and device.

        Raises:
            InvalidRequest: no moment was observed, the weight or the moment isn't finite, they don't fit, or the sparsity or
                pattern is impossible.
        """
        check_finite(weight)
        moment = observation[InputMoment()].to(weight.device)
        columns = weight[0].numel()
        if moment.shape[1:] != (columns, columns) or len(weight) % len(moment):
            raise InvalidRequest(
                f"layer '{observation.layer.name}': the inputs' moment has shape {tuple(moment.shape)}, the weight "
                f"{tuple(weight.shape)}; pass a moment [groups, {columns}, {columns}] with groups dividing {len(weight)}."
            )
        # With kernel positions outermost, a run of consecutive inputs at one position is a run of columns.
        inputs = weight.shape[1]
        order = torch.arange(columns, device=weight.device).reshape(inputs, -1).T.flatten()
        hessian = damped(moment, self.damping)[:, order][:, :, order]
        factor = damped_cholesky(hessian.flip(-1, -2), 0.0).flip(-1, -2)
        matrix = weight.detach().flatten(1)[:, order].to(torch.promote_types(weight.dtype, torch.float32))
        rows = matrix.unflatten(0, (len(moment), -1))
        with full_precision(weight.device):
            result = self._prune_columns(rows, factor.to(rows.dtype), self._segment_ends(inputs, columns, choice), choice)
        pruned = torch.empty_like(matrix)
        pruned[:, order] = result.flatten(0, 1)
        return pruned.to(weight.dtype).reshape(weight.shape)

    def _segment_ends(self, inputs: int, columns: int, choice: Choice) -> list[int]:
        """Ends of the runs of columns whose zeros are chosen together."""
        if not choice.pattern:
            return [*range(self.block, columns, self.block), columns]
        _, m = parse_pattern(choice.pattern)
        return [first + stop for first in range(0, columns, inputs) for stop in (*range(m, inputs, m), inputs)]

    def _prune_columns(
        self, rows: Float[Tensor, "groups n K"], factor: Float[Tensor, "groups K K"], ends: list[int], choice: Choice
    ) -> Float[Tensor, "groups n K"]:
        """Prune rows `[groups, out / groups, K]`, whose columns are in the order of the factor."""
        diagonal = factor.diagonal(dim1=-2, dim2=-1)[:, None, :]
        unit = factor / diagonal
        result, errors = rows.clone(), torch.zeros_like(rows)
        start = 0
        for stop in ends:
            compensated = rows[..., start:stop] + errors[..., :start] @ unit[:, :start, start:stop]
            keep = self._mask(compensated * diagonal[..., start:stop], rows, start, choice)
            for j in range(start, stop):
                value = torch.where(keep[..., j - start], compensated[..., j - start], 0)
                error = rows[..., j] - value
                result[..., j], errors[..., j] = value, error
                compensated[..., j + 1 - start :] += error[..., None] * unit[:, j, None, j + 1 : stop]
            start = stop
        return result

    def _mask(
        self, cost: Float[Tensor, "groups n width"], rows: Float[Tensor, "groups n K"], start: int, choice: Choice
    ) -> Bool[Tensor, "groups n width"]:
        """True at the kept weights of the segment that begins at column `start`; `cost` is the root of what a zero costs."""
        stop, per_column = start + cost.shape[-1], rows[..., 0].numel()
        flat = cost.abs().flatten(0, 1)
        if choice.pattern:
            n, m = parse_pattern(choice.pattern)
            count = kept_count(n, m, flat.shape[1])
            return mask(flat, Choice(pattern=f"{count}:{flat.shape[1]}")).reshape(cost.shape)
        zeros = zero_count(per_column * stop, choice.sparsity) - zero_count(per_column * start, choice.sparsity)
        keep = torch.ones(flat.numel(), dtype=torch.bool, device=flat.device)
        keep[flat.flatten().argsort(stable=True)[:zeros]] = False
        return keep.reshape(cost.shape)
