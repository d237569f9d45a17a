"""The minimum spanning tree of points whose distances are known: the zero-dimensional persistent homology of the set."""

from __future__ import annotations

import numpy as np


def tree_lengths(distances: np.ndarray, members: np.ndarray | None = None) -> np.ndarray:
    """Lengths of the edges of the minimum spanning tree, in the order in which Prim's algorithm takes them.

    They are the lifetimes of degree-0 Vietoris-Rips persistent homology (births at 0, deaths at the full distance), all of the
    finite ones. A subset needs no matrix of its own: the others are barred. Distances of zero are edges as any other.

    Source: Prim, Bell System Technical Journal 36 (1957).
    Cost: T steps for each of k members, three passes over a row each: O(T k).

    Args:
        distances: `[T, T]` symmetric.
        members: `[k]` different indices of the points to span; None: all.

    Returns:
        `[k - 1]`.

    Example:
        >>> import numpy as np
        >>> line = np.array([0.0, 1.0, 3.0, 7.0])
        >>> tree_lengths(np.abs(line[:, None] - line)).tolist()
        [1.0, 2.0, 4.0]
    """
    members = np.arange(len(distances)) if members is None else members
    barred = np.full(len(distances), np.inf)
    barred[members] = -np.inf
    nearest = np.full(len(distances), np.inf)
    lengths = np.empty(max(len(members) - 1, 0))
    newest = members[0] if len(members) else 0
    for edge in range(lengths.size):
        barred[newest] = np.inf
        np.minimum(nearest, distances[newest], out=nearest)
        np.maximum(nearest, barred, out=nearest)
        newest = nearest.argmin()
        lengths[edge] = nearest[newest]
    return lengths
