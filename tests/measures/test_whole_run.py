"""A recorded run as one layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dyncompress.errors import InvalidRequest
from dyncompress.measures import MEASURES, PhDimension, whole_run
from dyncompress.measures.distances import euclidean_distances
from dyncompress.recording import TrajectoryWriter
from dyncompress.types import ExampleLosses, Gradients, Iterates, OfTrajectories, Trajectory
from tests.measures.trajectories import gaussian, walk

LAYERS = {"a": (4, 5), "b": (3, 2, 2, 2)}


def recorded(count: int = 60) -> tuple[Trajectory, np.ndarray]:
    """A run of two layers that are smaller than their sketches, and its iterates."""
    points, noise = walk(count, 44), gaussian(count, 44, seed=1)
    writer = TrajectoryWriter(seed=0)
    for t in range(count):
        weights, gradients = split(points[t]), split(noise[t])
        writer.append(t, weights, gradients=gradients, losses_per_example=np.abs(points[t, :30]))
    return writer.trajectory(), points


def split(row: np.ndarray) -> dict[str, np.ndarray]:
    return {"a": row[:20].reshape(LAYERS["a"]), "b": row[20:].reshape(LAYERS["b"])}


def test_distances_are_those_of_all_weights() -> None:
    trajectory, points = recorded()
    run = whole_run(trajectory)
    assert run.layer.weights == 44
    np.testing.assert_allclose(euclidean_distances(run[Iterates()]), euclidean_distances(points), rtol=1e-5)
    assert run[Gradients()].shape == run[Iterates()].shape
    np.testing.assert_allclose(run[ExampleLosses()], np.abs(points[:, :30]), rtol=1e-6)


def test_every_measure_of_trajectories_reads_it() -> None:
    run = whole_run(recorded()[0])
    for measure in (build() for build in MEASURES.values()):
        if all(isinstance(need, OfTrajectories) and need in run for need in measure.needs):
            assert np.isfinite(measure(run).value)


def test_what_was_not_recorded_is_missing() -> None:
    trajectory = replace(recorded()[0], gradients={}, losses_per_example=None)
    run = whole_run(trajectory)
    assert Gradients() not in run
    assert ExampleLosses() not in run
    with pytest.raises(InvalidRequest, match="was not collected"):
        run[ExampleLosses()]


def test_order_of_layers_does_not_matter() -> None:
    trajectory = recorded()[0]
    turned = replace(trajectory, sketches=dict(reversed(list(trajectory.sketches.items()))))
    first, second = (PhDimension()(whole_run(t)).value for t in (trajectory, turned))
    assert first == pytest.approx(second, rel=1e-9)


def test_a_run_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="holds no layer"):
        whole_run(replace(recorded()[0], sketches={}))
