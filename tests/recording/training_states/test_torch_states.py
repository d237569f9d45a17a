"""States of torch's own optimizers against mean squares computed in float64 from the gradients of every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states import load_training_state, training_state_of
from dyncompress.recording.training_states.moments import NoMomentError, effective_count, second_moment

STEPS = 30
Gradients = np.ndarray  # [steps, *shape]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 5),
        nn.Tanh(),
        nn.Linear(5, 5),
        nn.Linear(5, 5),
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> dict[str, Gradients]:
    """Train, and return every gradient of every parameter that had one."""
    generator = torch.Generator().manual_seed(1)
    seen: dict[str, list[np.ndarray]] = {}
    for _ in range(steps):
        x, y = torch.randn(8, 2, 6, 6, generator=generator), torch.randn(8, 5, generator=generator)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                seen.setdefault(name, []).append(parameter.grad.double().numpy().copy())
        optimizer.step()
    return {name: np.stack(gradients) for name, gradients in seen.items()}


def exponential(decay: float) -> Callable[[Gradients], np.ndarray]:
    def mean(gradients: Gradients) -> np.ndarray:
        weights = decay ** np.arange(len(gradients))[::-1]
        return np.tensordot(weights / weights.sum(), np.square(gradients), 1)

    return mean


def decaying_maximum(gradients: Gradients) -> np.ndarray:
    weights = 0.999 ** np.arange(len(gradients))[::-1]
    return np.square((np.abs(gradients) * weights.reshape(-1, *[1] * (gradients.ndim - 1))).max(0))


def momentum(mu: float, rest: float = 1.0) -> Callable[[Gradients], np.ndarray]:
    def square(gradients: Gradients) -> np.ndarray:
        buffer = np.zeros(gradients.shape[1:])
        for index, gradient in enumerate(gradients):
            buffer = mu * buffer + (gradient if index == 0 and mu < 0.95 else rest * gradient)  # SGD starts at the first
        return np.square(buffer) * (1 - mu**2) / rest**2

    return square


def factored(gradients: Gradients) -> np.ndarray:
    rows = columns = np.zeros(())
    for step, gradient in enumerate(gradients, 1):
        rate = step**-0.8
        rows = rows + rate * (np.square(gradient).mean(-1, keepdims=True) - rows)
        columns = columns + rate * (np.square(gradient).mean(-2, keepdims=True) - columns)
    return rows * columns / rows.mean(-2, keepdims=True)


CASES: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], Callable[[Gradients], np.ndarray], str]] = {
    "adam": (lambda p: torch.optim.Adam(p), exponential(0.999), "Adam"),
    "adam betas": (lambda p: torch.optim.Adam(p, betas=(0.8, 0.9)), exponential(0.9), "Adam"),
    "adam foreach": (lambda p: torch.optim.Adam(p, foreach=True), exponential(0.999), "Adam"),
    "adam fused": (lambda p: torch.optim.Adam(p, fused=True), exponential(0.999), "Adam"),
    "amsgrad": (lambda p: torch.optim.Adam(p, amsgrad=True), exponential(0.999), "Adam"),
    "adamw": (lambda p: torch.optim.AdamW(p, weight_decay=0.1), exponential(0.999), "Adam"),
    "nadam": (lambda p: torch.optim.NAdam(p), exponential(0.999), "Adam"),
    "radam": (lambda p: torch.optim.RAdam(p), exponential(0.999), "Adam"),
    "adamax": (lambda p: torch.optim.Adamax(p), decaying_maximum, "Adamax"),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=1e-4, momentum=0.5), exponential(0.99), "RMSprop"),
    "rmsprop centered": (lambda p: torch.optim.RMSprop(p, lr=1e-4, centered=True), exponential(0.99), "RMSprop"),
    "adadelta": (lambda p: torch.optim.Adadelta(p), exponential(0.9), "Adadelta"),
    "adagrad": (lambda p: torch.optim.Adagrad(p, initial_accumulator_value=0.3), lambda g: np.square(g).mean(0), "Adagrad"),
    "adafactor": (lambda p: torch.optim.Adafactor(p), factored, "Adafactor"),
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True), momentum(0.9), "SGD"),
    "sgd dampening": (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, dampening=0.2), momentum(0.9, 0.8), "SGD"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_optimizer_gives_the_mean_square_of_its_gradients(case: str, tmp_path: Path) -> None:
    make, expected, optimizer_name = CASES[case]
    model = network()
    optimizer = make(model.parameters())
    gradients = train(model, optimizer)
    torch.save({"epoch": 3, "net": model.state_dict(), "opt": optimizer.state_dict()}, tmp_path / "last.pt")
    state = load_training_state(tmp_path / "last.pt", batch_size=8)
    assert set(state.parameters) == {name for name, p in model.named_parameters() if p.ndim > 1}
    assert state.optimizer == optimizer_name and state.batch_size == 8
    assert state.steps == (0 if optimizer_name == "SGD" else STEPS)
    assert state.relative == (case == "adamax") and not state.notes
    for name, saved in state.parameters.items():
        want = expected(gradients[name])
        np.testing.assert_allclose(saved.square, want, rtol=1e-4, atol=1e-5 * want.max())
        assert len(saved.values) == 1 and (saved.values[0] == model.state_dict()[name].numpy()).all()
    in_memory = training_state_of(optimizer)
    for one, other in zip(in_memory.parameters.values(), state.parameters.values(), strict=True):
        assert (one.square == other.square).all() and (one.values[0] == other.values[0]).all()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_beside_adam_is_read_from_two_states(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.Linear(6, 5))
    muon = torch.optim.Muon([model[1].weight], momentum=0.95)
    adam = torch.optim.Adam([model[2].weight])

    class Both:
        def zero_grad(self) -> None:
            model.zero_grad()

        def step(self) -> None:
            muon.step(), adam.step()

    gradients = train(model, Both())
    torch.save({"model": model.state_dict(), "optimizers": [muon.state_dict(), adam.state_dict()]}, tmp_path / "a.pt")
    state = load_training_state(tmp_path / "a.pt")
    assert state.optimizer == "Muon" and state.averaged == 1
    for name, expected in {"1.weight": momentum(0.95, 0.05), "2.weight": exponential(0.999)}.items():
        want = expected(gradients[name])
        np.testing.assert_allclose(state.parameters[name].square, want, rtol=1e-4, atol=1e-5 * want.max())


def test_transformers_adafactor_is_read_in_its_own_shapes() -> None:
    transformers = pytest.importorskip("transformers")
    model = network()
    optimizer = transformers.optimization.Adafactor(model.parameters(), lr=1e-3, relative_step=False, scale_parameter=False)
    gradients = train(model, optimizer)
    state = training_state_of(optimizer)
    for saved, (name, _) in zip(
        state.parameters.values(), ((n, p) for n, p in model.named_parameters() if p.ndim > 1), strict=True
    ):
        want = factored(gradients[name])
        np.testing.assert_allclose(saved.square, want, rtol=1e-4, atol=1e-5 * want.max())


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("steps", [20, 400])
def test_the_share_of_the_mean_gradient_is_found(share: float, steps: int) -> None:
    """Gradients of mean sqrt(share) and variance 1 - share: drift is the share, within three standard errors."""
    generator = torch.Generator().manual_seed(2)
    parameter = nn.Parameter(torch.zeros(200, 100))
    optimizer = torch.optim.Adam([parameter], lr=0.0)
    for _ in range(steps):
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.grad = share**0.5 + (1 - share) ** 0.5 * noise
        optimizer.step()
    drift = next(iter(training_state_of(optimizer).parameters.values())).drift
    assert drift == pytest.approx(share, abs=0.02)


def test_one_step_says_nothing_about_the_mean_gradient() -> None:
    parameter = nn.Parameter(torch.zeros(4, 3))
    optimizer = torch.optim.RMSprop([parameter], centered=True)
    parameter.grad = torch.full((4, 3), 2.0)
    optimizer.step()
    saved = next(iter(training_state_of(optimizer).parameters.values()))
    np.testing.assert_allclose(saved.square, 4.0, rtol=1e-5)
    assert saved.drift == 0


def test_the_number_of_averaged_gradients_is_one_over_the_sum_of_squared_weights() -> None:
    for decay, steps in ((0.9, 3), (0.999, 50), (0.99, 4000)):
        weights = decay ** np.arange(steps)
        assert effective_count(decay, steps) == pytest.approx(weights.sum() ** 2 / np.square(weights).sum())


REFUSED = {
    "plain SGD": ({}, "no step was taken|no squares"),
    "Lion": ({"exp_avg": torch.ones(2, 2)}, r"keeps no squares of gradients \(exp_avg\)"),
    "8 bits": ({"state1": torch.ones(4).byte(), "state2": torch.ones(4).byte(), "step": 1}, "8 bits"),
    "SOAP": ({"GG": [], "exp_avg_sq": torch.ones(2, 2), "step": 1}, "rotated or projected"),
    "Adan": ({"exp_avg_diff": torch.ones(2, 2), "exp_avg_sq": torch.ones(2, 2), "step": 1}, "differences of gradients"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_states_without_squares_are_refused_with_the_reason(kind: str) -> None:
    state, words = REFUSED[kind]
    checkpoint = {
        "model": {"weight": torch.ones(2, 2)},
        "optimizer": {"state": {0: state} if state else {}, "param_groups": [{"params": [0], "betas": (0.9, 0.99)}]},
    }
    with pytest.raises(InvalidRequest, match=words):
        training_state_of(checkpoint)


def test_hyper_parameters_under_other_names_are_found() -> None:
    ones = torch.ones(2, 2)
    three = second_moment({"exp_avg_sq": ones * 0.1, "exp_avg": ones * 0, "step": 1}, {"betas": (0.9, 0.9, 0.999)})  # AdEMAMix
    np.testing.assert_allclose(three.square, 1, rtol=1e-6)
    counted = second_moment({"exp_avg_sq": ones * 0.19}, {"betas": (0.9, 0.9), "k": 2})  # schedule-free, steps per group
    np.testing.assert_allclose(counted.square, 1, rtol=1e-6)
    assert second_moment({"exp_avg_sq": ones, "p0": ones}, {"betas": (0.9, 0.9), "d": 2.0}).relative  # Prodigy
    small = {"state1": ones * 0, "state2": ones * 0.1, "step": 1}  # bitsandbytes, 32 bits
    np.testing.assert_allclose(second_moment(small, {"betas": (0.9, 0.9)}).square, 1, rtol=1e-6)
    with pytest.raises(NoMomentError, match="nothing"):
        second_moment({}, {})
