"""The plans on the lower convex hull of cost against distortion, all of them without a solver: for drawing a curve.

A Lagrange multiplier asks every unit by itself for the option of the least `distortion + multiplier * cost`. As it grows from
zero, units move one after another along the edges of their own lower hulls, in the order of the edges' slopes. So the hull of all
units together is the sorted union of these edges, and each of its corners is a plan of the least distortion at its cost.

Source: Everett, Operations Research 11 (1963), 399: generalized Lagrange multipliers; Shoham, Gersho, IEEE TASSP 36 (1988), 1445.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

Corner = tuple[float, float]  # cost, distortion


def hull(cost: np.ndarray, distortion: np.ndarray, count: int) -> list[Corner]:
    """Corners of the lower hull of the sums, from the least cost to the least distortion.

    Args:
        cost, distortion: `[L, C]`, one option of each unit; inf for an option that a unit lacks.
        count: at most so many corners, about evenly spread over the costs; both ends are among them.

    Returns:
        `(cost, distortion)` each, costs ascending and distortions descending.

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
    wanted = np.linspace(costs[0], costs[-1], count)
    chosen = np.unique(np.abs(costs[:, None] - wanted).argmin(axis=0))
    return [(float(costs[i]), float(distortions[i])) for i in chosen]


def _corners(cost: np.ndarray, distortion: np.ndarray) -> list[Corner]:
    """The lower hull of one unit's options, from the least distortion to the least cost."""
    there = np.isfinite(cost) & np.isfinite(distortion)
    found: list[Corner] = []
    for point in sorted(zip(distortion[there].tolist(), cost[there].tolist(), strict=True)):
        here = (point[1], point[0])
        if found and here[0] >= found[-1][0]:
            continue  # no cheaper than one that is no worse
        while len(found) > 1 and _above(found[-2], found[-1], here):
            found.pop()
        found.append(here)
    return found


def _above(first: Corner, middle: Corner, last: Corner) -> bool:
    """Whether the middle one lies on or above the line between its neighbours."""
    return (middle[1] - first[1]) * (first[0] - last[0]) >= (last[1] - first[1]) * (first[0] - middle[0])
