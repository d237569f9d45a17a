"""The risk of retrieval: cases by hand, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.certificates.classification import ZeroOne
from dyncompress.certificates.retrieval import ReciprocalRank
from dyncompress.errors import InvalidRequest

SCORES = np.array([[3.0, 2.0, 1.0, 0.0]])


@pytest.mark.parametrize(("label", "loss"), [(0, 0.0), (1, 1 / 2), (2, 2 / 3), (3, 3 / 4)])
def test_ranks_by_hand(label: int, loss: float) -> None:
    np.testing.assert_allclose(ReciprocalRank()(SCORES, np.array([label])), [loss])
    np.testing.assert_allclose(ReciprocalRank(top=2)(SCORES, np.array([label])), [loss if label < 2 else 1.0])


def test_ties_count_against_the_model() -> None:
    np.testing.assert_allclose(ReciprocalRank()(np.ones((1, 4)), np.array([2])), [3 / 4])
    np.testing.assert_array_equal(ReciprocalRank(top=3)(np.ones((1, 4)), np.array([2])), [1.0])


def test_at_top_1_it_is_the_0_1_loss_and_it_equals_a_sort() -> None:
    draw = np.random.default_rng(0)
    scores, labels = draw.normal(size=(200, 20)), draw.integers(0, 20, 200)
    np.testing.assert_array_equal(ReciprocalRank(top=1)(scores, labels), ZeroOne()(scores, labels))
    ranks = np.array([1 + np.flatnonzero(np.argsort(-row) == label)[0] for row, label in zip(scores, labels, strict=True)])
    np.testing.assert_allclose(ReciprocalRank(top=20)(scores, labels), 1 - 1 / ranks)


@pytest.mark.parametrize(
    ("outputs", "labels", "fact"),
    [
        (SCORES[0], np.array([0]), "[n, items]"),
        (SCORES[:, :1], np.array([0]), "2 items or more"),
        (SCORES * np.nan, np.array([0]), "contain nan"),
        (SCORES, np.array([4]), "classes 0 to 3"),
        (SCORES, np.array([-1]), "from -1"),
        (SCORES, np.array([0.0]), "float64"),
        (SCORES, np.array([[0]]), "(1, 1)"),
    ],
)
def test_other_forms_are_refused_with_a_sentence(outputs: np.ndarray, labels: np.ndarray, fact: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ReciprocalRank()(outputs, labels)
    assert fact in str(caught.value) and "\n" not in str(caught.value)
