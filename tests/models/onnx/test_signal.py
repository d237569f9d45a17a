"""Fourier transforms of older files, and random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.backend import compare

SIGNAL = np.random.default_rng(0).normal(size=(2, 6, 4, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("version", "inputs", "attributes"),
    [
        (17, [SIGNAL], {}),
        (17, [SIGNAL], {"axis": 2, "onesided": 1}),
        (17, [np.concatenate([SIGNAL, -SIGNAL], -1), np.int64(8)], {"inverse": 1}),
        (17, [SIGNAL, np.int64(3)], {"axis": -2}),
        (20, [SIGNAL, None, np.int64(-3)], {"onesided": 1}),
        (20, [SIGNAL], {}),
    ],
)
def test_fourier_transforms(version: int, inputs: list[Any], attributes: dict[str, Any]) -> None:
    agrees("DFT", version, inputs, **attributes, tolerance=1e-5)


@pytest.mark.parametrize(("count", "length"), [(6, 6), (7, 7), (6, None)])
def test_one_sided_transforms_go_back(count: int, length: int | None) -> None:
    x = torch.from_numpy(SIGNAL).repeat(1, 2, 1, 1)[:, :count]
    given = [None if length is None else torch.tensor(length), torch.tensor(1)]
    (spectrum,) = interpreted("DFT", 20, [x, *given], onesided=1)
    assert spectrum.shape[1] == count // 2 + 1
    (back,) = interpreted("DFT", 20, [spectrum, *given], onesided=1, inverse=1)
    torch.testing.assert_close(back, x, atol=1e-6, rtol=0)


def test_one_sided_transforms_of_complex_numbers_leave_out_the_upper_half() -> None:
    x = torch.from_numpy(np.concatenate([SIGNAL, -SIGNAL], -1))
    (whole,), (half,) = interpreted("DFT", 17, [x]), interpreted("DFT", 17, [x], onesided=1)
    assert torch.equal(half, whole[:, :4])


def test_frames_of_a_complex_signal() -> None:
    signal = np.concatenate([SIGNAL[:, :, 0], SIGNAL[:, :, 1]], -1)
    window = torch.tensor([1.0, 2.0, 1.0, 0.5])
    (found,) = interpreted("STFT", 17, [torch.from_numpy(signal), torch.tensor(2), window], onesided=0)
    numbers = signal[..., 0] + 1j * signal[..., 1]
    frames = np.fft.fft(np.stack([numbers[:, :4], numbers[:, 2:6]], 1) * window.numpy())
    compare(found, np.stack([frames.real, frames.imag], -1).astype(np.float32), 1e-4, 1e-5)


@pytest.mark.parametrize("operator", ["RandomNormal", "RandomUniform"])
def test_a_seed_gives_the_same_numbers_and_none_other_ones(operator: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (interpreted(operator, 22, [], shape=[3, 4], seed=seed)[0] for seed in (1.5, 1.5, 1.25))
    assert torch.equal(first, again) and not torch.equal(first, other) and first.shape == (3, 4)
    x = torch.zeros(3, 4, dtype=torch.float64)
    free = [interpreted(f"{operator}Like", 22, [x])[0] for _ in range(2)]
    assert not torch.equal(*free) and free[0].dtype == torch.float64
    assert torch.equal(state, torch.get_rng_state())


def test_distributions() -> None:
    (normal,) = interpreted("RandomNormal", 7, [], shape=[4000], seed=1.0, mean=3.0, scale=2.0)
    assert abs(normal.mean() - 3) < 0.2 and abs(normal.std() - 2) < 0.2
    (uniform,) = interpreted("RandomUniform", 7, [], shape=[4000], seed=1.0, low=-1.0, high=3.0, dtype=10)
    assert uniform.dtype == torch.float16 and uniform.min() >= -1 and uniform.max() <= 3 and abs(uniform.mean() - 1) < 0.2
    (ones,) = interpreted("Bernoulli", 15, [torch.full((4000,), 0.25)], seed=1.0, dtype=9)
    assert ones.dtype == torch.bool and 0.2 < ones.float().mean() < 0.3
    (classes,) = interpreted("Multinomial", 7, [torch.tensor([[0.25, 0.75]]).log() + 5], seed=1.0, sample_size=4000)
    assert classes.dtype == torch.int32 and classes.shape == (1, 4000) and 0.7 < classes.float().mean() < 0.8
