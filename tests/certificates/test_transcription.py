"""The risks of transcription: cases by hand, and recursions as oracles of the decoder and the edit distance."""

from __future__ import annotations

from functools import cache
from itertools import groupby

import numpy as np
import pytest

from dyncompress.certificates.transcription import CharacterErrors, ExactMatch, edit_distances, greedy_path
from dyncompress.errors import InvalidRequest


def scores(*paths: list[int], classes: int = 4) -> np.ndarray:
    """CTC scores whose best classes are the paths."""
    return np.eye(classes, dtype=np.float32)[np.array(paths)]


def test_ctc_cases_by_hand() -> None:
    outputs = scores([0, 1, 1, 0, 1, 2], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [3, 0, 3, 2, 2, 0])
    labels = np.array([[1, 1, 2], [1, 1, -1], [-1, -1, -1], [3, 2, -1]])
    np.testing.assert_array_equal(ExactMatch()(outputs, labels), [0, 1, 0, 1])
    np.testing.assert_array_equal(CharacterErrors()(outputs, labels), [0, 0.5, 0, 0.5])  # "1" for "11", "332" for "32"
    last = scores([3, 1, 1, 3, 1, 2])  # the blank is the last class
    assert ExactMatch(blank=3)(last, np.array([[1, 1, 2]])).tolist() == [0]


def test_sequences_by_hand() -> None:
    outputs = np.array([[1, 2, 3, -1], [0, 0, -1, -1], [-1, -1, -1, -1], [5, 6, 7, 8], [5, -1, -1, -1]])
    labels = np.array([[1, 2, 3], [0, -1, -1], [4, -1, -1], [5, -1, -1], [-1, -1, -1]])
    np.testing.assert_array_equal(ExactMatch()(outputs, labels), [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(CharacterErrors()(outputs, labels), [0, 1, 1, 1, 1])  # 3 insertions in 1 are clipped to 1
    assert CharacterErrors()(outputs, np.zeros((5, 0), int)).tolist() == [1, 1, 0, 1, 1]


def test_the_decoder_equals_its_definition() -> None:
    draw = np.random.default_rng(0)
    best = draw.integers(0, 3, (100, 12))
    for blank in range(3):
        found = greedy_path(np.eye(3)[best], blank)
        for path, sequence in zip(best.tolist(), found.tolist(), strict=True):
            expected = [symbol for symbol, _ in groupby(path) if symbol != blank]
            assert [symbol for symbol in sequence if symbol >= 0] == expected == sequence[: len(expected)]


def test_the_edit_distance_equals_the_recursion() -> None:
    @cache
    def distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    draw = np.random.default_rng(1)

    def padded(n: int, width: int) -> np.ndarray:
        values = draw.integers(0, 3, (n, width))
        return np.where(np.arange(width) < draw.integers(0, width + 1, (n, 1)), values, -1)

    one, other = padded(150, 7), padded(150, 5)
    pairs = [
        (tuple(x for x in a if x >= 0), tuple(x for x in b if x >= 0)) for a, b in zip(one.tolist(), other.tolist(), strict=True)
    ]
    found = edit_distances(one, other)
    assert found.tolist() == [distance(a, b) for a, b in pairs]
    np.testing.assert_array_equal(found, edit_distances(other, one))
    losses = CharacterErrors()(one, other)
    assert losses.min() == 0 and losses.max() == 1
    np.testing.assert_array_equal(ExactMatch()(one, other), (found > 0) * 1.0)
    np.testing.assert_array_equal(ExactMatch()(one, other), (losses > 0) * 1.0)


OUTPUTS = scores([0, 1, 2], [0, 1, 1])


@pytest.mark.parametrize("risk", [ExactMatch, CharacterErrors])
@pytest.mark.parametrize(
    ("outputs", "labels", "facts"),
    [
        (OUTPUTS, np.array([1, 2]), ["labels have shape (2,)", "[2, L]"]),
        (OUTPUTS, np.array([[1], [2], [1]]), ["labels have shape (3, 1)"]),
        (OUTPUTS, np.array([[1.0], [2.0]]), ["float64", "integers"]),
        (OUTPUTS, np.array([[1], [-2]]), ["labels hold -2"]),
        (OUTPUTS, np.array([[1, 2], [-1, 2]]), ["label 1", "behind the padding"]),
        (OUTPUTS, np.array([[1], [4]]), ["labels reach to 4", "classes 0 to 3"]),
        (OUTPUTS, np.array([[1], [0]]), ["labels hold 0", "blank=3"]),
        (OUTPUTS * np.nan, np.array([[1], [2]]), ["contain nan"]),
        (OUTPUTS[:, :, 0], np.array([[1], [2]]), ["(2, 3)", "float32", "[n, T, classes]"]),
        (np.array([[1, -2], [1, 1]]), np.array([[1], [2]]), ["symbol -2"]),
    ],
)
def test_other_forms_are_refused_with_a_sentence(
    risk: type[ExactMatch | CharacterErrors], outputs: np.ndarray, labels: np.ndarray, facts: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        risk()(outputs, labels)
    assert all(fact in str(caught.value) for fact in facts) and "\n" not in str(caught.value)
    with pytest.raises(InvalidRequest, match="blank is 4"):
        risk(blank=4)(OUTPUTS, np.array([[1], [2]]))
