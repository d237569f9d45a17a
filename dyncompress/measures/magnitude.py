"""Magnitude and positive magnitude of a trajectory: how many points it effectively has at a scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.measures.border import require, unusable
from dyncompress.measures.distances import distinct, euclidean_distances, finite
from dyncompress.types import Array, Estimate, Iterates, Need, Observation

CIFAR_EXAMPLES = 50_000
JITTER = 1e-10  # on a diagonal of ones
NO_ERROR = "no standard error: one number of one trajectory"


@dataclass(frozen=True)
class Magnitude:
    """Mag(s W) = sum of beta, where Z beta = 1 and Z_ij = exp(-s |w_i - w_j|): 1 as s -> 0, the number of points as s -> inf.

    Source: Leinster, Documenta Mathematica 18 (2013); for trajectories Andreeva, Dupuis, Sarkar, Birdal, Simsekli, NeurIPS 2024.
    Cost: T^2 d / 2 for the distances, T^3 / 3 for one Cholesky factor.
    Fails when: runs of different T, stride or learning rate are compared (it holds the size of the trajectory and saturates at T
    for large s). No standard error: it is one number of one trajectory.

    Attributes:
        scale: s, in 1 / units of the weights. The square root of the number of training examples is the theory's choice; the
            default is that of CIFAR's 50 000.
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

    Source: Andreeva, Dupuis, Sarkar, Birdal, Simsekli, NeurIPS 2024, whose bound holds log PMag(sqrt(n) W) beside a mutual
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
    """Magnitudes of the first points of an order, for several numbers of points.

    Attributes:
        sizes: `[k]` numbers of points.
        magnitude: `[k]`.
        positive: `[k]` positive magnitudes.
        jittered: whether 1e-10 had to be added to the diagonal of Z.
    """

    sizes: np.ndarray
    magnitude: np.ndarray
    positive: np.ndarray
    jittered: bool


def magnitude_curve(distances: np.ndarray, scale: float, sizes: Sequence[int] | None = None) -> MagnitudeCurve:
    """Magnitudes of the first k points, for every k in `sizes`, from one Cholesky factor Z = L L^T.

    The leading block of L factors the leading block of Z, so with y = L^-1 1 the magnitude of the first k points is
    y_1^2 + .. + y_k^2, and their weights are one triangular solve L_k^T beta = y_k.
    Give points in a random order for nested random subsamples.

    Cost: T^3 / 3, and k^2 for each size.

    Args:
        distances: `[T, T]`, no two points at distance zero, of a metric of negative type (Euclidean, l1).
        scale: s, in 1 / units of the distances.
        sizes: numbers of points, each from 1 to T; None: all T.

    Raises:
        InvalidRequest: Z isn't positive definite: equal points or another kind of metric.

    Example: two points at distance 1.
        >>> curve = magnitude_curve(np.array([[0.0, 1.0], [1.0, 0.0]]), 1.0, [1, 2])
        >>> curve.magnitude.round(6).tolist()
        [1.0, 1.462117]
    """
    wanted = np.array([len(distances)] if sizes is None else sizes, dtype=int)
    if wanted.size == 0 or wanted.min() < 1 or wanted.max() > len(distances):
        raise InvalidRequest(f"magnitude_curve: sizes {wanted.tolist()} of {len(distances)} points; give some from 1 to all.")
    factor, jittered = _factor(distances, scale)
    from scipy.linalg import solve_triangular  # here: a wrong recipe is refused without scipy's solvers

    halfway = solve_triangular(factor, np.ones(len(distances)), lower=True, check_finite=False)
    positive = [
        solve_triangular(factor[:k, :k], halfway[:k], lower=True, trans=1, check_finite=False).clip(min=0).sum() for k in wanted
    ]
    return MagnitudeCurve(wanted, np.cumsum(halfway**2)[wanted - 1], np.array(positive), jittered)


def _factor(distances: np.ndarray, scale: float) -> tuple[np.ndarray, bool]:
    """Lower Cholesky factor of Z (what stands above its diagonal means nothing), and whether it took jitter."""
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


def _estimate(points: Array, scale: float, reading: Callable[[MagnitudeCurve], np.ndarray]) -> Estimate:
    """What `reading` takes of the curve of all distinct points."""
    if not len(points):
        return unusable(0, "no iterates")
    if not finite(points):
        return unusable(len(points), "the iterates hold NaN or infinity")
    distances, notes = euclidean_distances(points), [NO_ERROR]
    kept = distinct(distances)
    if kept.size < len(distances):
        notes.append(f"{len(distances) - kept.size} iterates equal earlier ones and were merged")
    try:
        curve = magnitude_curve(distances[np.ix_(kept, kept)], scale)
    except InvalidRequest as error:
        return unusable(kept.size, str(error))
    if curve.jittered:
        notes.append(f"the similarity matrix is singular to working precision; {JITTER:g} was added to its diagonal")
    if kept.size == 1:
        notes.append("all iterates are equal")
    value = float(reading(curve)[0])
    return Estimate(value, math.nan, kept.size, valid=kept.size > 1 and not curve.jittered, notes=tuple(notes))
