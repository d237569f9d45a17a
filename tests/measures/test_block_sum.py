"""The block-sum index: known laws, the naive estimator, and what breaks it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dyncompress.measures.block_sum import LENGTHS, BlockSum, block_sum_index
from tests.measures.observations import observation

N = 10_000


def stable(alpha: float, n: int, seed: int) -> np.ndarray:
    """Symmetric alpha-stable draws by Chambers, Mallows and Stuck."""
    generator = np.random.default_rng(seed)
    angle, wait = generator.uniform(-np.pi / 2, np.pi / 2, n), generator.exponential(size=n)
    side = (np.cos((1 - alpha) * angle) / wait) ** ((1 - alpha) / alpha)
    return np.sin(alpha * angle) / np.cos(angle) ** (1 / alpha) * side


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0, 1.3, 1.5, 1.8, 2.0])
def test_recovers_the_index_of_stable_laws(alpha: float) -> None:
    estimates = [block_sum_index(stable(alpha, N, seed)) for seed in range(10)]
    values = np.array([estimate.value for estimate in estimates])
    assert abs(values.mean() - alpha) < 0.06
    assert all(abs(e.value - alpha) < 4 * e.stderr for e in estimates)


def test_standard_error_is_honest() -> None:
    estimates = [block_sum_index(stable(1.5, 4000, seed)) for seed in range(60)]
    spread = np.std([e.value for e in estimates], ddof=1)
    claimed = np.mean([e.stderr for e in estimates])
    assert 0.4 * claimed < spread < 1.1 * claimed


def test_equals_the_formula_written_as_a_loop() -> None:
    values = stable(1.3, 1013, seed=3)  # a prime number of weights: the repository's block lengths would degenerate to 1
    centred = values - np.median(values)
    shuffled = np.random.default_rng([0, 0]).permutation(centred[centred != 0])
    slopes = []
    for m in sorted({m for m in LENGTHS if m <= len(shuffled) // 2} | {math.isqrt(len(shuffled))}):
        n = len(shuffled) // m
        sums = [math.log(abs(sum(shuffled[i * m : (i + 1) * m]))) for i in range(n)]
        slopes.append((np.mean(sums) - np.mean([math.log(abs(x)) for x in shuffled[: n * m]])) / math.log(m))
    assert block_sum_index(values).value == pytest.approx(1 / np.median(slopes), rel=1e-9)


def test_reads_a_peaked_centre_as_heavy_and_is_not_capped() -> None:
    generator = np.random.default_rng(0)
    laplace = np.mean([block_sum_index(generator.laplace(size=N)).value for _ in range(10)])
    uniform = block_sum_index(generator.uniform(-1, 1, N))
    assert laplace == pytest.approx(1.70, abs=0.06)
    assert uniform.value > 2.1
    assert any("above 2" in note for note in uniform.notes)


def test_a_mean_does_not_matter() -> None:
    values = np.random.default_rng(1).standard_normal(N)
    assert block_sum_index(values + 0.5).value == pytest.approx(block_sum_index(values).value, rel=1e-6)


def test_correlation_along_the_layer_is_shuffled_away() -> None:
    generator = np.random.default_rng(2)
    values = np.zeros(N)
    for i in range(1, N):
        values[i] = 0.9 * values[i - 1] + generator.standard_normal()
    assert block_sum_index(values).value == pytest.approx(2.0, abs=0.2)


def test_exact_zeros_are_left_out_with_a_note() -> None:
    generator = np.random.default_rng(4)
    values = np.where(generator.random(10 * N) < 0.9, 0.0, generator.standard_normal(10 * N))
    estimate = block_sum_index(values)
    assert estimate.value == pytest.approx(2.0, abs=0.2)
    assert any("exact zeros" in note for note in estimate.notes)


def test_quantized_weights_are_invalid() -> None:
    values = np.round(np.random.default_rng(5).standard_normal(N) * 3) / 3
    assert not block_sum_index(values).valid


def test_more_permutations_change_little_and_the_seed_is_obeyed() -> None:
    one = observation(stable(1.5, N, seed=9).reshape(100, 100))
    first, again, other, many = (BlockSum(**f)(one) for f in ({}, {}, {"seed": 1}, {"permutations": 5}))
    assert first == again
    assert first.value != other.value
    assert many.value == pytest.approx(first.value, abs=4 * first.stderr)
