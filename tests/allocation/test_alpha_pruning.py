"""AlphaPruning's mapping: the published indices of LLaMA-7B, the share that is always met, and water filling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.allocation.alpha_pruning import ratios
from dyncompress.errors import InvalidRequest
from tests.data import data_file

BLOCK = 4 * 4096**2 + 3 * 4096 * 11008  # weights of one block of LLaMA-7B: q, k, v, o and gate, up, down


def block_means() -> np.ndarray:
    """Mean tail exponent of each of the 32 blocks, as the method uses them."""
    indices = np.load(data_file("golden/alphapruning_llama7b_alpha_peak.npy"))
    assert indices.shape == (224,)
    assert indices[:7] == pytest.approx([1.3288, 1.3080, 3.9167, 3.8405, 1.7195, 4.4723, 1.7693], abs=1e-4)
    return indices.reshape(32, 7).mean(axis=1)


def test_the_blocks_of_llama_have_the_published_means() -> None:
    means = block_means()
    assert means[:6] == pytest.approx([2.622, 2.890, 2.969, 2.964, 3.090, 3.064], abs=1e-3)
    assert means[-4:] == pytest.approx([3.851, 4.093, 4.160, 3.537], abs=1e-3)


@pytest.mark.parametrize(
    ("epsilon", "ends", "first"),
    [
        (0.2, (0.56803, 0.85205), (0.5704, 0.6176, 0.6315, 0.6307, 0.6529, 0.6482, 0.6301, 0.5922)),
        (0.3, (0.50062, 0.92973), (0.5042, 0.5755, 0.5966, 0.5954, 0.6288, 0.6218, 0.5943, 0.5371)),
    ],
)
def test_golden_ratios_of_llama(epsilon: float, ends: tuple[float, float], first: tuple[float, ...]) -> None:
    counts = np.full(32, BLOCK)
    result = ratios(block_means(), counts, 0.7, epsilon)
    assert (result.min(), result.max()) == pytest.approx(ends, abs=1e-5)
    assert result[:8] == pytest.approx(first, abs=1e-4)
    assert np.average(result, weights=counts) == pytest.approx(0.7, rel=1e-12)


def naive(q: np.ndarray, p: np.ndarray, sparsity: float, epsilon: float) -> np.ndarray:
    """The public code's three lines."""
    r = (q - q.min()) / (q.max() - q.min()) * 2 * epsilon + (1 - epsilon)
    return r * (sparsity * p.sum() / (p * r).sum())


def test_equals_the_formula_where_nothing_is_clipped() -> None:
    generator = np.random.default_rng(0)
    q, p = generator.uniform(1, 6, 12), generator.integers(10, 10_000, 12)
    assert ratios(q, p, 0.5, 0.3) == pytest.approx(naive(q, p, 0.5, 0.3), rel=1e-12)


def test_equal_indices_give_the_uniform_sparsity() -> None:
    assert ratios(np.full(5, 3.3), np.arange(1, 6), 0.6, 0.3).tolist() == pytest.approx([0.6] * 5)
    assert ratios(np.array([3.3]), np.array([7]), 0.6, 0.3).tolist() == pytest.approx([0.6])


def test_sparsities_above_one_are_solved_for_again() -> None:
    q, p = np.array([1.0, 2.0, 6.0]), np.array([100.0, 100.0, 100.0])
    assert naive(q, p, 0.8, 0.5).max() > 1
    result = ratios(q, p, 0.8, 0.5)
    assert result[2] == 1.0
    assert result[1] / result[0] == pytest.approx(
        naive(q, p, 0.8, 0.5)[1] / naive(q, p, 0.8, 0.5)[0]
    )  # the others keep their ratio
    assert result.mean() == pytest.approx(0.8)


@given(
    layers=st.lists(st.tuples(st.floats(1, 20), st.integers(1, 10**6)), min_size=1, max_size=12),
    sparsity=st.floats(0, 1),
    epsilon=st.floats(0, 1),
)
def test_the_share_is_met_and_order_is_kept(layers: list[tuple[float, int]], sparsity: float, epsilon: float) -> None:
    q, p = (np.array(column, dtype=float) for column in zip(*layers, strict=True))
    result = ratios(q, p, sparsity, epsilon)
    assert ((result >= 0) & (result <= 1)).all()
    assert np.average(result, weights=p) == pytest.approx(sparsity, abs=1e-9)
    assert (np.diff(result[np.argsort(q, kind="stable")]) >= -1e-9).all()


@pytest.mark.parametrize(
    ("indices", "counts", "sparsity", "epsilon", "words"),
    [
        ([1.0, 2.0], [1], 0.5, 0.2, "one of each for every layer"),
        ([], [], 0.5, 0.2, "one of each for every layer"),
        ([1.0, np.nan], [1, 1], 0.5, 0.2, "NaN or infinite"),
        ([1.0, 2.0], [1, 0], 0.5, 0.2, "without weights"),
        ([1.0, 2.0], [1, 1], 1.5, 0.2, "between 0 and 1"),
        ([1.0, 2.0], [1, 1], 0.5, -0.2, "between 0 and 1"),
    ],
)
def test_bad_input_is_named(indices: list[float], counts: list[int], sparsity: float, epsilon: float, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        ratios(np.array(indices), np.array(counts), sparsity, epsilon)
