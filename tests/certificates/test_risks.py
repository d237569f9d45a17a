"""Risks and the check of a user's own."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.certificates import RISKS
from dyncompress.certificates.risks import losses_of, risk_name
from dyncompress.errors import InvalidRequest

SCORES = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 1.0]])


def test_zero_one_counts_wrong_labels():
    np.testing.assert_array_equal(losses_of("zero_one", SCORES, np.array([0, 2, 2])), [0, 1, 0])


def test_agreement_compares_with_the_original():
    np.testing.assert_array_equal(losses_of("agreement", SCORES, SCORES[:, ::-1]), [1, 0, 1])
    np.testing.assert_array_equal(losses_of("agreement", SCORES, SCORES * 7), [0, 0, 0])


def test_agreement_of_dense_outputs_is_by_example():
    a = np.zeros((3, 2, 4))
    b = a.copy()
    b[1, 1, 2] = 1
    np.testing.assert_array_equal(losses_of("agreement", b, a), [0, 1, 0])


@pytest.mark.parametrize("name", list(RISKS))
def test_scores_that_are_none_are_refused(name):
    for outputs in (np.zeros(3), np.zeros((3, 1)), np.full((3, 2), np.nan)):
        with pytest.raises(InvalidRequest):
            losses_of(name, outputs, np.zeros(3, int))


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array([0.0, 1.0, 2.0]), np.array([0, 1, 3]), np.array([-1, 0, 1])])
def test_labels_must_be_classes(labels):
    with pytest.raises(InvalidRequest, match="labels"):
        losses_of("zero_one", SCORES, labels)


def half_square(outputs, labels):
    return 0.5 * (outputs[:, 0] - labels) ** 2


def test_a_users_risk_is_taken_with_its_name():
    losses = losses_of(half_square, np.array([[1.0], [0.5]]), np.array([0.0, 0.5]))
    np.testing.assert_array_equal(losses, [0.5, 0])
    assert risk_name(half_square) == "half_square"


@pytest.mark.parametrize(
    ("risk", "word"),
    [
        (lambda outputs, labels: np.zeros(2), "shape"),
        (lambda outputs, labels: np.zeros((3, 3)), "shape"),
        (lambda outputs, labels: np.full(3, np.nan), "finite"),
        (lambda outputs, labels: np.full(3, 1.5), "1.5"),
        (lambda outputs, labels: np.full(3, -0.1), "-0.1"),
        (lambda outputs, labels: np.full(3, "x"), "finite"),
    ],
)
def test_a_users_risk_is_checked(risk, word):
    with pytest.raises(InvalidRequest, match=word):
        losses_of(risk, SCORES, np.zeros(3))


def test_unknown_names_and_missing_labels_are_told():
    with pytest.raises(InvalidRequest, match="zero_one"):
        losses_of("zero-one", SCORES, np.zeros(3, int))
    with pytest.raises(InvalidRequest, match="agreement"):
        losses_of("zero_one", SCORES, None)
