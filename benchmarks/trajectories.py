"""The time for persistent-homology dimensions and magnitudes of a trajectory, against a separate call for each size.

`ph schedule`: the lifetime sums of one schedule of subsamples (200 to 950 of 1 000 iterates, in steps of 50) of a low-rank
trajectory in 10 000 dimensions, from the points to the slope. Ours uses one distance matrix. ripser with maxdim=0 is called on
every subset, as the code of Birdal et al. does with maxdim=1. `ph_dimension` itself uses ten schedules.

`magnitude`: magnitudes and positive magnitudes of 19 nested sizes, from the same distances. One Cholesky factor is compared with
a Cholesky solve for each size, which is our own plain implementation.

All methods use the same subsets. Each runs once in each round, with rounds interleaved in one process; the figures are minima
over rounds of wall and processor time. The sum of a method's parts is compared with its total. The number of threads matters:
ripser uses one thread except for distances, and so do our trees. The file has one entry for each number of threads.
Run: `OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2 python -m benchmarks.trajectories [--rounds 5]` (ripser: pip install ripser)
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy.linalg import cho_factor, cho_solve

from dyncompress import deployment
from dyncompress.measures.distances import euclidean_distances
from dyncompress.measures.magnitude import magnitude_curve
from dyncompress.measures.ph_dimension import PhDimension
from dyncompress.measures.spanning_tree import tree_lengths
from dyncompress.types import Iterates, Layer, Observation

RESULTS = Path(__file__).parent / "results"
RECORDS, WIDTH, RANK = 1000, 10_000, 20
SIZES = range(200, 1000, 50)
POINTS, STEPS = 1900, 19


class Parts:
    """Wall and processor seconds of the parts of one method, in order."""

    def __init__(self) -> None:
        """Start without parts."""
        self.seconds: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """Run `work` and add its time to `name`."""
        wall, own = time.perf_counter(), time.process_time()
        result = work()
        known = self.seconds.get(name, (0.0, 0.0))
        self.seconds[name] = (known[0] + time.perf_counter() - wall, known[1] + time.process_time() - own)
        return result


def trajectory(seed: int = 0) -> np.ndarray:
    """A random walk in a few directions with small noise in all, far from the origin, `[RECORDS, WIDTH]`."""
    generator = np.random.default_rng(seed)
    walk = generator.standard_normal((RECORDS, RANK)).cumsum(axis=0) @ generator.standard_normal((RANK, WIDTH))
    return 10 * generator.standard_normal(WIDTH) + walk + 0.1 * generator.standard_normal((RECORDS, WIDTH))


def slope(sums: list[float]) -> float:
    """The dimension from the slope of the logarithms of lifetime sums on those of the sizes."""
    return float(1 / (1 - np.polyfit(np.log(SIZES), np.log(sums), 1)[0]))


def ours(points: np.ndarray, subsets: list[np.ndarray], parts: Parts) -> float:
    """Our method: one distance matrix, and a tree for each subset."""
    distances = parts("distances", lambda: euclidean_distances(points))
    return slope(parts("trees", lambda: [float(tree_lengths(distances, subset).sum()) for subset in subsets]))


def ripser_for_each(points: np.ndarray, subsets: list[np.ndarray], parts: Parts) -> float:
    """ripser on the points of each subset."""
    from ripser import ripser

    def lifetimes(subset: np.ndarray) -> float:
        bars = ripser(points[subset], maxdim=0)["dgms"][0][:, 1]
        return float(bars[np.isfinite(bars)].sum())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ripser warns of more columns than rows
        return slope([parts(str(len(subset)), lambda subset=subset: lifetimes(subset)) for subset in subsets])


def ten_schedules(points: np.ndarray, subsets: list[np.ndarray], parts: Parts) -> float:
    """The whole measure: ten schedules of its own subsets, with their spread."""
    one = Observation(Layer("run", "run", (1, WIDTH), macs=0), {Iterates(): points})
    return parts("measure", lambda: PhDimension()(one).value)


def one_factor(distances: np.ndarray, sizes: list[int], parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Our method: one Cholesky factor for all sizes."""
    curve = parts("all sizes", lambda: magnitude_curve(distances, 1.0, sizes))
    return curve.magnitude, curve.positive


