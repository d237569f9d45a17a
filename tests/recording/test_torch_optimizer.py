"""The state of Adam and its relatives: step sizes against the steps themselves, and gradients of known noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dyncompress.errors import InvalidRequest
from dyncompress.measures.increment_tail import row_index
from dyncompress.recording import TrajectoryWriter, load_trajectory
from dyncompress.recording.increment_fisher import ZEROED, increment_fisher, random_walk
from dyncompress.recording.optimizer_state import OptimizerState
from dyncompress.recording.torch_callback import optimizer_state, record
from dyncompress.recording.torch_optimizer import squared_gradients, step_sizes
from dyncompress.types import Trajectory

ROWS, COLUMNS, BATCH, EVERY, RECORDS = 12, 25, 32, 5, 200
FISHER = torch.logspace(-2, 1, ROWS * COLUMNS).reshape(ROWS, COLUMNS)
STORING = {
    "Adam": {},
    "AdamW": {"weight_decay": 0.01, "betas": (0.9, 0.95)},
    "NAdam": {},
    "RAdam": {},
    "AMSGrad": {"amsgrad": True},
    "RMSprop": {},
    "centred RMSprop": {"centered": True, "momentum": 0.5},
    "Adadelta": {},
}
OTHERS = {"Adamax": {}, "Adagrad": {}}
CLASSES = {"AMSGrad": "Adam", "centred RMSprop": "RMSprop"}


def optimizer_of(name: str, layer: nn.Module, **more) -> torch.optim.Optimizer:
    options = {**STORING, **OTHERS}[name]
    return getattr(torch.optim, CLASSES.get(name, name))(layer.parameters(), lr=1e-4, **options, **more)


def noisy_run(name: str, burn_in: int = 1000, seed: int = 0) -> Trajectory:
    """A quadratic loss with Hessian diag(FISHER), whose minibatch gradient has the noise covariance diag(FISHER) / batch."""
    generator, layer = torch.Generator().manual_seed(seed), nn.Linear(COLUMNS, ROWS, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = optimizer_of(name, layer)
    recorder = record(layer, TrajectoryWriter(batch_size=BATCH), EVERY)
    for step in range(burn_in + EVERY * RECORDS):
        noise = torch.randn(FISHER.shape, generator=generator) * (FISHER / BATCH).sqrt()
        layer.weight.grad = FISHER * layer.weight.detach() + noise
        optimizer.step()
        if step >= burn_in:
            recorder.step(optimizer=optimizer)
    return recorder.writer.trajectory()


def order(values: np.ndarray) -> float:
    """Rank correlation with the Fisher information."""
    ranks = np.argsort(np.argsort(values, axis=None))
    return float(np.corrcoef(ranks, np.arange(ranks.size))[0, 1])


@pytest.mark.parametrize("name", STORING)
def test_stored_squares_give_the_fisher_information_where_increments_do_not(name: str) -> None:
    run = noisy_run(name)
    estimate = increment_fisher(run)
    assert estimate.nats and f"state of {CLASSES.get(name, name)}, at batch size {BATCH}" in estimate.note
    ratios = estimate.layers[""] / FISHER.numpy()
    # each is a mean over EVERY * RECORDS gradients at least, of squares with relative standard deviation sqrt(2)
    deviation = math.sqrt(2 / (EVERY * RECORDS))
    assert np.square(ratios - 1).mean() < (1.5 * deviation) ** 2
    assert ratios.mean() == pytest.approx(1, abs=4 * deviation / math.sqrt(ratios.size) + 0.005)
    assert order(ratios * FISHER.numpy()) > 0.99
    if name != "Adadelta":  # whose steps grow with the weights' movement
        assert abs(order(run.motion[""].increment_variance)) < 0.3


@pytest.mark.parametrize("name", OTHERS)
def test_without_stored_squares_the_increments_over_step_sizes_give_it(name: str) -> None:
    run = noisy_run(name)
    ratios = increment_fisher(run).layers[""] / FISHER.numpy()
    deviation = math.sqrt(2 / RECORDS)
    assert np.square(ratios - 1).mean() < (1.7 * deviation) ** 2
    assert ratios.mean() == pytest.approx(1, abs=4 * deviation / math.sqrt(ratios.size) + 0.05)
    assert order(ratios * FISHER.numpy()) > 0.97
    assert abs(order(run.motion[""].increment_variance)) < 0.3


@pytest.mark.parametrize(("name", "mean"), [("Adam", 0.9), ("AdamW", 0.9), ("RMSprop", 0.0), ("centred RMSprop", 0.5)])
def test_sums_of_gradients_have_the_variance_of_averaged_noise(name: str, mean: float) -> None:
    sums = noisy_run(name).gradient_sums[""]
    assert sums.shape == (RECORDS, 256) and np.isnan(sums[0]).all() and np.isfinite(sums[1:]).all()
    expected = float(FISHER.sum()) / BATCH * random_walk(EVERY, mean) * (1 - mean) ** 2
    assert sums[1:].var(0, ddof=1).sum() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", [name for name in {**STORING, **OTHERS} if name not in ("NAdam", "Adadelta")])
def test_a_step_is_the_averaged_gradient_times_the_step_size(name: str) -> None:
    layer = nn.Linear(4, 3, bias=False)
    optimizer = optimizer_of(name, layer, **({"eps": 1e-4} if name != "Adamax" else {}))
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    slope = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    before = layer.weight.detach()
    for _ in range(2000):  # a constant gradient, which is then its own average
        before = layer.weight.detach().clone()
        layer.weight.grad = slope.clone()
        optimizer.step()
    sizes = optimizer_state(layer, optimizer).step_sizes[""]
    before, after = before.double(), layer.weight.detach().double()
    torch.testing.assert_close(before - after, (sizes * slope).double(), rtol=0.02, atol=5e-7)


def test_factors_of_adafactor_give_squares_of_rank_one() -> None:
    layer, slope = nn.Linear(4, 3, bias=False), torch.outer(torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 0.5, 2, 4]))
    optimizer = torch.optim.Adafactor(layer.parameters())
    for _ in range(3):
        layer.weight.grad = slope.clone()
        optimizer.step()
    state = optimizer_state(layer, optimizer)
    torch.testing.assert_close(state.squares[""], slope.square())
    assert state.step_sizes == {}  # they depend on the gradient's own size
    rows, columns = slope.square().mean(1), slope.square().mean(0)
    factors = {"exp_avg_sq_row": rows, "exp_avg_sq_col": columns}  # of transformers
    torch.testing.assert_close(squared_gradients(factors, {}), slope.square())


def test_the_layout_is_that_of_the_weights_and_frozen_layers_have_no_state() -> None:
    model = nn.Sequential(nn.ConvTranspose1d(2, 6, 3), nn.Flatten(), nn.Linear(30, 2))
    model[2].requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    recorder = record(model, TrajectoryWriter(batch_size=4), every=1)
    handle = recorder.attach(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(4, 2, 3)).square().mean().backward()
        optimizer.step()
    handle.remove()
    trajectory = recorder.writer.trajectory()
    assert trajectory.optimizer == "Adam" and trajectory.learning_rate == 0.01
    assert trajectory.gradient_variance["0"].shape == (6, 2, 3)
    estimate = increment_fisher(trajectory)
    assert set(estimate.layers) == {"0"} and "1 layers without it" in estimate.note
    assert np.isfinite(trajectory.gradient_sums["0"][1:]).all()


def test_sgd_stores_nothing_and_an_unknown_optimizer_gets_no_nats() -> None:
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.grad = torch.ones(2, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    optimizer.step()
    state = optimizer_state(layer, optimizer)
    assert (state.name, state.step_sizes, state.squares) == ("SGD", {}, {})
    for name, nats in (("SGD", True), ("Lion", False)):
        generator, writer = np.random.default_rng(0), TrajectoryWriter(learning_rate=0.1, batch_size=4)
        for step in range(20):
            writer.optimizer = OptimizerState(name)
            writer.append(step, {"fc": generator.standard_normal((2, 3))})
        estimate = increment_fisher(writer.trajectory())
        assert estimate.nats == nats and ("Lion" in estimate.note) != nats


def test_without_a_batch_size_the_distortion_is_relative_and_without_gradients_there_is_none() -> None:
    def estimate(squares: float, batch: int):
        writer = TrajectoryWriter(batch_size=batch)
        writer.optimizer = OptimizerState("Adam", squares={"fc": np.full((2, 3), squares)})
        writer.append(7, {"fc": np.full((2, 3), 2.0)})
        assert writer.optimizer is None
        return increment_fisher(writer.trajectory())

    one = estimate(0.5, 8)
    assert one.nats and one.layers["fc"].tolist() == [[4.0] * 3] * 2  # one record is enough
    relative = estimate(0.5, 0)
    assert not relative.nats and "no batch size" in relative.note
    assert 0.5 * float(relative.layers["fc"].sum()) * 4 == pytest.approx(ZEROED)
    assert not estimate(0.0, 8).layers


def test_the_state_is_read_back_and_wrong_shapes_are_refused(tmp_path: Path) -> None:
    run = noisy_run("Adam", burn_in=10)
    writer = TrajectoryWriter()
    for step in range(3):
        writer.optimizer = OptimizerState("Adam", 0.9, {"fc": np.ones((2, 3))}, {"fc": np.ones((2, 3))})
        writer.append(step, {"fc": np.full((2, 3), float(step))})
    saved, read = writer.trajectory(), load_trajectory(writer.save(tmp_path / "run.npz"))
    assert read.optimizer == "Adam"
    assert np.array_equal(read.gradient_variance["fc"], saved.gradient_variance["fc"])
    assert np.array_equal(read.gradient_sums["fc"], saved.gradient_sums["fc"], equal_nan=True)
    assert np.isfinite(run.gradient_variance[""]).all()
    writer.optimizer = OptimizerState("Adam", squares={"fc": np.ones((3, 2))})
    with pytest.raises(InvalidRequest, match=r"squared gradients of 'fc' has shape \(3, 2\)"):
        writer.append(5, {"fc": np.ones((2, 3))})
    assert len(writer.trajectory().steps) == 3


def test_a_mean_gradient_is_no_noise() -> None:
    """Gradients of mean 3 and variance 1: the average of squares is 10."""
    writer = TrajectoryWriter(batch_size=1)
    for step in range(4):
        writer.optimizer = OptimizerState("Adam", 0.0, {"fc": np.full((2, 2), 0.1)}, {"fc": np.full((2, 2), 10.0)})
        writer.append(5 * step, {"fc": np.full((2, 2), -0.1 * 3 * 5 * step)})
    assert writer.trajectory().gradient_variance["fc"] == pytest.approx(np.ones((2, 2)), rel=1e-4)
    assert step_sizes("SGD", {}, {}) is None


def test_sums_of_gradients_show_tails_that_adam_hides() -> None:
    """Elliptical Cauchy noise, of index 1, through Adam with a short memory."""
    generator, layer = torch.Generator().manual_seed(0), nn.Linear(20, 10, bias=False)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-4, betas=(0.9, 0.95))
    recorder = record(layer, TrajectoryWriter(), every=10)
    handle = recorder.attach(optimizer)
    for _ in range(6000):
        size = torch.randn((), generator=generator)
        layer.weight.grad = torch.randn(10, 20, generator=generator) / size.abs()
        optimizer.step()
    handle.remove()
    run = recorder.writer.trajectory()
    hidden = row_index(np.diff(run.sketches[""].astype(float), axis=0))
    shown = row_index(run.gradient_sums[""][1:].astype(float))
    assert hidden.value > 1.7
    assert shown.value == pytest.approx(1, abs=0.25)
