"""Layers compressed in order, each aimed at what the original computes from the inputs that the layers before leave it.

Rounding and pruning on the original's inputs lets errors pile up from layer to layer. Here each layer gets a new weight first,
the ridge solution of min E|y - W x'|^2, y the original's output and x' the inputs it gets in the compressed network, and that
weight is pruned and rounded under the moment of x'. Biases take up the means, so that moments are centred.

**Source**: asymmetric calibration, Li et al., "GPTAQ", 2025, with the closed form in place of its approximation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from dyncompress import linalg
from dyncompress.models.augmentation import is_image
from dyncompress.pipeline.observed_model import ObservedModel
from dyncompress.types import (
    Affine,
    Array,
    Batch,
    Edit,
    InputMoment,
    LayerwiseCalibration,
    Need,
    Observation,
    ResidualMoments,
    SetWeight,
    Weight,
)

# Share of the mean of diag(H) that draws the new weight towards the old one: a thousand images determine it only so well.
_DAMPING = 0.01
_PRECISION = 2e-6  # precision of a moment summed in float32, as a share of its diagonal
_CONSTANT = 30.0  # inputs whose variance is below this many times the precision hold rounding errors only


@dataclass(frozen=True)
class _Fit:
    """Compresses one layer towards the weight that least squares wants.

    Attributes:
        observations: layer -> its weight, and the other values that `compress` reads.
        compress: an observation, whose weight is what least squares wants and whose moment is centred -> the new weight.
    """

    observations: Mapping[str, Observation]
    compress: Callable[[Observation], Array]

    def __call__(self, layer: str, moments: ResidualMoments) -> Array:
        """The layer's new weight."""
        moment, cross = centred(moments)
        known = self.observations[layer]
        weight = known[Weight()]
        aim = weight + ridge(moment, cross).reshape(weight.shape).to(weight)
        return self.compress(Observation(known.layer, {**known.values, Weight(): aim, InputMoment(): moment.float()}))


def compress_in_order(
    source: ObservedModel,
    names: Sequence[str],
    compress: Callable[[Observation], Array],
    needs: Sequence[Need] = (),
    *,
    flips: bool = False,
) -> dict[str, tuple[Array, Array]]:
    """Compress these layers one after the other.

    Args:
        source: with calibration data; its adapter has the capability `LayerwiseCalibration`.
        names: layers; those that can't be taken in order (called twice, no batch axis in front) are left out.
        compress: an observation, whose weight is what least squares wants and whose moment is centred -> the new weight.
        needs: the other values that `compress` reads.
        flips: whether images are observed a second time, flipped horizontally.

    Returns:
        layer -> (new weight, shift of its output).
    """
    model = source.model
    assert isinstance(model, LayerwiseCalibration)
    others = tuple(need for need in needs if not isinstance(need, InputMoment))
    known = {name: observation for name, observation in source.observe((Weight(), *others)) if name in names}
    flipped = [_flipped(batch) for batch in source.batches] if flips else []
    order = [layer.name for layer in model.layers() if layer.name in known]
    return model.in_sequence([*source.batches, *flipped], order, _Fit(known, compress))


def _flipped(batch: Batch) -> Batch:
    """The batch with its images flipped horizontally and other inputs unchanged."""
    tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
    return {name: value.flip(3) if is_image(value) else value for name, value in tensors.items()}


def edits(layer: str, weight: Array, shift: Array | None) -> list[Edit]:
    """The edits that set a new weight and shift the output."""
    changes: list[Edit] = [SetWeight(layer, weight)]
    return changes if shift is None else [*changes, Affine(layer, torch.ones_like(shift), shift)]


def centred(moments: ResidualMoments) -> tuple[Array, Array]:
    """Covariance of the inputs `[groups, K, K]`, and of the residuals with the inputs, `[out, K]`.

    Inputs that earlier layers have made constant have no variance: rounding errors may leave a negative one in its place, so
    the diagonal gets the least variance that the precision of the moment can resolve.
    """
    mean = moments.mean
    rows = mean.repeat_interleave(len(moments.residual_mean) // len(mean), dim=0)
    covariance = moments.moment - mean[:, :, None] * mean[:, None, :]
    least = _PRECISION * moments.moment.diagonal(dim1=-2, dim2=-1).mean(-1) + torch.finfo(torch.float32).tiny
    least = torch.where(covariance.diagonal(dim1=-2, dim2=-1).mean(-1) < _CONSTANT * least, _CONSTANT * least, least)
    covariance.diagonal(dim1=-2, dim2=-1).add_(least[:, None])
    return covariance, moments.residual_cross_moment - moments.residual_mean[:, None] * rows


def ridge(moment: Array, cross: Array) -> Array:
    """cross (moment + damping)^-1, `[out, K]`, each row with its group's moment."""
    factor = linalg.damped_cholesky(linalg.damped(moment, _DAMPING), 0.0)
    right = cross.unflatten(0, (len(moment), -1)).mT
    return torch.cholesky_solve(right, factor).mT.flatten(0, 1)
