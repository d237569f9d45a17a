"""Rounding for an entropy coder: one step size per output channel, set by the cost of an error there, and no bit width.

An entropy coder spends -log2 p bits on a code of probability p, so a large step, which leaves mostly zeros, takes few bytes.
The bytes of a network are well distributed when one more bit lowers the predicted distortion equally everywhere. For fine steps
that is so when rounding one weight costs the same everywhere: step = m / sqrt(G), where m is the step-size multiplier
`choice.step` and G the expected cost of a squared error of the weight after error feedback.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain

from dyncompress.coding.trellis import paths
from dyncompress.errors import InvalidRequest
from dyncompress.linalg import full_precision
from dyncompress.linalg.deferred import Tensor, torch, without_gradients
from dyncompress.quantization.gptq import nearest_plane, rows_by_group, upper_factor
from dyncompress.quantization.grid import SMALLEST_SCALE, Grid, encoding, float_matrix
from dyncompress.quantization.trellis import nearest_path
from dyncompress.types import Choice, Encoding, InputMoment, Need, Observation, OutputFisher, Weight
from dyncompress.types.arrays import Float, Float32, Float64, Int64

# The gain of a channel is limited to this range: rounding errors explain no gain beyond it.
_GAINS = (0.5, 2.0)
# Ratio of a trellis step to a grid step at which codes of about two bits take the same number of bytes.
_TRELLIS_STEP = 0.62
# Share of the code range that a trellis uses: near the limits a path can't compensate errors.
_TRELLIS_RANGE = 0.7
# Largest step, as a multiple of the row's largest weight: all codes are 0 there, and the step of a channel whose errors cost
# nothing stays finite.
_LARGEST_STEP = 64.0
# Shortest path that is worth a trellis: it begins in a fixed state, and at its end no later column uses its freedom.
_SHORTEST_PATH = 16
# Added to every channel's Fisher information, as a share of the layer's mean: the information is an estimate, also where it is 0.
_FISHER_FLOOR = 1e-3


@dataclass(frozen=True)
class Entropy:
    """Error feedback on a uniform grid whose step, one per output channel, follows the equal-slope rule.

    Let H = R R^T be the inputs' second moment, R upper triangular, and F_c the Fisher information of output channel c. An error
    e of the weight in column j, compensated by the later columns, costs F_c R_jj^2 e^2 / 2 nats. With g the geometric mean of
    R_jj^2 over the columns, the step of channel c is `choice.step` / sqrt(F g), F = F_c^rows mean(F_c)^(1 - rows). Where all
    columns have the same R_jj, an error distributed uniformly over one step then costs `choice.step`^2 / 24 nats per weight.
    Without Fisher information in the observation, the cost of an error is its share of the layer's output power.

    Codes lie in [-127, 127]; the step of a channel is raised until its largest weight fits. At the end each channel's scale is
    set by least squares with its codes held.

    With `trellis`, the codes of a channel lie on a path of a trellis (see `quantization.trellis`), which the coder of the
    container uses: about a tenth less distortion at the same bytes. Layers that are pruned as well, and layers whose paths are
    short, are rounded on the grid.

    **Source**: equal slopes, Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers"; the
    feedback is GPTQ's (Frantar et al. 2023) with a step in place of a bit width.

    **Cost**: K^3 / 3 + rows K^2 flops, K = in / groups * kernel size; with `trellis` eight times the second term.

    Attributes:
        damping: share of the mean of diag(H) that is added to the diagonal.
        rows: from 0, one step for all channels of the layer, to 1, each channel's step by its own Fisher information, which is
            noisy when calibration examples are few.
        trellis: whether the weights of the final plan are rounded on a trellis. The tables of options that plans are chosen
            from are computed on the grid either way, in an eighth of the time.
        grid: the integers that the target allows.

    Example:
        >>> from dyncompress.types import Layer
        >>> values = {InputMoment(): torch.eye(2)[None], OutputFisher(): torch.ones(1)}
        >>> seen = Observation(Layer("fc", "linear", (1, 2), 0), values)
        >>> Entropy(damping=0.0)(torch.tensor([[3.1, -0.9]]), seen, Choice(weight_bits=8, step=1.0)).codes
        tensor([[ 3, -1]], dtype=torch.int8)
    """

    damping: float = 0.01
    rows: float = 0.5
    trellis: bool = False
    grid: Grid = field(default_factory=Grid)

    def __post_init__(self) -> None:
        if not 0 <= self.rows <= 1:
            raise InvalidRequest(
                f"quantize.entropy: rows is {self.rows}; give 0 (one step for the layer) to 1 (a step for each channel)."
            )

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight, the second moment of the inputs, and the Fisher information of the outputs."""
        return (Weight(), InputMoment(), OutputFisher())

    @property
    def sketch(self) -> Entropy | None:
        """The faster quantizer that tables of options are computed with; None: this one."""
        return replace(self, trellis=False) if self.trellis else None

    @property
    def entropy_coded(self) -> bool:
        """Yes: it rounds by `choice.step`."""
        return True

    def on_grid(self, grid: Grid) -> Entropy:
        """The same quantizer on another grid."""
        return replace(self, grid=grid)

    @without_gradients
    def __call__(self, weight: Float[Tensor, ...], observation: Observation, choice: Choice) -> Encoding:
        """Round a weight `[out, in / groups, *kernel]` with the step-size multiplier `choice.step`.

        Where `choice` asks for zeros (`sparsity` or `pattern`), weights that are zero get the code 0.

        Returns:
            Codes in the weight's shape, int8, and a scale `[out]`, float32.

        Raises:
            InvalidRequest: the weight or the moment isn't finite, they don't fit, or the step isn't positive.
        """
        if not choice.step > 0:
            raise InvalidRequest(f"layer '{observation.layer.name}': step is {choice.step}; entropy coding needs one above 0.")
        matrix = float_matrix(weight)
        rows = rows_by_group(matrix, self._moment(matrix, observation), observation.layer.name)
        moment = self._moment(matrix, observation).double()
        zeros = choice.sparsity > 0 or bool(choice.pattern)
        lanes = [] if zeros or not self.trellis else paths(*weight.shape)
        on_trellis = bool(lanes) and len(lanes[-1]) >= _SHORTEST_PATH
        order = moment.diagonal(dim1=-2, dim2=-1).argsort(dim=-1, descending=True)
        if on_trellis:
            order = torch.tensor(list(chain(*lanes)), device=matrix.device).expand_as(order)
        factor = upper_factor(moment, order, self.damping, torch.float64)
        highest = self.grid.limits(8)[1]
        step = self._steps(rows, observation, factor, choice.step).flatten() * (_TRELLIS_STEP if on_trellis else 1.0)
        step = _limit_steps(step, matrix.abs().amax(1), highest * (_TRELLIS_RANGE if on_trellis else 1.0))
        step = self.grid.nearest_allowed_scale(step)
        by_group, inverse = step.reshape(len(rows), -1, 1), order.argsort(dim=-1)
        with full_precision(matrix.device):
            ordered = _permute_columns(rows, order)
            if on_trellis:
                starts = {sum(map(len, lanes[:i])) for i in range(len(lanes))}
                groups = zip(ordered / by_group, factor, strict=True)
                codes = torch.stack([nearest_path(w, f, starts, highest) for w, f in groups])
            else:
                free = (ordered != 0).mT if zeros else None
                codes = nearest_plane(ordered.mT, by_group.mT, (-highest, highest), factor, free).mT
            codes = _permute_columns(codes, inverse).flatten(0, 1)
        gain = _gain(rows, (codes * step[:, None]).unflatten(0, (len(rows), -1)), moment).flatten()
        return encoding(codes, self.grid.nearest_allowed_scale(step * gain.to(step)), weight, choice)

    def _moment(self, matrix: Float[Tensor, "out K"], observation: Observation) -> Float[Tensor, ...]:
        """The inputs' moment; the identity where none was observed, as for an embedding."""
        if InputMoment() in observation:
            return observation[InputMoment()].to(matrix.device)
        return torch.eye(matrix.shape[1], device=matrix.device)[None]

    def _steps(
        self,
        rows: Float[Tensor, "groups n K"],
        observation: Observation,
        factor: Float64[Tensor, "groups K K"],
        multiplier: float,
    ) -> Float32[Tensor, "groups n"]:
        """Steps `[groups, out / groups]` of rows `[groups, out / groups, K]`; `factor` is R, `[groups, K, K]`."""
        pivots = 2 * factor.diagonal(dim1=-2, dim2=-1).log()  # [groups, K]
        if OutputFisher() in observation:
            fisher = observation[OutputFisher()].to(rows.device).double()
            mean = fisher.mean().clamp_min(torch.finfo(torch.float64).tiny)
            fisher = (fisher + _FISHER_FLOOR * mean).unflatten(0, (len(rows), -1))
            sensitivity = fisher**self.rows * mean ** (1 - self.rows)
        else:
            power = (rows.double() @ factor).square().sum(-1).mean().clamp_min(SMALLEST_SCALE)
            sensitivity = (2 / (rows.shape[0] * rows.shape[1] * power)).expand(rows.shape[:2])
        slope = sensitivity.log() + pivots.mean(-1, keepdim=True)
        return (multiplier * (-slope / 2).exp()).float().clamp_min(SMALLEST_SCALE)


