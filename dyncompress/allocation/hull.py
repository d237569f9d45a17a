"""All plans on the lower convex hull of cost against distortion, computed without a solver, for drawing a curve.

For a given Lagrange multiplier, each unit separately takes the option with the least `distortion + multiplier * cost`. As the
multiplier grows from zero, units move one after another along the edges of their own lower hulls, in the order of the slopes. So
the hull of all units together is the sorted union of these edges, and each corner is the plan of least distortion at its cost.

Source: Everett, Operations Research 11 (1963), 399: generalized Lagrange multipliers; Shoham, Gersho, IEEE TASSP 36 (1988), 1445.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from dyncompress.types.arrays import Float

Corner = tuple[float, float]  # cost, distortion


def hull(cost: Float[np.ndarray, "L C"], distortion: Float[np.ndarray, "L C"], count: int) -> list[Corner]:
    """Corners of the lower hull of all plans' total cost and distortion, from the least cost to the least distortion.

    Args:
        cost, distortion: `[L, C]`, of every option of L units; inf for an option that a unit doesn't have.
        count: largest number of corners to return, spread about evenly over the costs, both ends included.

    Returns:
        A pair `(cost, distortion)` for each corner, costs ascending and distortions descending.

    Example:
        >>> hull(np.array([[8.0, 4.0, 2.0], [6.0, 3.0, np.inf]]), np.array([[0.0, 1.0, 4.0], [0.0, 2.0, np.inf]]), 9)
        [(5.0, 6.0), (7.0, 3.0), (10.0, 1.0), (14.0, 0.0)]
    """
    corners = [_corners(*unit) for unit in zip(cost, distortion, strict=True)]
    edges = [(a[0] - b[0], b[1] - a[1]) for unit in corners for a, b in pairwise(unit)]
    edges.sort(key=lambda edge: edge[1] / edge[0])
    saved = np.cumsum([0.0, *(edge[0] for edge in edges)])
    added = np.cumsum([0.0, *(edge[1] for edge in edges)])
    costs = sum(unit[0][0] for unit in corners) - saved[::-1]
    distortions = sum(unit[0][1] for unit in corners) + added[::-1]
    even = np.linspace(costs[0], costs[-1], count)
    indices = np.unique(np.abs(costs[:, None] - even).argmin(axis=0))
    return [(float(costs[i]), float(distortions[i])) for i in indices]


def _corners(cost: Float[np.ndarray, " C"], distortion: Float[np.ndarray, " C"]) -> list[Corner]:
    """The lower hull of one unit's options, from the least distortion to the least cost."""
    exists = np.isfinite(cost) & np.isfinite(distortion)
    corners: list[Corner] = []
    for point in sorted(zip(distortion[exists].tolist(), cost[exists].tolist(), strict=True)):
        here = (point[1], point[0])
        if corners and here[0] >= corners[-1][0]:
            continue  # the last corner has no larger cost and no larger distortion
        while len(corners) > 1 and _above(corners[-2], corners[-1], here):
            corners.pop()
        corners.append(here)
    return corners


def _above(first: Corner, middle: Corner, last: Corner) -> bool:
    """Whether the middle one lies on or above the line between its neighbours."""
    return (middle[1] - first[1]) * (first[0] - last[0]) >= (last[1] - first[1]) * (first[0] - middle[0])
