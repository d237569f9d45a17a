"""Builds the Observation of one weight, with spectra by numpy, for the tests of the measures."""

from __future__ import annotations

import numpy as np

from dyncompress.types import (
    ExampleLosses,
    Gradients,
    HessianSpectrum,
    InputMoment,
    Iterates,
    Layer,
    Motion,
    Need,
    NoiseGain,
    Observation,
    Spectrum,
    Weight,
    WeightFisher,
    WeightMotion,
)


def observation(weight: np.ndarray, motion: WeightMotion | None = None, groups: int = 1) -> Observation:
    weight = np.asarray(weight)
    layer = Layer("layer", "conv2d" if weight.ndim == 4 else "linear", weight.shape, macs=weight.size, groups=groups)
    wide = weight.astype(np.float64)
    slices = np.moveaxis(wide.reshape(*wide.shape[:2], -1), -1, 0)
    flat = wide.reshape(wide.shape[0], -1)
    values = {
        Weight(): weight,
        Spectrum("slices"): [eigenvalues(matrix) for matrix in slices],
        Spectrum("flat"): [eigenvalues(flat)],
        InputMoment(): moment(flat.shape[1], groups),
        NoiseGain(): noise_gain(),
        HessianSpectrum(): hessian_spectrum(weight.size),
        WeightFisher(): weight_fisher(wide),
    }
    if motion is not None:
        values[Motion()] = motion
        values |= run(wide)
    return Observation(layer, values)


def eigenvalues(matrix: np.ndarray) -> np.ndarray:
    """The eigenvalues of W W^T or W^T W, whichever is smaller."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return np.linalg.eigvalsh(gram).clip(min=0)


def moment(fan_in: int, groups: int = 1) -> np.ndarray:
    """The second moment of inputs with decaying energy, `[groups, fan_in, fan_in]`."""
    inputs = np.random.default_rng(11).standard_normal((groups, 2 * fan_in, fan_in)) / np.sqrt(np.arange(1, fan_in + 1))
    return np.swapaxes(inputs, 1, 2) @ inputs / (2 * fan_in)


def noise_gain(examples: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(12)
    return generator.uniform(0.1, 0.3, examples), generator.uniform(0.5, 1.5, examples)


def hessian_spectrum(weights: int, nodes: int = 20, batches: int = 4) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(13).exponential(1.0, (batches, nodes)) - 0.1
    return values, np.full((batches, nodes), weights / nodes)


def weight_fisher(weight: np.ndarray) -> np.ndarray:
    """Fisher information that is divided by the square of what the weights are multiplied by."""
    squares = np.square(weight)
    return 1 / (squares + squares.mean()) if squares.any() else np.ones_like(weight)


def run(weight: np.ndarray, count: int = 40) -> dict[Need, np.ndarray]:
    """Iterates that are noise around the first weights, with losses and gradients in proportion to the noise."""
    generator, start = np.random.default_rng(14), weight.reshape(-1)[:50]
    noise = 0.1 * np.abs(weight).max(initial=0.0) * generator.standard_normal((count, start.size))
    gradients = noise[generator.permutation(count)]
    return {Iterates(): start + noise, ExampleLosses(): np.abs(noise), Gradients(): gradients}


def moved(weight: np.ndarray, count: int = 40, noise: float = 0.1, drift: float = 0.0, seed: int = 0) -> WeightMotion:
    """Motion of independent Gaussian noise around a steady drift that ends near `weight`."""
    generator = np.random.default_rng(seed)
    times = np.arange(count).reshape(-1, *[1] * weight.ndim)
    iterates = weight + drift * (times - count + 1) + noise * generator.standard_normal((count, *weight.shape))
    return motion_of(iterates)


def motion_of(iterates: np.ndarray) -> WeightMotion:
    """The naive moments of iterates `[T, ...]`."""
    increments = np.diff(iterates, axis=0)
    return WeightMotion(iterates.mean(0), iterates.var(0, ddof=1), increments.var(0, ddof=1), len(iterates))
