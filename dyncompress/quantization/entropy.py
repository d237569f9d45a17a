"""Rounding for an entropy coder: one step size a channel, set by what an error there costs, and as many levels as it takes.

A coder pays for a weight by its surprise, so no width has to be chosen: a large step leaves mostly zeros, which cost next to
nothing. The network's bytes go where they matter when one bit more saves the same harm everywhere, and for fine steps that
is the case when rounding one weight costs the same everywhere: step = knob / sqrt(G), G the weight's posterior sensitivity.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

from dyncompress.coding.trellis import paths
from dyncompress.errors import InvalidRequest
from dyncompress.linalg import full_precision
from dyncompress.linalg.deferred import torch, without_gradients
from dyncompress.quantization.gptq import grouped, nearest_plane, upper_factor
from dyncompress.quantization.grid import SMALLEST_SCALE, Grid, checked, encoding
from dyncompress.quantization.trellis import nearest_path
from dyncompress.types import Choice, Encoding, InputMoment, Need, Observation, OutputFisher, Weight

if TYPE_CHECKING:
    from torch import Tensor

# Gains of a channel beyond this aren't rounding errors any more.
_GAINS = (0.5, 2.0)
# On a trellis steps are finer, and so that codes of two bits take as many bytes as on the grid.
_FINER = 0.62
# Codes are kept from their limits, where a path can't make up for errors any more.
_ROOM = 0.7
# Largest step, in a row's largest weights: codes are 0 far below; weights that nothing depends on have no step of their own.
_WIDEST = 64.0
# Of a path that begins and ends in no state of its choice, little is left to gain.
_SHORTEST = 16
# Channels that hardly matter are rounded as if they mattered this share of the layer's mean: Fisher is an estimate.
_LEAST = 1e-3


@dataclass(frozen=True)
class Entropy:
    """Error feedback on a uniform grid of unlimited levels, its step by the equal-slope rule.

    With H = R R^T the inputs' second moment, column after column, an error of one weight that those to come make up for costs
    F_c R_jj^2 / 2 nats a square: F_c is the Fisher information of the output channel. Its geometric mean over columns is g,
    and the channel's step is `choice.step` / sqrt(F g), F = F_c^rows mean(F)^(1 - rows): where inputs count alike, an error
    spread evenly over one step costs step^2 / 24 nats a weight. Without Fisher information an error is counted relative to the
    layer's output.

    Codes lie in [-127, 127]; the step is widened where a channel needs more. Least squares sets the channel's gain at last.

    With `trellis` the codes of a channel depend on each other (`quantization.trellis`), which the container's coder knows: about
    a tenth less harm at the same bytes. Zeros that were asked for, and channels whose paths are short, are left to the grid.

    **Source**: equal slopes, Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers"; the
    feedback is GPTQ's (Frantar et al. 2023) on a grid without limits.

    Cost: K^3 / 3 + rows K^2 flops; with `trellis` eight times the latter.

    Attributes:
        damping: share of the mean of diag(H) added to the diagonal.
        rows: 0: one step a layer; 1: every channel by its own Fisher information, which few examples know only so well.
        trellis: whether a plan is carried out on a trellis; tables of options are made on the grid, in an eighth of the time.
        grid: what the target's integers allow.
    """

    damping: float = 0.01
    rows: float = 0.5
    trellis: bool = False
    grid: Grid = field(default_factory=Grid)

    def __post_init__(self) -> None:
        if not 0 <= self.rows <= 1:
            raise InvalidRequest(f"quantize.entropy: rows is {self.rows}; 0 (one step a layer) to 1 (each channel its own).")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight, the inputs' second moment, and what an output error costs."""
        return (Weight(), InputMoment(), OutputFisher())

    @property
    def sketch(self) -> Entropy | None:
        """The quicker one that tables of options are made with, if there is one."""
        return replace(self, trellis=False) if self.trellis else None

    @property
    def entropy_coded(self) -> bool:
        """Yes: it rounds by `choice.step`."""
        return True

    def on_grid(self, grid: Grid) -> Entropy:
        """The same quantizer on another grid."""
        return replace(self, grid=grid)

    @without_gradients
    def __call__(self, weight: Tensor, observation: Observation, choice: Choice) -> Encoding:
        """Round a weight `[out, in / groups, *kernel]` with `choice.step`.

        Raises:
            InvalidRequest: weight or moment isn't finite or they don't fit, or the step isn't positive.
        """
        if not choice.step > 0:
            raise InvalidRequest(f"layer '{observation.layer.name}': step is {choice.step}; entropy coding needs one above 0.")
        matrix = checked(weight)
        rows = grouped(matrix, self._moment(matrix, observation), observation.layer.name)
        moment = self._moment(matrix, observation).double()
        zeros = choice.sparsity > 0 or bool(choice.pattern)
        lanes = [] if zeros or not self.trellis else paths(*weight.shape)
        on_trellis = bool(lanes) and len(lanes[-1]) >= _SHORTEST
        order = moment.diagonal(dim1=-2, dim2=-1).argsort(dim=-1, descending=True)
        if on_trellis:
            order = torch.tensor(list(chain(*lanes)), device=matrix.device).expand_as(order)
        factor = upper_factor(moment, order, self.damping, torch.float64)
        highest = self.grid.limits(8)[1]
        step = self._steps(rows, observation, factor, choice.step).flatten() * (_FINER if on_trellis else 1.0)
        step = _bounded(step, matrix.abs().amax(1), highest * (_ROOM if on_trellis else 1.0))
        step = self.grid.allowed(step)
        by_group, inverse = step.reshape(len(rows), -1, 1), order.argsort(dim=-1)
        with full_precision(matrix.device):
            first = _taken(rows, order)
            if on_trellis:
                starts = {sum(map(len, lanes[:i])) for i in range(len(lanes))}
                groups = zip(first / by_group, factor, strict=True)
                found = torch.stack([nearest_path(w, f, starts, highest) for w, f in groups])
            else:
                free = (first != 0).mT if zeros else None
                found = nearest_plane(first.mT, by_group.mT, (-highest, highest), factor, free).mT
            codes = _taken(found, inverse).flatten(0, 1)
        gain = _gain(rows, (codes * step[:, None]).unflatten(0, (len(rows), -1)), moment).flatten()
        return encoding(codes, self.grid.allowed(step * gain.to(step)), weight, choice)

    def _moment(self, matrix: Tensor, observation: Observation) -> Tensor:
        """The inputs' moment; unit inputs where there was none to observe, as in front of an embedding."""
        if InputMoment() in observation:
            return observation[InputMoment()].to(matrix.device)
        return torch.eye(matrix.shape[1], device=matrix.device)[None]

    def _steps(self, rows: Tensor, observation: Observation, factor: Tensor, knob: float) -> Tensor:
        """Steps `[groups, out / groups]` of rows `[groups, out / groups, K]`."""
        pivots = 2 * factor.diagonal(dim1=-2, dim2=-1).log()  # [groups, K]
        if OutputFisher() in observation:
            fisher = observation[OutputFisher()].to(rows.device).double()
            mean = fisher.mean().clamp_min(torch.finfo(torch.float64).tiny)
            fisher = (fisher + _LEAST * mean).unflatten(0, (len(rows), -1))
            sensitivity = fisher**self.rows * mean ** (1 - self.rows)
        else:
            image = (rows.double() @ factor).square().sum(-1).mean().clamp_min(SMALLEST_SCALE)
            sensitivity = (2 / (rows.shape[0] * rows.shape[1] * image)).expand(rows.shape[:2])
        slope = sensitivity.log() + pivots.mean(-1, keepdim=True)
        return (knob * (-slope / 2).exp()).float().clamp_min(SMALLEST_SCALE)


def _bounded(step: Tensor, largest: Tensor, highest: float) -> Tensor:
    """Steps `[out]` at which codes of weights up to `largest` are within their limits, and that are finite whatever they cost."""
    largest = torch.where(largest > 0, largest, largest.max().clamp_min(SMALLEST_SCALE))
    return torch.minimum(torch.maximum(step, largest / highest), _WIDEST * largest)


def _taken(rows: Tensor, order: Tensor) -> Tensor:
    """Rows `[groups, n, K]` with each group's columns in its order `[groups, K]`."""
    return rows.gather(2, order[:, None, :].expand_as(rows))


def _gain(rows: Tensor, rounded: Tensor, moment: Tensor) -> Tensor:
    """The factor of each rounded row that brings it closest to the row, (w H w') / (w' H w'), `[groups, out / groups]`."""
    image = rounded.double() @ moment
    cross, norm = (rows * image).sum(-1), (rounded * image).sum(-1)
    good = (cross > 0) & (norm > 0)
    return torch.where(good, cross / torch.where(good, norm, 1.0), 1.0).clamp(*_GAINS)
