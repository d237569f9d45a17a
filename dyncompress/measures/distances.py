"""Float64 distances between the iterates of a trajectory, from which its geometric measures are computed."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist, squareform

from dyncompress.measures.border import as_float64
from dyncompress.types import Array
from dyncompress.types.arrays import Float, Float64, Int64

BLOCK_NUMBERS = 1 << 23  # float64 numbers of one block of columns: 64 MB
CLOSE = 1e-9  # squared distance / squared distances from the mean, below which the Gram matrix has lost half of its digits


def centred_gram(points: Float[Array, "T d"]) -> Float64[np.ndarray, "T T"]:
    """Inner products of the points around their mean, a block of columns at a time.

    Late in training, points lie a thousand times closer to each other than to the origin. Without the centring, float32 distances
    would have no correct digit.

    Args:
        points: `[T, d]`, any float dtype.

    Returns:
        `[T, T]` float64, symmetric.
    """
    count, width = points.shape
    gram = np.zeros((count, count))
    step = max(1, BLOCK_NUMBERS // max(count, 1))
    for start in range(0, width, step):
        block = as_float64(points[:, start : start + step])
        block = block - block.mean(axis=0)
        gram += block @ block.T
    return gram


def euclidean_distances(points: Float[Array, "T d"]) -> Float64[np.ndarray, "T T"]:
    """Euclidean distances between all pairs of points.

    They come from one Gram matrix of the centred points. Pairs that are too close for its precision are computed from their
    coordinates, so that the distance is zero exactly where points are equal.

    Cost: T^2 d / 2 multiply-adds; memory two `[T, T]` matrices and a block of columns.

    Args:
        points: `[T, d]`, any float dtype.

    Returns:
        `[T, T]` float64, symmetric, zeros on the diagonal.

    Example:
        >>> import numpy as np
        >>> euclidean_distances(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    squares = centred_gram(points)
    sizes = np.diagonal(squares).copy()
    for i, row in enumerate(squares):
        row *= -2
        row += sizes + sizes[i]
        near = i + 1 + np.flatnonzero(row[i + 1 :] <= CLOSE * (sizes[i + 1 :] + sizes[i]))
        row[i] = 0
        if near.size:
            row[near] = [np.sum((as_float64(points[j]) - as_float64(points[i])) ** 2) for j in near]
    upper = np.triu(squares, 1)  # the corrected pairs are above the diagonal only
    return np.sqrt(upper + upper.T, out=squares)


def loss_distances(losses: Float[Array, "T n"]) -> Float64[np.ndarray, "T T"]:
    """Distances rho(w, w') = mean over examples z of |loss(w, z) - loss(w', z)| between all pairs of iterates, a pseudo-metric.

    Cost: T^2 n / 2; memory `[T, T]` twice.

    Args:
        losses: `[T, n]`, the losses of the same n examples under each of T iterates.

    Returns:
        `[T, T]` float64.

    Example:
        >>> import numpy as np
        >>> loss_distances(np.array([[0.0, 1.0], [1.0, 3.0]])).tolist()
        [[0.0, 1.5], [1.5, 0.0]]
    """
    wide = as_float64(losses)
    return squareform(pdist(wide, "cityblock")) / wide.shape[1]


def distinct_points(distances: Float[np.ndarray, "T T"]) -> Int64[np.ndarray, " distinct"]:
    """Indices, ascending, of the points that no earlier point equals, i.e. that have no earlier point at distance zero.

    A pseudo-metric can't distinguish equal points, and their similarity matrix would be singular.

    Args:
        distances: `[T, T]`, symmetric.

    Example:
        >>> import numpy as np
        >>> distinct_points(euclidean_distances(np.array([[1.0], [2.0], [1.0]]))).tolist()
        [0, 1]
    """
    zero = distances == 0
    return np.flatnonzero(zero.argmax(axis=1) == np.arange(len(distances)))


def all_finite(points: Float[Array, "T d"]) -> bool:
    """Whether every number of the points `[T, d]` is finite."""
    rows = as_float64(points).sum(axis=1) if len(points) else np.zeros(0)
    return bool(np.isfinite(rows).all())
