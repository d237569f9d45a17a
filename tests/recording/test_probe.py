"""The probe: its learning rate, on a problem with a closed form and on networks, and that it restores the model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.measures import FluctuationScale
from dyncompress.recording import weights_digest
from dyncompress.recording.probe import Probe, Problem
from dyncompress.recording.torch_callback import layer_weights
from dyncompress.types import Layer, Motion, Observation
from tests import data, tiny

RISE = 0.01


class Valley:
    """The loss w H w / 2, H diagonal from 0.1 to 10, with gradient noise of covariance H / batch, as drawn labels cause it."""

    curvature = torch.logspace(-1, 1, 40)

    def __init__(self) -> None:
        self.module = nn.Linear(40, 1, bias=False)
        nn.init.zeros_(self.module.weight)

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        weight, batch = self.module.weight[0], len(rows)
        noise = torch.randn(40, generator=generator) * (self.curvature / batch).sqrt()
        return 0.5 * (self.curvature * weight.square()).sum() + (noise * weight).sum()

    def divergence(self) -> float:
        return float(0.5 * (self.curvature * self.module.weight[0].detach().square()).sum())

    def problem(self) -> Problem:
        return Problem(self.module, self.loss, self.divergence, examples=64, labels="noise")


def test_at_the_chosen_rate_the_loss_rises_as_asked_for_any_curvature() -> None:
    divergences = []
    for seed in range(20):
        valley, seen = Valley(), []
        problem = Problem(valley.module, valley.loss, lambda v=valley, s=seen: s.append(v.divergence()) or 0.0, 64, "noise")
        Probe(steps=150, batch=16, rise=RISE, seed=seed)(problem)
        divergences += seen
    # at rest the rise is `rise` (1 + eta h / 2 to first order); before, and where the curvature is small, it is less
    error = np.std(divergences) / np.sqrt(len(divergences))
    assert 0.5 * RISE < np.mean(divergences) < 1.2 * RISE + 3 * error


def test_the_rate_is_four_times_the_rise_over_the_trace_of_the_noise() -> None:
    rates = [Probe(steps=20, batch=16, rise=RISE, seed=seed)(Valley().problem()).learning_rate for seed in range(25)]
    trace = float(Valley.curvature.sum()) / 16
    assert np.mean(4 * RISE / np.array(rates)) == pytest.approx(trace, rel=0.15)  # 25 times 16 gradients of 40 unequal entries


def test_increments_are_large_where_the_curvature_is() -> None:
    """At rest w <- (1 - eta h) w - eta noise, noise of variance h / batch, has increments of variance 2 c (1 - (1 - eta h)^5)."""
    variance, rate = np.zeros(40), 0.02
    for seed in range(6):
        motion = Probe(steps=1000, batch=16, rate=rate, seed=seed)(Valley().problem()).motion[""]
        variance += motion.increment_variance[0] / 6
    h = Valley.curvature.double().numpy()
    at_rest = rate**2 * h / 16 / (1 - (1 - rate * h) ** 2)
    expected = 2 * at_rest * (1 - (1 - rate * h) ** 5)
    assert np.mean(variance / expected) == pytest.approx(1, abs=0.04)
    assert np.corrcoef(np.log(variance), np.log(h))[0, 1] > 0.95


def test_a_rate_at_which_outputs_diverge_too_much_is_halved() -> None:
    valley, calls = Valley(), []

    def divergence() -> float:
        calls.append(1)
        return float("inf") if len(calls) < 3 else 0.0

    trajectory = Probe(steps=50, batch=16)(Problem(valley.module, valley.loss, divergence, 64, "noise"))
    first = Probe(steps=50, batch=16)(Valley().problem()).learning_rate
    assert trajectory.learning_rate == pytest.approx(first / 4)
    with pytest.raises(Unsupported, match="after 8 halvings"):
        Probe(steps=50, batch=16)(Problem(valley.module, valley.loss, lambda: 1.0, 64, "noise"))


@pytest.mark.slow
def test_on_a_trained_network_increments_predict_the_divergence_of_rounding() -> None:
    """Half the error of a weight squared, times the variance of its increments over 5 rate^2 / batch: nats, layer by layer."""
    network, images = data.resnet20().eval(), data.cifar10("train", 6144)[0]
    trajectory = dc.probe(network, images[:1024], steps=200)
    tuning, layers = images[4096:4352], dict(network.named_modules())
    predicted, true = [], []
    with torch.no_grad():
        before = network(tuning).log_softmax(1)
        for name, motion in trajectory.motion.items():
            weight = layers[name].weight
            kept, step = weight.clone(), weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.ndim - 1)) / 3
            weight.copy_((weight / step).round() * step)  # three bits
            after = network(tuning).log_softmax(1)
            error = (weight - kept).square().numpy()
            weight.copy_(kept)
            true.append(float((before.exp() * (before - after)).sum(1).mean()))
            predicted.append(float((error * motion.increment_variance).sum()) / 2 * 64 / (5 * trajectory.learning_rate**2))
    assert spearmanr(predicted, true).statistic > 0.85
    assert 0.5 < np.median(np.divide(true, predicted)) < 2


@pytest.fixture(scope="module")
def trajectory() -> dc.types.Trajectory:
    return dc.probe(tiny.network(), tiny.CALIBRATION, steps=200, batch=32)


def test_the_model_is_untouched_and_the_record_is_its_own(trajectory: dc.types.Trajectory) -> None:
    network = tiny.network()
    grads = [p.grad for p in network.parameters()]
    before, state = copy.deepcopy(network.state_dict()), torch.random.get_rng_state()
    again = dc.probe(network, tiny.CALIBRATION, steps=200, batch=32)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(p.grad is g for p, g in zip(network.parameters(), grads, strict=True))
    assert again.digest == trajectory.digest == weights_digest(layer_weights(network))
    assert all(np.array_equal(again.sketches[name], trajectory.sketches[name]) for name in trajectory.sketches)
    assert not np.array_equal(
        dc.probe(network, tiny.CALIBRATION, steps=200, batch=32, seed=1).sketches["stem"], trajectory.sketches["stem"]
    )


def test_it_says_that_it_is_no_training_run(trajectory: dc.types.Trajectory) -> None:
    assert "not the original training" in trajectory.notes[0] and "drawn from the model's own answers" in trajectory.notes[0]
    assert trajectory.steps.tolist() == list(range(45, 201, 5)) and trajectory.batch_size == 32
    assert np.isfinite(trajectory.losses).all()
    assert all(np.isfinite(sketch).all() for sketch in trajectory.gradients.values())


def test_the_measures_and_the_verbs_take_it(trajectory: dc.types.Trajectory) -> None:
    motion = trajectory.motion["conv3"]
    estimate = FluctuationScale()(Observation(Layer("conv3", "conv2d", motion.mean.shape, 1), {Motion(): motion}))
    assert estimate.valid and estimate.value > 0
    options = {"target": tiny.TARGET, "calibration": tiny.CALIBRATION}
    profile = dc.measure(tiny.network(), "trajectory", trajectory=trajectory, **options)
    assert set(profile.source.values()) == {"trajectory"}
    assert any("not the original training" in note for note in profile.notes)


def test_a_network_at_the_recorded_spread_has_about_the_same_outputs(trajectory: dc.types.Trajectory) -> None:
    """Weights are set to the mean iterate plus noise of the recorded variance."""
    network, generator = copy.deepcopy(tiny.network()), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, motion in trajectory.motion.items():
            weight = network.get_submodule(name).weight
            weight += torch.randn(weight.shape, generator=generator) * torch.from_numpy(motion.variance).sqrt()
        moved = network(torch.from_numpy(tiny.HELD_OUT[0])).numpy()
    assert np.mean(moved.argmax(1) == tiny.original_scores().argmax(1)) > 0.97


def test_with_given_labels_the_loss_descends() -> None:
    x, y = tiny.images(256, seed=5)
    trajectory = dc.probe(tiny.network(), x, labels=(y + 1) % tiny.CLASSES, rate=0.005, steps=200, batch=32)
    assert "rate 0.005 on the labels given" in trajectory.notes[0]
    assert trajectory.losses[-8:].mean() < 0.8 * trajectory.losses[:8].mean()


@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_outputs_that_are_not_scores_are_probed_too(shape: tuple[int, ...]) -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, int(np.prod(shape))), nn.Unflatten(1, shape)).eval()
    x = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))
    trajectory = dc.probe(network, x, labels=None if shape == (2, 5) else np.zeros((128, 3), np.float32), steps=100, batch=16)
    assert trajectory.digest == weights_digest(layer_weights(network))


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).detach()


def test_invalid_requests_are_refused() -> None:
    network, x = nn.Sequential(nn.Linear(4, 3)).eval(), torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    cases = [
        ({"steps": 5}, "steps is 5; give at least 20, better 200 to 1000"),
        ({"batch": 64}, "batch is 64 of 40 examples"),
        ({"rate": -1.0}, "rate is -1.0"),
        ({"rate": 1e39}, r"the run diverged, at learning rate 1e\+39"),
        ({"labels": np.zeros(7, int)}, r"labels have shape \(7,\) for 40 examples"),
        ({"labels": np.full(40, 3)}, "labels go from 3 to 3 for 3 scores"),
        ({"labels": np.zeros((40, 2))}, r"labels are float64\[40, 2\] for outputs of \[3\] an example"),
    ]
    for options, message in cases:
        with pytest.raises(InvalidRequest, match=message):
            dc.probe(network, x, **{"batch": 8, "steps": 100, **options})
    with pytest.raises(Unsupported, match="no gradient"):
        dc.probe(Detached().eval(), x, batch=8, steps=100)
