"""Point sets and processes `[T, d]` of known dimension, and their Observation."""

from __future__ import annotations

from typing import Any

import numpy as np

from dyncompress.types import Iterates, Layer, Need, Observation


def observation_of(points: np.ndarray, need: Need | None = None) -> Observation:
    """The Observation of one layer that holds `points` only, by default as its iterates."""
    values: dict[Need, Any] = {need or Iterates(): points}
    return Observation(Layer("layer", "linear", (1, points.shape[1]), macs=0), values)


def cube(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, dimension))


def circle(count: int, dimension: int = 100, seed: int = 0) -> np.ndarray:
    """A circle in a random plane."""
    generator = np.random.default_rng(seed)
    angles = generator.uniform(0, 2 * np.pi, count)
    plane = np.linalg.qr(generator.standard_normal((dimension, 2)))[0]
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane.T


def gaussian(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension))


def walk(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    return gaussian(count, dimension, seed).cumsum(axis=0)


def autoregression(count: int, dimension: int, memory: float, seed: int = 0) -> np.ndarray:
    noise = gaussian(count, dimension, seed)
    for t in range(1, count):
        noise[t] += memory * noise[t - 1]
    return noise


def contraction(count: int, dimension: int = 100, factor: float = 0.99, seed: int = 0) -> np.ndarray:
    return factor ** np.arange(count)[:, None] * gaussian(1, dimension, seed)


def stable(count: int, dimension: int, alpha: float, seed: int = 0) -> np.ndarray:
    """Elliptically contoured alpha-stable vectors: sqrt(A) G, A positive (alpha / 2)-stable (Kanter's formula)."""
    generator = np.random.default_rng(seed)
    half, angle, waiting = alpha / 2, generator.uniform(0, np.pi, count), generator.exponential(size=count)
    shape = np.sin(half * angle) / np.sin(angle) ** (1 / half) * (np.sin((1 - half) * angle) / waiting) ** ((1 - half) / half)
    return np.sqrt(shape)[:, None] * generator.standard_normal((count, dimension))


def levy_walk(count: int, dimension: int, alpha: float, seed: int = 0) -> np.ndarray:
    return stable(count, dimension, alpha, seed).cumsum(axis=0)
