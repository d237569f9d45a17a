"""The risk of regression: cases by hand, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.certificates.regression import BoundedError
from dyncompress.errors import InvalidRequest


def test_cases_by_hand() -> None:
    outputs, labels = np.array([[1.0, 2.0], [0.0, 0.0], [9.0, -9.0]]), np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(BoundedError(scale=2.0)(outputs, labels), [0.25, 0.0, 1.0])
    np.testing.assert_array_equal(BoundedError(scale=20.0)(outputs, labels), [0.025, 0.0, 0.45])
    np.testing.assert_array_equal(BoundedError(scale=2.0)(np.array([1.0, 5.0]), np.array([0, 0])), [0.5, 1.0])  # one number each
    np.testing.assert_array_equal(BoundedError(scale=1.0)(np.array([[np.inf]]), np.array([[0.0]])), [1.0])


def test_the_mean_is_over_all_axes() -> None:
    draw = np.random.default_rng(0)
    outputs, labels = draw.normal(size=(2, 6, 3, 4, 5)), None
    outputs, labels = outputs[0], outputs[1]
    expected = [min(np.abs(a - b).mean() / 1.1, 1) for a, b in zip(outputs, labels, strict=True)]
    np.testing.assert_allclose(BoundedError(scale=1.1)(outputs, labels), expected)


@pytest.mark.parametrize(
    ("outputs", "labels", "fact"),
    [
        (np.zeros((3, 1)), np.zeros(3), "(3,)"),
        (np.zeros((3, 2)), np.zeros((3, 1)), "(3, 1)"),
        (np.zeros((3, 2)), np.full((3, 2), np.nan), "labels contain nan"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "outputs contain nan"),
        (np.zeros((3, 0)), np.zeros((3, 0)), "no numbers"),
        (np.zeros((3, 2)), np.full((3, 2), "x"), "real numbers"),
    ],
)
def test_other_forms_are_refused_with_a_sentence(outputs: np.ndarray, labels: np.ndarray, fact: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        BoundedError(scale=1.0)(outputs, labels)
    assert fact in str(caught.value) and "\n" not in str(caught.value)
