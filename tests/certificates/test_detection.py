"""The detection risk: cases by hand, a naive matching as an oracle, and the forms of outputs that are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dyncompress.certificates.detection import Detection, intersection_over_union
from dyncompress.errors import InvalidRequest

UNIT = [0.0, 0.0, 1.0, 1.0]
EMPTY = [0.0, 0.0, 0.0, 0.0, -1.0]


def rows(*detections: list[float]) -> np.ndarray:
    return np.array([detections], np.float32).reshape(1, -1, 6)


def labels(*objects: list[float]) -> np.ndarray:
    return np.array([objects], np.float32).reshape(1, -1, 5)


@pytest.mark.parametrize(
    ("detections", "objects", "loss"),
    [
        ([], [], 0.0),
        ([], [EMPTY], 0.0),
        ([[*UNIT, 0.4, 0]], [], 0.0),  # below the threshold
        ([[*UNIT, 0.9, -1]], [], 0.0),  # an empty row
        ([[*UNIT, 0.9, 0]], [], 1.0),
        ([], [[*UNIT, 0]], 1.0),
        ([[*UNIT, 0.9, 0]], [[*UNIT, 0]], 0.0),
        ([[*UNIT, 0.5, 0]], [EMPTY, [*UNIT, 0]], 0.0),  # at the threshold; padding before the object
        ([[*UNIT, 0.9, 1]], [[*UNIT, 0]], 1.0),  # another class
        ([[*UNIT, 0.9, 0], [*UNIT, 0.8, 0]], [[*UNIT, 0]], 1 / 3),  # a duplicate: F1 = 2 / 3
        ([[*UNIT, 0.9, 0]], [[*UNIT, 0], [5, 5, 6, 6, 0]], 1 / 3),
        ([[0, 0, 2, 1, 0.9, 0]], [[*UNIT, 0]], 0.0),  # IoU exactly 1/2
        ([[0, 0, 2.1, 1, 0.9, 0]], [[*UNIT, 0]], 1.0),  # IoU below 1/2
        ([[1, 1, 0, 0, 0.9, 0]], [[*UNIT, 0]], 1.0),  # corners in another order: no area
        # The surer detection takes the long object, and the other one is left with the short object, IoU 2/3.
        ([[0, 0, 3, 1, 0.8, 0], [1, 0, 3, 1, 0.9, 0]], [[0, 0, 2, 1, 0], [0, 0, 3, 1, 0]], 0.0),
    ],
)
def test_cases_by_hand(detections: list[Any], objects: list[Any], loss: float) -> None:
    np.testing.assert_allclose(Detection()({"out": rows(*detections)}, labels(*objects)), [loss])


def test_the_intersection_over_union_of_two_boxes() -> None:
    long, short = np.array([0.0, 0, 3, 1]), np.array([0.0, 0, 2, 1])
    assert intersection_over_union(long, short) == pytest.approx(2 / 3)
    assert intersection_over_union(long, long + 3) == 0 == intersection_over_union(long, np.array([2.0, 0, 1, 1]))


def naive(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, objects: np.ndarray, risk: Detection) -> float:
    """The loss of one image, one detection after the other."""

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(width, 0.0) * max(height, 0.0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
        return shared / union

    left = [row for row in objects if row[4] >= 0]
    counted = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= risk.score]
    total, matches = len(left) + len(counted), 0
    for i in counted:
        near = [(iou(boxes[i], row), -j) for j, row in enumerate(left) if row[4] == classes[i]]
        if near and max(near)[0] >= risk.iou:
            del left[-max(near)[1]]
            matches += 1
    return 1 - 2 * matches / total if total else 0.0


@pytest.mark.parametrize("risk", [Detection(), Detection(score=0.2, iou=0.3), Detection(score=0.0, iou=0.7)])
def test_it_equals_a_naive_matching(risk: Detection) -> None:
    draw = np.random.default_rng(0)
    n, k, m = 200, 7, 4
    boxes, objects = draw.integers(0, 2, (n, k, 4)) * 1.0, draw.integers(0, 2, (n, m, 5)) * 1.0
    boxes[..., 2:], objects[..., 2:4] = boxes[..., :2] + boxes[..., 2:] + 1, objects[..., :2] + objects[..., 2:4] + 1
    objects[..., 4] = draw.integers(-1, 2, (n, m))
    scores, classes = draw.random((n, k)), draw.integers(0, 2, (n, k))
    expected = [naive(boxes[i], scores[i], classes[i], objects[i], risk) for i in range(n)]
    assert len(set(expected)) > 5
    found = risk({"boxes": boxes, "classes": classes, "scores": scores}, objects)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    whole = np.concatenate([boxes, scores[..., None], classes[..., None]], axis=2)
    np.testing.assert_array_equal(risk(whole, objects), found)
    shuffled = objects[:, draw.permutation(m)]
    assert (np.abs(risk(whole, shuffled) - found) < 1e-12).mean() > 0.9  # objects at the same IoU may be taken in another order


def test_the_forms_of_the_outputs() -> None:
    boxes = np.array([[[0, 0, 1, 1], [2, 2, 3, 3]]], np.float32)
    scores, classes = np.array([[0.9, 0.8]], np.float32), np.array([[3, 1]])
    table = np.zeros((1, 2, 4), np.float32)  # scores of four classes: the same shape as the boxes
    table[0, 0, 3], table[0, 1, 1] = 0.9, 0.8
    objects = labels([0, 0, 1, 1, 3], [2, 2, 3, 3, 1])
    count = np.array([2])
    for outputs in (
        {"a": boxes, "b": scores, "c": classes},
        {"a": classes, "b": boxes, "c": scores},
        {"a": boxes, "b": scores, "c": classes.astype(np.float32)},
        {"detection_boxes": boxes, "detection_classes": classes.astype(np.float32), "detection_scores": scores, "num": count},
        {"a": boxes, "class_scores": scores, "b": classes.astype(np.float32)},
        {"a": boxes, "b": table},
        {"scores": table, "boxes": boxes},
    ):
        np.testing.assert_array_equal(Detection()(outputs, objects), [0.0], err_msg=str(list(outputs)))
    assert Detection()({"a": boxes, "b": scores}, labels([0, 0, 1, 1, 0], [2, 2, 3, 3, 0])).tolist() == [0.0]
    assert Detection()({"a": boxes, "b": scores}, np.zeros((1, 0, 5))).tolist() == [1.0]


BOXES, SCORES = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), np.float32)
OBJECTS = np.tile(np.array([0, 0, 1, 1, 0.0]), (2, 1, 1))


@pytest.mark.parametrize(
    ("outputs", "objects", "facts"),
    [
        ({"a": SCORES}, OBJECTS, ["'a' [2, 3]", "[n, k, 6]"]),
        ({"a": BOXES}, OBJECTS, ["'a' [2, 3, 4]", "scores"]),
        ({"a": BOXES, "b": SCORES[:, :2]}, OBJECTS, ["'b' [2, 2]"]),
        ({"a": BOXES, "b": np.zeros((2, 3), int)}, OBJECTS, ["'b' [2, 3]"]),
        ({"a": np.zeros((2, 8, 4, 4))}, OBJECTS, ["[2, 8, 4, 4]"]),
        ({"a": BOXES, "b": np.full((2, 3), np.nan)}, OBJECTS, ["contain nan"]),
        ({"a": BOXES + np.inf, "b": SCORES}, OBJECTS, ["infinite"]),
        ({"a": BOXES, "b": SCORES}, OBJECTS[:1], ["labels have shape (1, 1, 5)", "[2, m, 5]"]),
        ({"a": BOXES, "b": SCORES}, np.zeros(2, int), ["labels have shape (2,)"]),
        ({"a": BOXES, "b": SCORES}, OBJECTS + np.array([0, 0, 0, 0, 0.5]), ["class 0.5"]),
        ({"a": BOXES, "b": SCORES}, OBJECTS - np.array([0, 0, 0, 0, 2]), ["class -2"]),
        ({"a": BOXES, "b": SCORES}, OBJECTS + np.array([0, 0, 0, 0, 1]), ["class 1", "classes 0 to 0"]),
        ({"a": BOXES, "b": np.zeros((2, 3, 2))}, OBJECTS + np.array([0, 0, 0, 0, 2]), ["class 2", "classes 0 to 1"]),
        ({"a": BOXES, "b": SCORES}, OBJECTS * [1, 1, -1, 1, 1], ["x1 <= x2"]),
        ({"a": BOXES, "b": SCORES}, OBJECTS + np.array([0, np.nan, 0, 0, 0]), ["nan"]),
    ],
)
def test_other_forms_are_refused_with_a_sentence(outputs: Any, objects: np.ndarray, facts: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Detection()(outputs, objects)
    assert all(fact in str(caught.value) for fact in facts) and "\n" not in str(caught.value)
