"""Rounding for an entropy coder: one step size a channel, set by what an error there costs, and as many levels as it takes.

A coder pays for a weight by its surprise, so no width has to be chosen: a large step leaves mostly zeros, which cost next to
nothing. The network's bytes go where they matter when one bit more saves the same harm everywhere, and for fine steps that
is the case when rounding one weight costs the same everywhere: step = knob / sqrt(G), G the weight's posterior sensitivity.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import full_precision
from dyncompress.quantization.gptq import grouped, nearest_plane, upper_factor
from dyncompress.quantization.grid import SMALLEST_SCALE, Grid, checked, encoding
from dyncompress.types import Choice, Encoding, InputMoment, Need, Observation, OutputFisher, Weight

# Gains of a channel beyond this aren't rounding errors any more.
_GAINS = (0.5, 2.0)
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

    **Source**: equal slopes, Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers"; the
    feedback is GPTQ's (Frantar et al. 2023) on a grid without limits.

    Cost: K^3 / 3 + rows K^2 flops.

    Attributes:
        damping: share of the mean of diag(H) added to the diagonal.
        rows: 0: one step a layer; 1: every channel by its own Fisher information, which few examples know only so well.
        grid: what the target's integers allow.
    """

    damping: float = 0.01
    rows: float = 0.5
    grid: Grid = field(default_factory=Grid)

    def __post_init__(self) -> None:
        if not 0 <= self.rows <= 1:
            raise InvalidRequest(f"quantize.entropy: rows is {self.rows}; 0 (one step a layer) to 1 (each channel its own).")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight, the inputs' second moment, and what an output error costs."""
        return (Weight(), InputMoment(), OutputFisher())

    @torch.no_grad()
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
        order = moment.diagonal(dim1=-2, dim2=-1).argsort(dim=-1, descending=True)
        factor = upper_factor(moment, order, self.damping, torch.float64)
        limits = self.grid.limits(8)
        step = self._steps(rows, observation, factor, choice.step).flatten()
        step = torch.maximum(step, matrix.abs().amax(1) / limits[1])
        step = self.grid.allowed(step)
        with full_precision(matrix.device):
            first = rows.mT.gather(1, order[:, :, None].expand_as(rows.mT))
            free = first != 0 if choice.sparsity > 0 or choice.pattern else None
            sorted_codes = nearest_plane(first, step.reshape(len(rows), 1, -1), limits, factor, free)
            codes = torch.empty_like(sorted_codes).scatter_(1, order[:, :, None].expand_as(first), sorted_codes)
            codes = codes.mT.flatten(0, 1)
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


def _gain(rows: Tensor, rounded: Tensor, moment: Tensor) -> Tensor:
    """The factor of each rounded row that brings it closest to the row, (w H w') / (w' H w'), `[groups, out / groups]`."""
    image = rounded.double() @ moment
    cross, norm = (rows * image).sum(-1), (rounded * image).sum(-1)
    good = (cross > 0) & (norm > 0)
    return torch.where(good, cross / torch.where(good, norm, 1.0), 1.0).clamp(*_GAINS)
