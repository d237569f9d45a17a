"""Magnitude and positive magnitude of a trajectory: its effective number of points at a scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.measures.border import require, unusable
from dyncompress.measures.distances import all_finite, distinct_points, euclidean_distances
from dyncompress.types import Array, Estimate, Iterates, Need, Observation
from dyncompress.types.arrays import Float, Float64, Int64

CIFAR_EXAMPLES = 50_000
SATURATED = 0.99  # share of the number of points
JITTER = 1e-10  # added to a diagonal of ones where the matrix is singular
NO_ERROR = "no standard error: one number of one trajectory"


@dataclass(frozen=True)
class Magnitude:
    """Mag(s W) = sum of beta, where Z beta = 1 and Z_ij = exp(-s |w_i - w_j|): 1 as s -> 0, the number of points as s -> inf.

    Source: Leinster, Documenta Mathematica 18 (2013); for trajectories Andreeva, Dupuis, Sarkar, Birdal, Simsekli, NeurIPS 2024.
    Cost: T^2 d / 2 for the distances, T^3 / 3 for one Cholesky factor.
    Fails when: runs of different T, stride or learning rate are compared (it depends on the size of the trajectory and saturates
    at T for large s). There is no standard error, because one trajectory gives one number.

    Attributes:
        scale: s, in 1 / units of the weights. The theory chooses the square root of the number of training examples; the default
            is that of CIFAR's 50 000.
    """

    scale: float = math.sqrt(CIFAR_EXAMPLES)

    def __post_init__(self) -> None:
        """Check the fields."""
        require(0 < self.scale < math.inf, "magnitude", "scale", self.scale, "above 0 and finite")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The late iterates."""
        return (Iterates(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The magnitude of the layer's trajectory."""
        return _estimate(observation[Iterates()], self.scale, lambda curve: curve.magnitude)


@dataclass(frozen=True)
class PositiveMagnitude:
    """PMag(s W) = sum of max(beta_i, 0), with the weights beta of `magnitude`.

    Source: Andreeva, Dupuis, Sarkar, Birdal, Simsekli, NeurIPS 2024, whose bound contains log PMag(sqrt(n) W) and a mutual
    information that can't be computed.
    Cost: as `magnitude`.
    Fails when: as `magnitude`.

    Attributes:
        scale: as in `magnitude`.
    """

    scale: float = math.sqrt(CIFAR_EXAMPLES)

    def __post_init__(self) -> None:
        """Check the fields."""
        require(0 < self.scale < math.inf, "positive_magnitude", "scale", self.scale, "above 0 and finite")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The late iterates."""
        return (Iterates(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The positive magnitude of the layer's trajectory."""
        return _estimate(observation[Iterates()], self.scale, lambda curve: curve.positive)


@dataclass(frozen=True)
class MagnitudeCurve:
    """Magnitudes of the first k points of a sequence, for several k.

    Attributes:
        sizes: numbers of points `[k]`.
        magnitude: magnitudes `[k]` of so many points.
        positive: positive magnitudes `[k]`.
        jittered: whether 1e-10 was added to the diagonal of Z, because Z was singular to working precision.
    """

    sizes: Int64[np.ndarray, " k"]
    magnitude: Float64[np.ndarray, " k"]
    positive: Float64[np.ndarray, " k"]
    jittered: bool


def magnitude_curve(distances: Float64[np.ndarray, "T T"], scale: float, sizes: Sequence[int] | None = None) -> MagnitudeCurve:
    """Magnitudes of the first k points, for every k in `sizes`, from one Cholesky factor Z = L L^T.

    The leading block of L factors the leading block of Z, so with y = L^-1 1 the magnitude of the first k points is
    y_1^2 + .. + y_k^2, and their weights are one triangular solve L_k^T beta = y_k.
    With points in a random order, these are nested random subsamples.

    Cost: T^3 / 3, and k^2 for each size.

    Args:
        distances: `[T, T]`, of a metric of negative type (Euclidean, l1); no two different points at distance zero.
        scale: s, in 1 / units of the distances.
        sizes: numbers of points, each from 1 to T; None: all T.

    Raises:
        InvalidRequest: a size isn't from 1 to T, or Z isn't positive definite (equal points, or another kind of metric).

    Example: two points at distance 1.
        >>> curve = magnitude_curve(np.array([[0.0, 1.0], [1.0, 0.0]]), 1.0, [1, 2])
        >>> curve.magnitude.round(6).tolist()
        [1.0, 1.462117]
    """
    numbers = np.array([len(distances)] if sizes is None else sizes, dtype=int)
    if numbers.size == 0 or numbers.min() < 1 or numbers.max() > len(distances):
        raise InvalidRequest(
            f"magnitude_curve: sizes {numbers.tolist()} of {len(distances)} points; give sizes from 1 to {len(distances)}."
        )
    factor, jittered = _factor(distances, scale)
    from scipy.linalg import solve_triangular  # imported here, because checking a recipe doesn't need scipy's solvers

    halfway = solve_triangular(factor, np.ones(len(distances)), lower=True, check_finite=False)
    positive = [
        solve_triangular(factor[:k, :k], halfway[:k], lower=True, trans=1, check_finite=False).clip(min=0).sum() for k in numbers
    ]
    return MagnitudeCurve(numbers, np.cumsum(halfway**2)[numbers - 1], np.array(positive), jittered)


def _factor(distances: Float64[np.ndarray, "T T"], scale: float) -> tuple[Float64[np.ndarray, "T T"], bool]:
    """Lower Cholesky factor of Z (entries above its diagonal are arbitrary), and whether jitter was needed."""
    from scipy.linalg import cho_factor

    for jitter in (0.0, JITTER):
        similarity = np.exp(-scale * distances.T)  # in Fortran's order, so that LAPACK works in place
        similarity[np.diag_indices_from(similarity)] += jitter
        try:
            return cho_factor(similarity, lower=True, overwrite_a=True, check_finite=False)[0], jitter > 0
        except np.linalg.LinAlgError:
            continue
    raise InvalidRequest(
        f"magnitude: the similarities of {len(distances)} points at scale {scale:g} have no Cholesky factor; "
        "merge equal points, raise the scale, or use a Euclidean or l1 metric."
    )


def _estimate(points: Float[Array, "T d"], scale: float, field: Callable[[MagnitudeCurve], np.ndarray]) -> Estimate:
    """The number that `field` selects of the curve of all distinct points."""
    if not len(points):
        return unusable(0, "no iterates")
    if not all_finite(points):
        return unusable(len(points), "the iterates hold NaN or infinity")
    distances, notes = euclidean_distances(points), [NO_ERROR]
    first = distinct_points(distances)
    if first.size < len(distances):
        notes.append(f"{len(distances) - first.size} iterates equal earlier ones and were merged")
    try:
        curve = magnitude_curve(distances[np.ix_(first, first)], scale)
    except InvalidRequest as error:
        return unusable(first.size, str(error))
    if curve.jittered:
        notes.append(f"the similarity matrix is singular to working precision; {JITTER:g} was added to its diagonal")
    if first.size == 1:
        notes.append("all iterates are equal")
    value = float(field(curve)[0])
    if value > SATURATED * first.size > SATURATED:
        notes.append(f"it is nearly the number of points, {first.size}: at this scale all of them are far apart")
    return Estimate(value, math.nan, first.size, valid=first.size > 1 and not curve.jittered, notes=tuple(notes))
