from __future__ import annotations

import numpy as np
import pytest

from dyncompress.coding import code_length
from dyncompress.coding.weights import WeightMemory, code_weights


class Counting:
    """A coder that only adds up the bits of the symbols."""

    def __init__(self) -> None:
        self.bits = 0.0

    def symbols(self, tables, contexts, values):
        self.bits -= float(np.log2(tables.frequency[contexts, values] / 65536).sum())
        return values

    def uniform(self, bits, values):
        self.bits += float(bits.sum())
        return values


def layers(spread: float) -> dict[tuple[int, ...], np.ndarray]:
    rng = np.random.default_rng(int(100 * spread))
    result = {}
    for shape in ((32, 32, 3, 3), (64, 64, 3, 3), (64, 128), (64, 64, 5)):
        field = rng.standard_normal(shape)
        if len(shape) > 2:
            field = field + 0.5 * np.roll(field, 1, -1)
        scale = np.exp(0.4 * rng.standard_normal((shape[0], *[1] * (len(shape) - 1))))
        result[shape] = np.rint(spread * field * scale).astype(np.int8)
    return result


@pytest.mark.parametrize("spread", [0.4, 0.7, 1.2])
def test_the_estimate_is_near_the_coded_length(spread: float) -> None:
    """Layers one after the other, as in a file; the first one adapts the tables and doesn't count."""
    memory, wanted, result = WeightMemory(), [], []
    for shape, codes in layers(spread).items():
        coder = Counting()
        code_weights(coder, memory, shape, codes)
        wanted.append(coder.bits)
        result.append(code_length(codes))
    ratios = np.array(result[1:]) / np.array(wanted[1:])
    assert (np.abs(ratios - 1) < 0.09).all(), ratios
    assert abs(sum(result[1:]) / sum(wanted[1:]) - 1) < 0.03


def test_finer_steps_take_more_bits() -> None:
    weights = np.random.default_rng(0).laplace(size=(32, 32, 3, 3))
    lengths = [code_length(np.rint(weights / step).astype(np.int8)) for step in (2.0, 1.0, 0.5, 0.25)]
    assert lengths == sorted(lengths)
    assert lengths[-1] - lengths[-2] == pytest.approx(weights.size, rel=0.15)  # at a high rate, one bit more for each weight


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (1, 1, 3, 3), (3, 7, 1), (4, 1, 5, 5)], ids=str)
def test_any_shape_and_any_code_has_a_length(shape: tuple[int, ...]) -> None:
    for value in (-128, -1, 0, 127):
        assert 0 <= code_length(np.full(shape, value, np.int8)) < 40 + 30 * np.prod(shape)
