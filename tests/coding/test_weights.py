from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest

from dyncompress.coding.layout import positions
from dyncompress.coding.rans import Reader, Writer
from dyncompress.coding.weights import WeightMemory, code_weights, solve

MATRICES = [(1,), (70,), (1, 1), (5, 3), (64, 100), (10, 64)]
SHAPES = [*MATRICES, (16, 3, 3, 3), (8, 1, 5, 5), (4, 2, 17, 17), (6, 5, 7), (3, 4, 2, 3, 2)]


def codes_of(shape: tuple[int, ...], spread: float = 0.8, seed: int = 0) -> np.ndarray:
    """Laplace codes whose spread differs by row and column, -128 and 127 among them."""
    rng = np.random.default_rng(seed)
    scale = np.exp(0.5 * rng.standard_normal((shape[0], *[1] * (len(shape) - 1))))
    codes = np.clip(np.rint(rng.laplace(0, spread, shape) * scale), -128, 127).astype(np.int8)
    codes.flat[-1], codes.flat[0] = 127, -128
    return codes


def packed(tensors: list[np.ndarray], lanes: int = 16) -> bytes:
    coder, memory = Writer(), WeightMemory()
    for codes in tensors:
        code_weights(coder, memory, codes.shape, codes)
    return coder.finish(bytes(3 * lanes), lanes)


def unpacked(stream: bytes, shapes: list[tuple[int, ...]], lanes: int = 16) -> list[np.ndarray]:
    reader, memory = Reader(stream, lanes), WeightMemory()
    result = [code_weights(reader, memory, shape) for shape in shapes]
    assert reader.finish() == bytes(3 * lanes)
    return result


def adaptive_order0(codes: np.ndarray) -> float:
    """Bits under the Krichevsky-Trofimov estimator over the range of the codes, symbol by symbol."""
    flat = codes.ravel().astype(int) - int(codes.min())
    counts = np.full(flat.max() + 1, 0.5)
    bits = 0.0
    for symbol in flat:
        bits -= np.log2(counts[symbol] / counts.sum())
        counts[symbol] += 1
    return bits


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spread", [0.02, 1.0, 40.0])
def test_codes_come_back(shape: tuple[int, ...], spread: float) -> None:
    codes = codes_of(shape, spread)
    (result,) = unpacked(packed([codes]), [shape])
    assert result.dtype == np.int8 and result.shape == shape
    np.testing.assert_array_equal(result, codes)


def test_all_shapes_in_one_stream_come_back() -> None:
    tensors = [codes_of(shape, seed=i) for i, shape in enumerate(SHAPES)]
    for codes, result in zip(tensors, unpacked(packed(tensors, 64), SHAPES, 64), strict=True):
        np.testing.assert_array_equal(result, codes)


def test_independent_codes_cost_no_more_than_an_adaptive_order_0_code() -> None:
    rng = np.random.default_rng(4)
    codes = np.rint(rng.laplace(0, 0.8, (64, 32, 3, 3))).astype(np.int8)
    assert 8 * len(packed([codes], 1)) < 1.015 * adaptive_order0(codes)


def test_smooth_kernels_and_uneven_rows_cost_much_less() -> None:
    rng = np.random.default_rng(5)
    field = rng.standard_normal((64, 32, 5, 5))
    smooth = sum(field[..., i : i + 3, j : j + 3] for i in range(3) for j in range(3))
    codes = np.rint(0.4 * smooth * np.exp(0.5 * rng.standard_normal((64, 1, 1, 1)))).astype(np.int8)
    assert 8 * len(packed([codes], 1)) < 0.8 * adaptive_order0(codes)


def test_zeros_cost_next_to_nothing() -> None:
    assert len(packed([np.zeros((256, 256), np.int8)], 1)) < 120


def test_the_next_layer_is_cheaper_for_what_the_last_taught() -> None:
    codes = codes_of((16, 16, 3, 3), seed=6)
    alone, both = len(packed([codes], 1)), len(packed([codes, codes_of((16, 16, 3, 3), seed=7)], 1))
    second = len(packed([codes_of((16, 16, 3, 3), seed=7)], 1))
    assert both < alone + second - 20


def test_the_stream_is_the_same_on_every_machine() -> None:
    """Integers only: these bytes are what every version 1 writes and reads. A change of the format needs a new version."""
    tensors = [codes_of(shape, seed=i) for i, shape in enumerate(SHAPES)]
    assert hashlib.sha256(packed(tensors)).hexdigest()[:16] == "2e7545c94737ac8a"


def test_positions_begin_at_the_centre_and_read_only_what_is_coded() -> None:
    assert [at for at, _ in positions((3, 3))] == [4, 1, 3, 5, 7, 0, 2, 6, 8]
    for kernel in ((1, 1), (3, 3), (5, 5), (7,), (3, 3, 3), (2, 4)):
        earlier: set[int] = set()
        for at, near in positions(kernel):
            assert len(near) == min(8, len(earlier)) and set(near) <= earlier and at not in earlier
            earlier.add(at)
        assert earlier == set(range(int(np.prod(kernel))))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_the_integer_solution_is_the_exact_one_rounded(n: int) -> None:
    rng = np.random.default_rng(n)
    root = rng.integers(-1000, 1000, (n, n + 3))
    matrix, right = (root @ root.T).tolist(), rng.integers(-(10**8), 10**8, n).tolist()
    rows = [[*map(Fraction, row), Fraction(value)] for row, value in zip(matrix, right, strict=True)]
    for k in range(n):  # Gauss-Jordan in exact fractions
        rows[k] = [a / rows[k][k] for a in rows[k]]
        for i in set(range(n)) - {k}:
            rows[i] = [a - rows[i][k] * b for a, b in zip(rows[i], rows[k], strict=True)]
    exact = [256 * row[n] for row in rows]
    assert all(abs(result - wanted) <= Fraction(1, 2) for result, wanted in zip(solve(matrix, right), exact, strict=True))