def _limit_steps(step: Float[Tensor, " out"], largest: Float[Tensor, " out"], highest: float) -> Float[Tensor, " out"]:
    """Raise steps `[out]` until no code exceeds `highest`, `largest` `[out]` being the largest weights, and keep them finite."""
    largest = torch.where(largest > 0, largest, largest.max().clamp_min(SMALLEST_SCALE))
    return torch.minimum(torch.maximum(step, largest / highest), _LARGEST_STEP * largest)


def _permute_columns(rows: Float[Tensor, "groups n K"], order: Int64[Tensor, "groups K"]) -> Float[Tensor, "groups n K"]:
    """Rows `[groups, n, K]` with the columns of each group in the order `[groups, K]`."""
    return rows.gather(2, order[:, None, :].expand_as(rows))


def _gain(
    rows: Float[Tensor, "groups n K"], rounded: Float[Tensor, "groups n K"], moment: Float64[Tensor, "groups K K"]
) -> Float64[Tensor, "groups n"]:
    """The factor by which each rounded row comes closest to its row, (w H w') / (w' H w'), `[groups, out / groups]`."""
    image = rounded.double() @ moment
    cross, norm = (rows * image).sum(-1), (rounded * image).sum(-1)
    good = (cross > 0) & (norm > 0)
    return torch.where(good, cross / torch.where(good, norm, 1.0), 1.0).clamp(*_GAINS)
