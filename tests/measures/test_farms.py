"""FARMS: the exponent of noise doesn't depend on its shape, unlike the plain exponent."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.measures import EsdMid, Farms
from tests.measures.observations import observation


@pytest.mark.parametrize("columns", [512, 768, 1024, 2048, 4096])
def test_noise_reads_the_same_for_every_aspect_ratio(columns: int) -> None:
    weight = np.random.default_rng(0).standard_normal((512, columns))
    assert Farms(window=256)(observation(weight)).value == pytest.approx(2.12, abs=0.03)


@pytest.mark.parametrize("shape", [(64, 64), (64, 1024), (1024, 128), (64, 64, 3, 3), (128, 32, 3, 3)])
def test_noise_reads_the_same_for_every_shape(shape: tuple[int, ...]) -> None:
    values = [Farms()(observation(np.random.default_rng(seed).standard_normal(shape))).value for seed in range(12)]
    assert np.mean(values) == pytest.approx(2.12, abs=0.08)


def test_equals_the_pooled_windows_written_as_a_loop() -> None:
    weight = np.random.default_rng(1).standard_normal((70, 90))
    pooled = []
    for i in (0, 15, 30):
        for j in (0, 25, 50):
            window = weight[i : i + 40, j : j + 40]
            pooled += list(np.linalg.svd(window, compute_uv=False) ** 2)
    upper = np.sort(pooled)[len(pooled) // 2 :]
    wanted = 1 + len(upper) / np.log(upper / upper[0]).sum()
    assert Farms(window=40)(observation(weight)).value == pytest.approx(wanted, rel=1e-6)


def test_one_window_of_a_square_matrix_is_the_plain_exponent() -> None:
    one = observation(np.random.default_rng(2).standard_normal((96, 96)))
    assert Farms()(one).value == pytest.approx(EsdMid()(one).value, rel=1e-9)
    assert Farms()(one).stderr == pytest.approx(EsdMid()(one).stderr, rel=1e-9)


def test_a_tall_layer_reads_like_its_transpose() -> None:
    weight = np.random.default_rng(3).standard_normal((200, 90))
    assert Farms(window=64)(observation(weight)).value == pytest.approx(Farms(window=64)(observation(weight.T)).value, rel=1e-9)


def test_overlapping_windows_do_not_lower_the_standard_error() -> None:
    one = observation(np.random.default_rng(4).standard_normal((100, 100)))
    few, many = Farms(window=90, per_dimension=2)(one), Farms(window=90, per_dimension=8)(one)
    assert many.stderr == pytest.approx(few.stderr, rel=0.1)


def test_a_matrix_too_narrow_for_the_aspect_is_refused_kindly() -> None:
    estimate = Farms(aspect=8.0)(observation(np.ones((4, 4))))
    assert not estimate.valid
    assert "too narrow" in estimate.notes[0]
