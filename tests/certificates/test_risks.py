"""Risks and the check of a user's own."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.certificates import RISKS
from dyncompress.certificates.detection import Detection
from dyncompress.certificates.promise import Promise, certificate_from_losses, check_method, recompute
from dyncompress.certificates.regression import BoundedError
from dyncompress.certificates.risks import as_risk, is_binary, known_risk, losses_of, outputs_for, parse_risk, risk_name, written
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


# ---------------------------------------------------------------- the written form
@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("zero_one", "zero_one"),
        ("agreement", "agreement"),
        ("detection", "detection:score=0.5,iou=0.5"),
        ("detection:iou=0.50", "detection:score=0.5,iou=0.5"),
        ("detection: iou=0.75, score=.3", "detection:score=0.3,iou=0.75"),
        ("exact_match", "exact_match:blank=0"),
        ("character_errors:blank=1234567", "character_errors:blank=1234567"),
        ("reciprocal_rank:top=5", "reciprocal_rank:top=5"),
        ("bounded_error:scale=0.5", "bounded_error:scale=0.5"),
        ("bounded_error:scale=2", "bounded_error:scale=2"),
        ("bounded_error:scale=0.1234567891", "bounded_error:scale=0.1234567891"),
    ],
)
def test_every_risk_has_one_written_form(text, whole):
    risk = parse_risk(text)
    assert written(risk) == whole == risk_name(text) == risk_name(risk) == risk_name(whole)
    assert parse_risk(whole) == risk == known_risk(whole)


def test_every_risk_of_the_index_has_words_and_a_kind():
    texts = {name: name for name in RISKS} | {"bounded_error": "bounded_error:scale=1"}
    risks = {name: parse_risk(text) for name, text in texts.items()}
    assert {name for name, risk in risks.items() if risk.binary} == {"zero_one", "agreement", "exact_match"}
    assert len({risk.quantity for risk in risks.values()}) == len(RISKS)
    assert {name for name, risk in risks.items() if isinstance(outputs_for(risk, "ab", [SCORES, SCORES]), dict)} == {"detection"}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("detections", ["unknown risk 'detections'", "detection", "bounded_error"]),
        ("detection:iuo=0.5", ["unknown option 'iuo'", "did you mean 'iou'"]),
        ("detection:iou=0.5,iou=0.6", ["'iou' is given twice"]),
        ("detection:", ["unknown option ''", "iou, score"]),
        ("detection:iou", ["option 'iou' is ''"]),
        ("detection:iou=high", ["'high'", "number"]),
        ("detection:iou=nan", ["'nan'", "finite"]),
        ("detection:iou=1.5", ["iou is 1.5", "(0, 1]"]),
        ("reciprocal_rank:top=2.5", ["'2.5'", "integer"]),
        ("reciprocal_rank:top=0", ["top is 0"]),
        ("exact_match:blank=-1", ["blank is -1"]),
        ("bounded_error", ["needs the option 'scale'", "bounded_error:scale=0.5"]),
        ("bounded_error:scale=0", ["scale is 0"]),
        ("zero_one:top=1", ["has no options", "top=1"]),
    ],
)
def test_a_wrong_form_is_refused_with_a_sentence(text, facts):
    with pytest.raises(InvalidRequest) as caught:
        parse_risk(text)
    assert all(fact in str(caught.value) for fact in facts) and "\n" not in str(caught.value)
    assert known_risk(text) is None and not is_binary(text)


def test_values_callables_and_what_is_neither():
    assert losses_of(BoundedError(scale=4.0), np.array([[1.0]]), np.array([[0.0]])).tolist() == [0.25]
    for wrong, fact in ((BoundedError, "BoundedError"), (3, "int")):
        with pytest.raises(InvalidRequest, match=fact):
            as_risk(wrong)


def test_a_callable_with_the_name_of_another_risk_is_refused():
    def exact_match(outputs, labels):
        return np.full(len(outputs), 0.5)

    with pytest.raises(InvalidRequest, match="rename it"):
        losses_of(exact_match, SCORES, np.zeros(3))


def test_a_callable_gets_the_first_output_or_all_by_name():
    def both(outputs, labels):
        return 0.5 * outputs["a"][:, 0] + 0.5 * outputs["b"][:, 0]

    both.reads_all_outputs = True  # type: ignore[attr-defined]
    ones, zeros = np.ones((2, 1)), np.zeros((2, 1))
    assert losses_of(both, outputs_for(both, ["a", "b"], [ones, zeros]), np.zeros(2)).tolist() == [0.5, 0.5]
    assert outputs_for(half_square, ["a", "b"], [ones, zeros]) is ones


# ---------------------------------------------------------------- bounds and words
def test_the_bound_follows_from_the_kind_of_the_losses():
    draw = np.random.default_rng(0)
    before, after = draw.integers(0, 2, (2, 400)) * 1.0
    exact = certificate_from_losses(before, after, Promise("exact_match:blank=0"))
    real = certificate_from_losses(before, after, Promise("detection:score=0.5,iou=0.5"))
    assert "exact paired bound" in exact.lines[0].method and "Clopper-Pearson" in exact.lines[1].method
    assert "betting" in real.lines[0].method and "betting" in real.lines[1].method
    assert exact.evidence["format"] == "bits" and real.evidence["format"] == "uint16"
    assert exact.counts["file_errors"] == after.sum() and set(real.counts) == {"examples"}
    assert "the file's transcription error rate (exact match) exceeds the original's" in exact.statement
    assert "detection error (1 - F1 for each image, at IoU 0.5 and scores of at least 0.5)" in real.statement
    for certificate in (exact, real):
        assert recompute(certificate) == certificate.lines
    with pytest.raises(InvalidRequest, match="one of"):
        certificate_from_losses(before / 2, after, Promise("exact_match:blank=0"))


def test_a_method_that_does_not_fit_the_risk_is_refused_early():
    check_method(Promise("exact_match", method="paired_increase"), grouped=False)
    check_method(Promise(written(Detection()), method="betting"), grouped=True)
    for risk, grouped in (("detection", False), ("exact_match", True)):
        with pytest.raises(InvalidRequest, match="paired_increase"):
            check_method(Promise(risk, method="paired_increase"), grouped=grouped)


def test_integers_are_predicted_classes_already() -> None:
    """scikit-learn's classifiers return the class first."""
    classes = np.array([2, 0, 1, 1])
    assert losses_of("zero_one", classes, np.array([2, 0, 0, 1])).tolist() == [0, 0, 1, 0]
    assert losses_of("agreement", classes, np.array([2, 1, 1, 1])).tolist() == [0, 1, 0, 0]
    with pytest.raises(InvalidRequest, match="labels have shape"):
        losses_of("zero_one", classes, np.array([2, 0]))
    with pytest.raises(InvalidRequest, match="outputs have shape"):
        losses_of("zero_one", classes.astype(np.float32), classes)
