"""Fisher information from increments: the random walk's variance, simulated SGD with a known answer, and no estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dyncompress.recording import TrajectoryWriter
from dyncompress.recording.increment_fisher import FEWEST, ZEROED, increment_fisher, momentum, random_walk
from dyncompress.types import Trajectory

SHAPE, BATCH, RATE = (20, 15), 32, 0.01
FISHER = np.geomspace(0.01, 1.0, 300).reshape(SHAPE)


def sgd_run(
    beta: float = 0.0, every: int = 5, records: int = 300, seed: int = 0, curvature: float = 0.0, scale: Callable = lambda g: g
) -> Trajectory:
    """Heavy-ball SGD, gradient noise of covariance Fisher / batch, a Hessian of `curvature` times the Fisher information."""
    generator = np.random.default_rng(seed)
    writer = TrajectoryWriter(learning_rate=RATE, batch_size=BATCH)
    weight, speed = np.ones(SHAPE), np.zeros(SHAPE)
    for step in range(every * records + 100):
        gradient = generator.standard_normal(SHAPE) * np.sqrt(FISHER / BATCH) + curvature * FISHER * (weight - 1)
        speed = beta * speed + gradient
        weight = weight - RATE * scale(speed)
        if step >= 100 and step % every == 0:
            writer.append(step, {"fc": weight.copy(), "other": 2 * weight}, gradients={"fc": gradient, "other": gradient / 2})
    return writer.trajectory()


def without_gradients(trajectory: Trajectory, **changed) -> Trajectory:
    return replace(trajectory, gradients={}, **changed)


@pytest.mark.parametrize("m", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_the_variance_of_a_heavy_balls_steps(k: int, m: float) -> None:
    """Step by step: noise of time s moves the k steps from 1 to k by the sum of m^(t - s) over those t that come after it."""
    times = np.arange(-4000 if m > 0.95 else -400, k + 1)
    pushes = [sum(m ** (t - s) for t in range(1, k + 1) if t >= s) for s in times]
    assert random_walk(k, m) == pytest.approx(np.square(pushes).sum(), rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("every", [1, 5])
def test_it_finds_the_fisher_information_of_plain_and_of_heavy_ball_sgd(beta: float, every: int) -> None:
    trajectory = without_gradients(sgd_run(beta, every, records=600))
    assert momentum(trajectory) == pytest.approx(beta, abs=0.07)
    estimate = increment_fisher(trajectory)
    assert estimate.nats and f"{every} steps between records" in estimate.note
    assert estimate.layers["fc"].sum() == pytest.approx(FISHER.sum(), rel=0.35 if beta else 0.1)
    assert np.corrcoef(np.log(estimate.layers["fc"].ravel()), np.log(FISHER.ravel()))[0, 1] > 0.95
    # coordinates twice as large: a quarter of the information
    assert estimate.layers["other"] == pytest.approx(4 * estimate.layers["fc"], rel=1e-4)


def test_the_scale_comes_from_recorded_gradients_where_there_are_some() -> None:
    for trajectory in (sgd_run(0.9), replace(sgd_run(), learning_rate=float("nan")), sgd_run(scale=lambda g: 7 * g)):
        estimate = increment_fisher(trajectory)
        assert estimate.nats and "recorded gradients" in estimate.note
        for name, expected in (("fc", FISHER), ("other", FISHER / 4)):
            assert estimate.layers[name].sum() == pytest.approx(expected.sum(), rel=0.15)


def test_iterates_at_rest_are_alike_everywhere_where_increments_are_not() -> None:
    """With noise in proportion to curvature the iterates have variance eta / (2 B) in every direction, which orders nothing."""
    motion = sgd_run(curvature=10.0, every=1, records=4000).motion["fc"]
    stiff = FISHER > 0.1  # those that come to rest within the run
    assert np.median(motion.variance[stiff]) == pytest.approx(RATE / (2 * BATCH * 10.0), rel=0.1)
    order = np.corrcoef(np.log(motion.variance[stiff]), np.log(FISHER[stiff]))[0, 1]
    steps = np.corrcoef(np.log(motion.increment_variance[stiff]), np.log(FISHER[stiff]))[0, 1]
    assert abs(order) < 0.4 < 0.98 < steps
    assert motion.increment_variance[stiff].max() / motion.increment_variance[stiff].min() > 5


@pytest.mark.parametrize("changed", [{"learning_rate": float("nan")}, {"batch_size": 0}, {"steps": None}])
def test_without_a_scale_distortion_is_relative(changed: dict) -> None:
    trajectory = sgd_run(records=60)
    steps = trajectory.steps.copy()
    steps[-1] += 3
    estimate = increment_fisher(without_gradients(trajectory, **({"steps": steps} if "steps" in changed else changed)))
    assert not estimate.nats and "relative" in estimate.note
    zeroed = sum(0.5 * float((f * np.square(trajectory.motion[name].mean)).sum()) for name, f in estimate.layers.items())
    assert zeroed == pytest.approx(ZEROED, rel=1e-4)


def test_three_records_order_layers_and_tell_their_error() -> None:
    """Sums over a layer from few records lie within their standard errors of those from many; there is no scale in nats."""
    few = [increment_fisher(without_gradients(sgd_run(records=4, seed=seed))) for seed in range(30)]
    assert not any(estimate.nats for estimate in few) and "4 records, 5 steps apart, don't show the momentum" in few[0].note
    # an independent direction for each weight, of unequal sizes: the sum of their squares over three increments less their mean
    sums = np.array([float(estimate.layers["fc"].sum()) / float(estimate.layers["other"].sum()) for estimate in few])
    assert sums == pytest.approx(np.full(30, 0.25), rel=1e-4)  # coordinates twice as large: a quarter of the information
    totals = np.array([float(sgd_run(records=12, seed=seed).motion["fc"].increment_variance.sum()) for seed in range(30)])
    errors = np.array([increment_fisher(without_gradients(sgd_run(records=12, seed=seed))).errors["fc"] for seed in range(30)])
    assert errors.mean() == pytest.approx(totals.std(ddof=1) / totals.mean(), rel=0.4)
    three = increment_fisher(without_gradients(sgd_run(records=3)))
    assert three.layers and np.isnan(three.errors["fc"])
    order = np.corrcoef(np.log(three.layers["fc"].mean(1)), np.log(FISHER.mean(1)))[0, 1]
    assert order > 0.9  # of rows of 15 weights
    far = without_gradients(sgd_run(records=12, every=60))
    assert not increment_fisher(far).nats and "60 steps apart" in increment_fisher(far).note


def test_too_few_records_and_weights_at_rest_give_no_estimate() -> None:
    few = sgd_run(records=FEWEST - 1)
    assert not increment_fisher(few).layers and f"takes at least {FEWEST}" in increment_fisher(few).note
    still = sgd_run(records=20, scale=lambda g: 0 * g)
    assert not increment_fisher(still).layers and "didn't move" in increment_fisher(still).note
    assert momentum(still) == 0
