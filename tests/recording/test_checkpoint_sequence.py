"""Trajectories of few checkpoints: what 3, 10 and 30 of a simulated run tell, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dyncompress.errors import InvalidRequest
from dyncompress.measures import (
    FluctuationScale,
    IncrementTail,
    Magnitude,
    ParticipationRatio,
    PhDimension,
    SignalToNoise,
    TwoNN,
)
from dyncompress.recording import weights_digest
from dyncompress.recording.checkpoint_sequence import trajectory_of
from dyncompress.recording.increment_fisher import increment_fisher
from dyncompress.types import Estimate, Iterates, Layer, Motion, Observation, Trajectory

SHAPE, SIZE, APART = (20, 12), 0.01, 1000  # 240 weights, which a sketch holds without loss


def walk(count: int, seed: int = 0) -> Trajectory:
    """A random walk with equal steps in all 240 directions."""
    steps = SIZE * np.random.default_rng(seed).standard_normal((count, *SHAPE))
    return trajectory_of((APART * i, {"fc": weight}) for i, weight in enumerate(1 + steps.cumsum(axis=0)))


def noise(count: int, seed: int = 0, mean: float = 0.02) -> Trajectory:
    """Independent noise around fixed weights."""
    generator = np.random.default_rng(seed)
    fixed, shape = mean * generator.standard_normal(SHAPE), (count, *SHAPE)
    weights = fixed + SIZE * generator.standard_normal(shape)
    return trajectory_of((APART * i, {"fc": weight}) for i, weight in enumerate(weights))


def measured(measure, trajectory: Trajectory) -> Estimate:
    values = {Motion(): trajectory.motion["fc"], Iterates(): trajectory.sketches["fc"]}
    return measure(Observation(Layer("fc", "linear", SHAPE, macs=math.prod(SHAPE)), values))


def test_it_belongs_to_the_last_checkpoint_and_tells_how_far_apart_they_are() -> None:
    checkpoints = [(step, {"fc": np.full((2, 3), float(step))}) for step in (100, 200, 400)]
    run = trajectory_of(checkpoints, learning_rate=0.1, batch_size=8, optimizer="AdamW")
    assert run.digest == weights_digest(checkpoints[-1][1])
    assert run.steps.tolist() == [100, 200, 400] and run.batch_size == 8 and run.optimizer == "AdamW"
    assert run.notes[0] == "3 checkpoints, 100 to 200 steps apart: increments are drift and noise together"
    assert any("equal distances" in note for note in run.notes)


@pytest.mark.parametrize("count", [3, 10, 30])
@pytest.mark.parametrize(
    ("measure", "run", "truth"),
    [
        (ParticipationRatio(), walk, math.prod(SHAPE)),
        (PhDimension(), walk, 2.3),  # what a thousand records of a walk in many directions give
        (IncrementTail(), walk, 2.0),
        (FluctuationScale(), noise, SIZE),
        (SignalToNoise(), noise, math.erf(0.5 / math.sqrt(2))),  # weights of twice the size of the noise: P(|x| <= 1 / 2)
    ],
    ids=["participation ratio", "PH dimension", "increment tail", "fluctuation scale", "signal to noise"],
)
def test_a_value_is_within_its_error_or_refused(count: int, measure, run, truth: float) -> None:
    estimates = [measured(measure, run(count, seed)) for seed in range(10)]
    if math.isnan(estimates[0].value):
        assert all(math.isnan(e.value) and not e.valid and "need" in e.notes[0] for e in estimates)
        return
    assert all(abs(e.value - truth) < 3 * e.stderr for e in estimates)
    assert sum(abs(e.value - truth) < 1.5 * e.stderr for e in estimates) >= 6
    assert count >= 30 or not estimates[0].valid


def test_few_checkpoints_show_many_directions() -> None:
    """The note gives what the participation ratio would be without the limit of 29 movements."""
    estimates = [measured(ParticipationRatio(), walk(30, seed)) for seed in range(10)]
    assert all(estimate.value < 30 and not estimate.valid for estimate in estimates)
    ratios = [float(estimate.notes[0].rsplit(" ", 1)[1]) for estimate in estimates]
    assert np.mean(ratios) == pytest.approx(math.prod(SHAPE), rel=0.1)


def test_neighbours_of_a_walk_are_refused_and_far_points_are_named() -> None:
    assert not measured(TwoNN(), walk(30)).valid
    assert math.isnan(measured(TwoNN(), walk(10)).value)
    assert any("nearly the number of points, 10" in note for note in measured(Magnitude(scale=1e4), walk(10)).notes)
    assert not any("nearly the number" in note for note in measured(Magnitude(scale=1.0), walk(10)).notes)


def test_the_order_of_layers_is_read_from_three_checkpoints_and_no_scale() -> None:
    generator, sizes = np.random.default_rng(0), np.geomspace(0.001, 0.01, 8)
    weights = {str(i): np.ones(SHAPE) for i in range(8)}
    checkpoints = []
    for step in (1000, 2000, 3000):
        weights = {name: w + s * generator.standard_normal(SHAPE) for (name, w), s in zip(weights.items(), sizes, strict=True)}
        checkpoints.append((step, weights))
    estimate = increment_fisher(trajectory_of(checkpoints, learning_rate=0.1, batch_size=8))
    assert not estimate.nats and "1000 steps apart" in estimate.note
    totals = [float(estimate.layers[str(i)].sum()) for i in range(8)]
    assert totals == sorted(totals)
    assert np.log(totals[-1] / totals[0]) == pytest.approx(2 * math.log(10), abs=0.6)
    assert not increment_fisher(trajectory_of(checkpoints[:2])).layers
    adam = increment_fisher(trajectory_of(checkpoints, learning_rate=0.1, batch_size=8, optimizer="Adam"))
    assert not adam.nats and "wrong if steps of Adam" in adam.note


def test_one_checkpoint_and_changed_layers_are_refused() -> None:
    one = (0, {"fc": np.ones((2, 2))})
    with pytest.raises(InvalidRequest, match="1 checkpoints; give at least 2"):
        trajectory_of([one])
    with pytest.raises(InvalidRequest, match="0 checkpoints"):
        trajectory_of([])
    with pytest.raises(InvalidRequest, match="layers changed"):
        trajectory_of([one, (1, {"other": np.ones((2, 2))})])
    with pytest.raises(InvalidRequest, match="steps must increase"):
        trajectory_of([one, one])
