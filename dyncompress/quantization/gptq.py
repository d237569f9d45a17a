"""Rounding with error feedback: the rounding error of each column is compensated by the columns that follow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped_cholesky, damped_diagonal, full_precision
from dyncompress.linalg.deferred import Tensor, torch, without_gradients
from dyncompress.quantization.descent import DampedMoment, descend
from dyncompress.quantization.grid import Grid, encoding, expand_scale, float_matrix, scale_blocks
from dyncompress.quantization.mse import Mse, clipped_scale
from dyncompress.types import Choice, Encoding, InputMoment, Need, Observation, Weight
from dyncompress.types.arrays import Bool, Float, Float32, Int8, Int64, Num

# Columns between two matrix products: inside a block errors are propagated by rank-one updates.
_BLOCK = 64
# Weights rounded together: bounds the memory to a few copies of 4 million numbers.
_WEIGHTS_AT_ONCE = 1 << 22
# Up to this width several multiples of each row's scale are tried and the one of least output error is kept. With few codes
# the best scale under error feedback differs from that of rounding to nearest; above this width the gain is below 1 %.
_FEW_BITS = 4
_MULTIPLES = (1.0, 0.65, 0.8, 0.9, 1.1, 1.25, 1.45)


def nearest_plane(
    target: Float[Tensor, "groups K rows"],
    scale: Float[Tensor, "#groups #K #rows"],
    limits: tuple[int, int],
    factor: Float[Tensor, "groups K K"],
    free: Bool[Tensor, "groups K rows"] | None = None,
) -> Float[Tensor, "groups K rows"]:
    """Codes of GPTQ in the form of Babai's nearest plane algorithm.

    With H = R R^T the inputs' second moment, R upper triangular, column by column

        q_j = clamp(round((w_j + sum_{i<j} e_i R_ij / R_jj) / s_j)),  e_j = w_j - s_j q_j,

    which keeps the output error e H e^T = |e R|^2 small. The codes are those of GPTQ up to ties, without an inverse of H.

    **Source**: Frantar et al., "GPTQ", ICLR 2023; the equality follows from R^-T being the factor of H^-1 that GPTQ uses.

    **Cost**: rows * K^2 flops.

    Args:
        target: weights, columns first, `[groups, K, rows]`.
        scale: positive, the same shape or one that expands to it.
        limits: lowest and highest code.
        factor: R, `[groups, K, K]`.
        free: boolean, the shape of target, True where a code may differ from 0; None: everywhere.

    Returns:
        Integers in a float tensor `[groups, K, rows]`.

    Example:
        The first error, 0.4, raises the second weight from 0.2 to 0.6, since both inputs are the same up to noise.

        >>> factor = torch.tensor([[[0.1, 1.0], [0.0, 1.0]]])
        >>> nearest_plane(torch.tensor([[[1.4], [0.2]]]), torch.ones(1, 1, 1), (-4, 3), factor).flatten().tolist()
        [1.0, 1.0]
    """
    columns = target.shape[1]
    unit = (factor / factor.diagonal(dim1=-2, dim2=-1)[:, None, :]).to(target.dtype)
    scale = scale.expand_as(target)
    codes, errors = torch.zeros_like(target), torch.zeros_like(target)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        compensated = target[:, start:stop] + unit[:, :start, start:stop].mT @ errors[:, :start]
        for j in range(start, stop):
            q = (compensated[:, j - start] / scale[:, j]).round_().clamp_(*limits)
            if free is not None:
                q *= free[:, j]
            e = torch.addcmul(target[:, j], q, scale[:, j], value=-1)
            codes[:, j], errors[:, j] = q, e
            if j + 1 < stop:
                compensated[:, j + 1 - start :] += unit[:, j, j + 1 : stop, None] * e[:, None]
    return codes


def upper_factor(
    moment: Float[Tensor, "groups K K"], order: Int64[Tensor, "groups K"], damping: float, dtype: torch.dtype
) -> Float[Tensor, "groups K K"]:
    """The upper triangular R with R R^T the damped moment, whose inputs are permuted by `order` `[groups, K]`.

    It is computed in float64; the float64 copy is freed before the result, in `dtype`, is reversed.

    Args:
        moment: `[groups, K, K]`.
        order: `[groups, K]`, a permutation of the inputs of each group.
        damping: share of the mean of diag(H) that is added to the diagonal.
        dtype: of the result.

    Returns:
        R, `[groups, K, K]`.
    """
    backwards = order.flip(-1)  # a lower factor of the reversed matrix is an upper factor of the matrix
    return damped_cholesky(_permute(moment, backwards), damping).to(dtype).flip(-1, -2)


def _permute(moment: Float[Tensor, "groups K K"], order: Int64[Tensor, "groups K"]) -> Float[Tensor, "groups K K"]:
    """The matrix of each group, its rows and columns in the group's order."""
    if len(moment) == 1:  # a large matrix: indexing both axes at once would build an index for every entry
        return moment[0].index_select(0, order[0]).index_select(1, order[0])[None]
    group = torch.arange(len(moment), device=moment.device)[:, None, None]
    return moment[group, order[:, :, None], order[:, None, :]]


