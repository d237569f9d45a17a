"""The minimum spanning tree of points with known distances, which is their zero-dimensional persistent homology."""

from __future__ import annotations

import numpy as np

from dyncompress.types.arrays import Float, Float64, Integer


def tree_lengths(
    distances: Float[np.ndarray, "T T"], members: Integer[np.ndarray, " k"] | None = None
) -> Float64[np.ndarray, " edges"]:
    """Lengths of the edges of the minimum spanning tree, in the order in which Prim's algorithm adds them.

    They are all finite lifetimes of degree-0 Vietoris-Rips persistent homology (births at 0, deaths at the full distance). A
    subset of points needs no distance matrix of its own. Distances of zero count as edges.

    Source: Prim, Bell System Technical Journal 36 (1957).
    Cost: T steps for each of k members, three passes over a row each: O(T k).

    Args:
        distances: `[T, T]` symmetric.
        members: `[k]` different indices of the points to span; None: all points.

    Returns:
        The lengths `[k - 1]`, not sorted.

    Example:
        >>> import numpy as np
        >>> line = np.array([0.0, 1.0, 3.0, 7.0])
        >>> tree_lengths(np.abs(line[:, None] - line)).tolist()
        [1.0, 2.0, 4.0]
    """
    members = np.arange(len(distances)) if members is None else members
    excluded = np.full(len(distances), np.inf)
    excluded[members] = -np.inf
    nearest = np.full(len(distances), np.inf)
    lengths = np.empty(max(len(members) - 1, 0))
    newest = members[0] if len(members) else 0
    for edge in range(lengths.size):
        excluded[newest] = np.inf
        np.minimum(nearest, distances[newest], out=nearest)
        np.maximum(nearest, excluded, out=nearest)
        newest = nearest.argmin()
        lengths[edge] = nearest[newest]
    return lengths
