"""Rounding with error feedback: each column's rounding error is made up for by the columns that are still to come."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped_cholesky, damped_diagonal, full_precision
from dyncompress.linalg.deferred import torch, without_gradients
from dyncompress.quantization.descent import descended
from dyncompress.quantization.grid import Grid, blocked, checked, encoding, spread
from dyncompress.quantization.mse import Mse, clipped_scale
from dyncompress.types import Choice, Encoding, InputMoment, Need, Observation, Weight

if TYPE_CHECKING:
    from torch import Tensor

# Columns between two matrix products: inside a block errors spread by rank-one updates.
_BLOCK = 64
# Weights rounded together: bounds the memory to a few copies of 4 million numbers.
_WEIGHTS_AT_ONCE = 1 << 22
# Up to this width each row tries several multiples of its scale and keeps the one of least output error. With few codes
# error feedback wants another scale than rounding to nearest does; above, the gain is below 1 %.
_FEW_BITS = 4
_MULTIPLES = (1.0, 0.65, 0.8, 0.9, 1.1, 1.25, 1.45)


def nearest_plane(target: Tensor, scale: Tensor, limits: tuple[int, int], factor: Tensor, free: Tensor | None = None) -> Tensor:
    """Codes of Babai's nearest plane. With H = R R^T, R upper triangular, column by column

    q_j = clamp(round((w_j + sum_{i<j} e_i R_ij / R_jj) / s_j)),  e_j = w_j - s_j q_j,

    which keeps |e R|^2 = e H e^T small: the integers of GPTQ (up to ties) without an inverse.

    **Source**: Frantar et al., "GPTQ", ICLR 2023; the equality follows from R^-T being the factor of H^-1 that GPTQ uses.

    Cost: rows * K^2 flops.

    Args:
        target: weights, columns first, `[groups, K, rows]`.
        scale: the same shape, or one that expands to it.
        limits: lowest and highest code.
        factor: R, `[groups, K, K]`.
        free: the same shape as target, bool: where a code may be other than 0; None: everywhere.

    Returns:
        Codes, `[groups, K, rows]`.
    """
    columns = target.shape[1]
    unit = (factor / factor.diagonal(dim1=-2, dim2=-1)[:, None, :]).to(target.dtype)
    scale = scale.expand_as(target)
    codes, errors = torch.zeros_like(target), torch.zeros_like(target)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        wanted = target[:, start:stop] + unit[:, :start, start:stop].mT @ errors[:, :start]
        for j in range(start, stop):
            q = (wanted[:, j - start] / scale[:, j]).round_().clamp_(*limits)
            if free is not None:
                q *= free[:, j]
            e = torch.addcmul(target[:, j], q, scale[:, j], value=-1)
            codes[:, j], errors[:, j] = q, e
            if j + 1 < stop:
                wanted[:, j + 1 - start :] += unit[:, j, j + 1 : stop, None] * e[:, None]
    return codes


def upper_factor(moment: Tensor, order: Tensor, damping: float, dtype: torch.dtype) -> Tensor:
    """R, upper triangular, with R R^T the damped moment, its inputs taken in `order` `[groups, K]`; `[groups, K, K]`.

    Factored in float64, whose matrix is gone before the result is reversed.
    """
    backwards = order.flip(-1)  # a lower factor of the reversed matrix is an upper factor of the matrix
    return damped_cholesky(_reordered(moment, backwards), damping).to(dtype).flip(-1, -2)


def _reordered(moment: Tensor, order: Tensor) -> Tensor:
    """Rows and columns of each group's matrix in its order."""
    if len(moment) == 1:  # a large matrix: indexing both axes at once would spell out an index for every entry
        return moment[0].index_select(0, order[0]).index_select(1, order[0])[None]
    group = torch.arange(len(moment), device=moment.device)[:, None, None]
    return moment[group, order[:, :, None], order[:, None, :]]


def grouped(matrix: Tensor, moment: Tensor, layer: str) -> Tensor:
    """Rows by the group whose inputs they see: `[out, K]` -> `[groups, out / groups, K]`.

    Raises:
        InvalidRequest: the moment doesn't fit the weight.
    """
    out, columns = matrix.shape
    if moment.ndim != 3 or moment.shape[1:] != (columns, columns) or out % max(moment.shape[0], 1):
        raise InvalidRequest(
            f"layer '{layer}': inputs' moment {tuple(moment.shape)} for a weight matrix {(out, columns)}; "
            f"it takes [groups, {columns}, {columns}] with groups dividing {out}."
        )
    return matrix.unflatten(0, (moment.shape[0], -1))