def rows_by_group(matrix: Float[Tensor, "out K"], moment: Float[Tensor, ...], layer: str) -> Float[Tensor, "groups n K"]:
    """Split the rows of a weight matrix by the group of inputs that they read: `[out, K]` -> `[groups, out / groups, K]`.

    Raises:
        InvalidRequest: the moment doesn't fit the weight; the message names `layer`.
    """
    out, columns = matrix.shape
    if moment.ndim != 3 or moment.shape[1:] != (columns, columns) or out % max(moment.shape[0], 1):
        raise InvalidRequest(
            f"layer '{layer}': the inputs' moment has shape {tuple(moment.shape)}, the weight matrix {(out, columns)}; "
            f"pass a moment [groups, {columns}, {columns}] with groups dividing {out}."
        )
    return matrix.unflatten(0, (moment.shape[0], -1))


class _Factor(NamedTuple):
    """R of `nearest_plane`, and the order of the inputs that its columns have."""

    order: Int64[Tensor, "groups K"]
    upper: Float[Tensor, "groups K K"]


def _round_with_scales(
    matrix: Float[Tensor, "out K"],
    scales: Float32[Tensor, "c r b"],
    factor: _Factor,
    choice: Choice,
    limits: tuple[int, int],
) -> tuple[Int8[Tensor, "c out K"], Float[Tensor, "c out"]]:
    """Round `[out, K]` with each of c scales `[c, r, b]`: codes `[c, out, K]`, int8, and output errors `[c, out]`."""
    order, upper = factor
    shape, groups, candidates = (matrix.shape[0], matrix.shape[1]), len(order), len(scales)

    def columns_first(rows: Tensor) -> Tensor:
        """`[c, out, K]` -> `[groups, K, c * out / groups]`, columns in the order of rounding."""
        return _permute_columns(rows.unflatten(1, (groups, -1)).permute(1, 3, 0, 2).flatten(2), order)

    target = columns_first(matrix.expand(candidates, *shape))
    steps = columns_first(torch.stack([expand_scale(s, shape, choice.granularity) for s in scales]))
    free = target != 0 if choice.sparsity > 0 or choice.pattern else None
    parts, losses = [], []
    width = max(1, _WEIGHTS_AT_ONCE // (groups * shape[1]))
    for start in range(0, target.shape[2], width):
        part = slice(start, start + width)
        q = nearest_plane(target[..., part], steps[..., part], limits, upper, None if free is None else free[..., part])
        error = target[..., part] - q * steps[..., part]
        losses.append((upper.mT @ error).square().sum(1))
        parts.append(q.to(torch.int8))
    loss = torch.cat(losses, dim=-1).unflatten(-1, (candidates, -1)).transpose(0, 1).flatten(1)
    codes = _permute_columns(torch.cat(parts, dim=-1), order.argsort(dim=-1))
    return codes.unflatten(-1, (candidates, -1)).permute(2, 0, 3, 1).flatten(1, 2), loss


def _permute_columns(columns: Num[Tensor, "groups K n"], order: Int64[Tensor, "groups K"]) -> Num[Tensor, "groups K n"]:
    """Columns `[groups, K, n]`, those of each group in the order `[groups, K]`."""
    return columns[torch.arange(len(order), device=order.device)[:, None], order]


@dataclass(frozen=True)
class Gptq:
    """GPTQ in its nearest-plane form, columns of large inputs first, with scales chosen by output error.

    1. Each scale starts at the clipped scale of `clipped_scale`, its errors weighted by diag(H).
    2. Up to 4 bits the weight is rounded with seven multiples of that scale, and the one of least output error e H e^T is kept,
       row by row (for the tensor as a whole where it has one scale).
    3. The scale is set by least squares with the codes held, (w H q) / (q H q).
    4. Up to 4 bits, sweeps of coordinate descent on the codes follow, with step 3 after each.

    Without an `InputMoment` in the observation (embeddings), and above `feedback_bits`, it does what `Mse` does. Where `choice`
    asks for zeros (`sparsity` or `pattern`), weights that are zero get the code 0, and the others compensate rounding errors
    only.

    **Source**: Frantar et al., ICLR 2023, with act-order. Choosing scales by output error is this library's: at 2 bits it
    removes a quarter of the output error.

    **Cost**: K^3 / 3 + (7 + 2 sweeps) rows K^2 flops; memory of a float32 and a float64 matrix `[groups, K, K]` beside the
    moment.

    Attributes:
        damping: share of the mean of diag(H) that is added to the diagonal.
        sweeps: sweeps of coordinate descent, up to 4 bits; 0: none.
        feedback_bits: largest width with error feedback. At 8 bits the error of rounding to nearest is a tenth of that of 8-bit
            activations once moments are matched (ResNet-20: 2e-4 and 3e-3 nats), while the inputs' moments take most of the time.
        grid: the integers that the target allows.

    Example:
        >>> from dyncompress.types import Layer
        >>> seen = Observation(Layer("fc", "linear", (1, 3), 0), {InputMoment(): torch.eye(3)[None]})
        >>> encoded = Gptq()(torch.tensor([[0.3, -0.2, 0.1]]), seen, Choice(weight_bits=3))
        >>> encoded.codes.tolist(), [round(s, 6) for s in encoded.scale.tolist()]
        ([[3, -2, 1]], [0.1])
    """

    damping: float = 0.01
    sweeps: int = 2
    feedback_bits: int = 6
    grid: Grid = field(default_factory=Grid)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight and the second moment of the inputs."""
        return (Weight(), InputMoment())

    def for_choice(self, choice: Choice) -> Gptq | Mse:
        """The quantizer that rounds to the width of a choice: `Mse` above `feedback_bits`."""
        return self if choice.weight_bits <= self.feedback_bits else Mse(self.grid)

    @property
    def entropy_coded(self) -> bool:
        """No: it rounds to a width."""
        return False

    @property
    def sketch(self) -> None:
        """None: tables of options are computed with the quantizer itself."""
        return None

    def on_grid(self, grid: Grid) -> Gptq:
        """The same quantizer on another grid."""
        return replace(self, grid=grid)

    @without_gradients
    def __call__(self, weight: Float[Tensor, ...], observation: Observation, choice: Choice) -> Encoding:
        """Round a weight `[out, in / groups, *kernel]` to `choice.weight_bits`, with scales for each `choice.granularity`.

        Returns:
            Codes in the weight's shape, int8, and scales: `[1]` for the tensor, `[out]` for channels, `[out, blocks]` for groups.

        Raises:
            InvalidRequest: the weight or the moment isn't finite, they don't fit, or the width or granularity doesn't exist.
        """
        if InputMoment() not in observation or choice.weight_bits > self.feedback_bits:
            return Mse(self.grid)(weight, observation, choice)
        matrix = float_matrix(weight)
        moment = observation[InputMoment()].to(matrix.device)
        rows_by_group(matrix, moment, observation.layer.name)
        limits = self.grid.limits(choice.weight_bits)
        importance = damped_diagonal(moment, self.damping)
        importance = (importance / importance.max()).float().repeat_interleave(matrix.shape[0] // len(moment), dim=0)
        importance = scale_blocks(importance, choice.granularity)
        start = clipped_scale(scale_blocks(matrix, choice.granularity), limits, self.grid, importance)
        multiples = _MULTIPLES if choice.weight_bits <= _FEW_BITS else _MULTIPLES[:1]
        scales = self.grid.nearest_allowed_scale(start * start.new_tensor(multiples)[:, None, None])
        with full_precision(matrix.device):
            codes, scale = self._round_best(matrix, scales, moment, choice, limits)
            scale = self._least_squares(matrix, codes, scale, moment, choice)
            for _ in range(self.sweeps if choice.weight_bits <= _FEW_BITS else 0):
                codes = self._descend(matrix, codes, scale, moment, choice)
                scale = self._least_squares(matrix, codes, scale, moment, choice)
        return encoding(codes, scale, weight, choice)

    def _descend(
        self,
        matrix: Float[Tensor, "out K"],
        codes: Float[Tensor, "out K"],
        scale: Float32[Tensor, "r b"],
        moment: Float[Tensor, "groups K K"],
        choice: Choice,
    ) -> Float[Tensor, "out K"]:
        """Codes `[out, K]` after one sweep of coordinate descent, in blocks of rows."""

        def columns_first(rows: Tensor) -> Tensor:
            return rows.unflatten(0, (len(moment), -1)).mT

        limits = self.grid.limits(choice.weight_bits)
        steps = expand_scale(scale, (matrix.shape[0], matrix.shape[1]), choice.granularity)
        added = damped_diagonal(moment, self.damping) - moment.diagonal(dim1=-2, dim2=-1)
        width = max(1, _WEIGHTS_AT_ONCE // (len(moment) * matrix.shape[1]))
        parts = zip(*(columns_first(rows).split(width, dim=-1) for rows in (matrix, codes, steps)), strict=True)
        improved = [descend(t, q, s, limits, DampedMoment(moment, added)) for t, q, s in parts]
        return torch.cat(improved, dim=-1).mT.flatten(0, 1)

    def _round_best(
        self,
        matrix: Float[Tensor, "out K"],
        scales: Float32[Tensor, "c r b"],
        moment: Float[Tensor, "groups K K"],
        choice: Choice,
        limits: tuple[int, int],
    ) -> tuple[Float[Tensor, "out K"], Float32[Tensor, "r b"]]:
        """Round with each of the scales `[c, r, b]`; return the codes `[out, K]` and scales `[r, b]` of least output error."""
        order = damped_diagonal(moment, self.damping).argsort(dim=-1, descending=True)
        factor = _Factor(order, upper_factor(moment, order, self.damping, matrix.dtype))
        at_once = scales.split(max(1, _WEIGHTS_AT_ONCE // matrix.numel()))
        results = [_round_with_scales(matrix, part, factor, choice, limits) for part in at_once]
        codes, loss = (torch.cat(parts) for parts in zip(*results, strict=True))
        if choice.granularity == "tensor":
            loss = loss.sum(1, keepdim=True)
        best = loss.argmin(0)
        rows = torch.arange(matrix.shape[0], device=matrix.device)
        scale_rows = torch.arange(scales.shape[1], device=matrix.device)
        return codes[best.expand(matrix.shape[0]), rows].float(), scales[best, scale_rows]

    def _least_squares(
        self,
        matrix: Float[Tensor, "out K"],
        codes: Float[Tensor, "out K"],
        scale: Float32[Tensor, "r b"],
        moment: Float[Tensor, "groups K K"],
        choice: Choice,
    ) -> Float32[Tensor, "r b"]:
        """Multiply each row's scales by (w H w') / (w' H w'), w' the rounded weights, where that lowers the error on the grid."""
        shape = (matrix.shape[0], matrix.shape[1])
        rounded = (codes * expand_scale(scale, shape, choice.granularity)).unflatten(0, (len(moment), -1)).double()
        added = damped_diagonal(moment, self.damping) - moment.diagonal(dim1=-2, dim2=-1)
        weighted = rounded @ moment.double() + rounded * added[:, None]
        cross = (matrix.unflatten(0, (len(moment), -1)) * weighted).sum(-1).flatten()
        norm = (rounded * weighted).sum(-1).flatten()
        if choice.granularity == "tensor":
            cross, norm = cross.sum(0, keepdim=True), norm.sum(0, keepdim=True)
        factor = torch.where((cross > 0) & (norm > 0), cross / norm, torch.ones_like(norm))
        candidate = self.grid.nearest_allowed_scale(scale * factor[:, None])
        ratio = (candidate / scale)[:, 0].double()
        better = (ratio.square() - 1) * norm < 2 * (ratio - 1) * cross
        return torch.where(better[:, None], candidate, scale)