def solve_for_each(distances: np.ndarray, sizes: list[int], parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """A Cholesky solve for each size."""

    def weights(k: int) -> np.ndarray:
        similarity = np.exp(-distances[:k, :k])
        return cho_solve(cho_factor(similarity, overwrite_a=True, check_finite=False), np.ones(k), check_finite=False)

    found = [parts(str(k), lambda k=k: weights(k)) for k in sizes]
    return np.array([w.sum() for w in found]), np.array([w.clip(min=0).sum() for w in found])


def interleaved(ways: dict[str, Callable[[Parts], Any]], rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run each method once in each round; returns timings and the last results. The first round is a warm-up."""
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    results = {}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            parts, wall, own = Parts(), time.perf_counter(), time.process_time()
            results[name] = way(parts)
            total = time.perf_counter() - wall, time.process_time() - own
            inside = [sum(column) for column in zip(*parts.seconds.values(), strict=True)]
            seen[name].append({"total": total, "inside": inside, "parts": parts.seconds})
    return {name: summary(runs[1:]) for name, runs in seen.items()}, results


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Minima over rounds, all values, and the largest share of a total that its parts do not account for."""
    return {
        "wall": min(run["total"][0] for run in runs),
        "processor": min(run["total"][1] for run in runs),
        "all_processor": [round(run["total"][1], 4) for run in runs],
        "unexplained": max(1 - run["inside"][1] / run["total"][1] for run in runs),
        "parts": {name: min(run["parts"][name][1] for run in runs) for name in runs[0]["parts"]},
    }


def main() -> None:
    """Time all methods, print and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    points, generator = trajectory(), np.random.default_rng(1)
    subsets = [generator.choice(RECORDS, size, replace=False) for size in SIZES]
    ways = {"ours": ours, "ripser maxdim=0 a subset": ripser_for_each, "ours, ten schedules": ten_schedules}
    dimension, values = interleaved({n: lambda p, way=way: way(points, subsets, p) for n, way in ways.items()}, rounds)
    cloud = euclidean_distances(generator.standard_normal((POINTS, 50)))
    sizes = [POINTS * (i + 1) // STEPS for i in range(STEPS)]
    solvers = {"one factor": one_factor, "a solve a size": solve_for_each}
    magnitude, curves = interleaved({n: lambda p, way=way: way(cloud, sizes, p) for n, way in solvers.items()}, rounds)
    apart = [np.abs(a / b - 1).max() for a, b in zip(curves["one factor"], curves["a solve a size"], strict=True)]
    result = {
        "ph schedule": {"timings": dimension, "dimension": values, "times faster": faster(dimension, "ripser maxdim=0 a subset")},
        "magnitude": {
            "timings": magnitude,
            "sizes": sizes,
            "largest relative difference": dict(zip(("magnitude", "positive"), map(float, apart), strict=True)),
            "times faster": faster(magnitude, "a solve a size"),
        },
        "setting": {"records": RECORDS, "width": WIDTH, "sizes": list(SIZES), "points": POINTS, "rounds": rounds},
        "environment": {
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "ripser": metadata.version("ripser"),
            "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
            **deployment.environment(),
        },
    }
    file = RESULTS / "trajectories.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known[f"threads {result['environment']['threads']}"] = result
    file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    print(json.dumps({name: result[name]["times faster"] for name in ("ph schedule", "magnitude")}, indent=1))


def faster(timings: dict[str, Any], peer: str) -> dict[str, dict[str, float]]:
    """The minimum of the peer over that of each other method."""
    kinds = ("wall", "processor")
    return {n: {kind: timings[peer][kind] / run[kind] for kind in kinds} for n, run in timings.items() if n != peer}


if __name__ == "__main__":
    main()