def _rounded(
    matrix: Tensor, scales: Tensor, order: Tensor, factor: Tensor, choice: Choice, limits: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Round `[out, K]` with each of the scales `[c, r, b]`: codes `[c, out, K]`, int8, and output errors `[c, out]`."""
    shape, groups, tried = (matrix.shape[0], matrix.shape[1]), len(order), len(scales)

    def columns_first(rows: Tensor) -> Tensor:
        """`[tried, out, K]` -> `[groups, K, tried * out / groups]`, columns in the order of rounding."""
        return _taken(rows.unflatten(1, (groups, -1)).permute(1, 3, 0, 2).flatten(2), order)

    target = columns_first(matrix.expand(tried, *shape))
    steps = columns_first(torch.stack([spread(s, shape, choice.granularity) for s in scales]))
    free = target != 0 if choice.sparsity > 0 or choice.pattern else None
    found, losses = [], []
    width = max(1, _WEIGHTS_AT_ONCE // (groups * shape[1]))
    for start in range(0, target.shape[2], width):
        part = slice(start, start + width)
        q = nearest_plane(target[..., part], steps[..., part], limits, factor, None if free is None else free[..., part])
        error = target[..., part] - q * steps[..., part]
        losses.append((factor.mT @ error).square().sum(1))
        found.append(q.to(torch.int8))
    loss = torch.cat(losses, dim=-1).unflatten(-1, (tried, -1)).transpose(0, 1).flatten(1)
    codes = _taken(torch.cat(found, dim=-1), order.argsort(dim=-1))
    return codes.unflatten(-1, (tried, -1)).permute(2, 0, 3, 1).flatten(1, 2), loss


def _taken(columns: Tensor, order: Tensor) -> Tensor:
    """`[groups, K, n]` with each group's columns in its order `[groups, K]`."""
    return columns[torch.arange(len(order), device=order.device)[:, None], order]


@dataclass(frozen=True)
class Gptq:
    """GPTQ in its nearest-plane form, columns of large inputs first, scales chosen by output error.

    Start: the clipped scale of least error weighted by diag(H). Up to 4 bits seven multiples of it are rounded in full and
    the one of least e H e^T is kept, row by row (for the whole tensor where it shares a scale); then least squares for the
    scale with the codes held, (w H q) / (q H q), and sweeps of coordinate descent on the codes, least squares after each.
    Without an `InputMoment` (embeddings) it is `Mse`.

    Where `choice` asks for zeros, weights that are zero stay zero; their neighbours make up for rounding errors only.

    **Source**: Frantar et al., ICLR 2023, with act-order. The choice of scales by output error is ours: at 2 bits it takes
    a quarter of the output error away.

    Cost: K^3 / 3 + (7 + 2 sweeps) rows K^2 flops; memory of a float32 and a float64 matrix `[groups, K, K]` beside the moment.

    Attributes:
        damping: share of the mean of diag(H) added to the diagonal.
        sweeps: of coordinate descent, up to 4 bits; 0: none.
        grid: what the target's integers allow.
    """

    damping: float = 0.01
    sweeps: int = 2
    grid: Grid = field(default_factory=Grid)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight and the inputs' second moment."""
        return (Weight(), InputMoment())

    @property
    def entropy_coded(self) -> bool:
        """No: it rounds to a width."""
        return False

    @property
    def sketch(self) -> None:
        """None: tables of options are made with the quantizer itself."""
        return None

    def on_grid(self, grid: Grid) -> Gptq:
        """The same quantizer on another grid."""
        return replace(self, grid=grid)

    @without_gradients
    def __call__(self, weight: Tensor, observation: Observation, choice: Choice) -> Encoding:
        """Round a weight `[out, in / groups, *kernel]` to `choice.weight_bits`.

        Raises:
            InvalidRequest: weight or moment isn't finite or they don't fit, or the width or granularity doesn't exist.
        """
        if InputMoment() not in observation:
            return Mse(self.grid)(weight, observation, choice)
        matrix = checked(weight)
        moment = observation[InputMoment()].to(matrix.device)
        grouped(matrix, moment, observation.layer.name)
        limits = self.grid.limits(choice.weight_bits)
        importance = damped_diagonal(moment, self.damping)
        importance = (importance / importance.max()).float().repeat_interleave(matrix.shape[0] // len(moment), dim=0)
        importance = blocked(importance, choice.granularity)
        start = clipped_scale(blocked(matrix, choice.granularity), limits, self.grid, importance)
        multiples = _MULTIPLES if choice.weight_bits <= _FEW_BITS else _MULTIPLES[:1]
        scales = self.grid.allowed(start * start.new_tensor(multiples)[:, None, None])
        with full_precision(matrix.device):
            codes, scale = self._best(matrix, scales, moment, choice, limits)
            scale = self._least_squares(matrix, codes, scale, moment, choice)
            for _ in range(self.sweeps if choice.weight_bits <= _FEW_BITS else 0):
                codes = self._descended(matrix, codes, scale, moment, choice, limits)
                scale = self._least_squares(matrix, codes, scale, moment, choice)
        return encoding(codes, scale, weight, choice)

    def _descended(
        self, matrix: Tensor, codes: Tensor, scale: Tensor, moment: Tensor, choice: Choice, limits: tuple[int, int]
    ) -> Tensor:
        """Codes `[out, K]` after one sweep of coordinate descent, in blocks of rows."""

        def columns_first(rows: Tensor) -> Tensor:
            return rows.unflatten(0, (len(moment), -1)).mT

        steps = spread(scale, (matrix.shape[0], matrix.shape[1]), choice.granularity)
        added = damped_diagonal(moment, self.damping) - moment.diagonal(dim1=-2, dim2=-1)
        width = max(1, _WEIGHTS_AT_ONCE // (len(moment) * matrix.shape[1]))
        parts = zip(*(columns_first(rows).split(width, dim=-1) for rows in (matrix, codes, steps)), strict=True)
        found = [descended(t, q, s, limits, moment, added) for t, q, s in parts]
        return torch.cat(found, dim=-1).mT.flatten(0, 1)

    def _best(
        self, matrix: Tensor, scales: Tensor, moment: Tensor, choice: Choice, limits: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Round with each of the scales `[c, r, b]`; the codes `[out, K]` and scales `[r, b]` of least output error."""
        order = damped_diagonal(moment, self.damping).argsort(dim=-1, descending=True)
        factor = upper_factor(moment, order, self.damping, matrix.dtype)
        at_once = scales.split(max(1, _WEIGHTS_AT_ONCE // matrix.numel()))
        rounded = [_rounded(matrix, part, order, factor, choice, limits) for part in at_once]
        codes, loss = (torch.cat(parts) for parts in zip(*rounded, strict=True))
        if choice.granularity == "tensor":
            loss = loss.sum(1, keepdim=True)
        best = loss.argmin(0)
        rows = torch.arange(matrix.shape[0], device=matrix.device)
        chosen = torch.arange(scales.shape[1], device=matrix.device)
        return codes[best.expand(matrix.shape[0]), rows].float(), scales[best, chosen]

    def _least_squares(self, matrix: Tensor, codes: Tensor, scale: Tensor, moment: Tensor, choice: Choice) -> Tensor:
        """Multiply each row's scales by (w H w') / (w' H w'), w' the rounded weights, where the grid allows and it helps."""
        shape = (matrix.shape[0], matrix.shape[1])
        rounded = (codes * spread(scale, shape, choice.granularity)).unflatten(0, (len(moment), -1)).double()
        added = damped_diagonal(moment, self.damping) - moment.diagonal(dim1=-2, dim2=-1)
        image = rounded @ moment.double() + rounded * added[:, None]
        cross = (matrix.unflatten(0, (len(moment), -1)) * image).sum(-1).flatten()
        norm = (rounded * image).sum(-1).flatten()
        if choice.granularity == "tensor":
            cross, norm = cross.sum(0, keepdim=True), norm.sum(0, keepdim=True)
        factor = torch.where((cross > 0) & (norm > 0), cross / norm, torch.ones_like(norm))
        wanted = self.grid.allowed(scale * factor[:, None])
        ratio = (wanted / scale)[:, 0].double()
        lower = (ratio.square() - 1) * norm < 2 * (ratio - 1) * cross
        return torch.where(lower[:, None], wanted, scale)
