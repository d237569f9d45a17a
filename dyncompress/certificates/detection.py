"""The risk of a detector: one minus the F1 of its detections, image by image.

The outputs are recognized by their shapes:
    [n, k, 6]                                  x1, y1, x2, y2, score, class, in one output
    [n, k, 4] and [n, k]                       boxes, and scores of a single class 0
    [n, k, 4], [n, k] and [n, k]               boxes, scores and classes
    [n, k, 4] and [n, k, classes]              boxes and scores of every class, of which the largest counts
Where shapes leave a choice, an integer dtype means classes, then names decide ("box", "score", "class", "label"), then the order
(boxes, scores, classes). Outputs `[n]`, such as a number of detections, aren't read. Coordinates may have any unit, if the
labels have the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dyncompress.certificates.forms import refuse_nan
from dyncompress.errors import InvalidRequest
from dyncompress.types.arrays import Float64, Int64

FORMS = "[n, k, 6], or boxes [n, k, 4] with scores [n, k] (and classes [n, k]) or class scores [n, k, classes]"
PADDING = -1  # the class of rows that hold nothing


@dataclass(frozen=True)
class Detection:
    """1 - F1 of the detections of an image; 0 for an image without objects and without detections.

    Detections with a score of at least `score` are matched in the order of their scores: each takes the object of its class with
    the largest intersection over union (IoU) among those that are free, if that is at least `iou`.
    F1 = 2 matches / (detections + objects). Labels are `[n, m, 5]`: x1, y1, x2, y2, class; class -1 marks an empty row.

    Attributes:
        score: the least score of a detection that counts.
        iou: the least IoU of a match, in (0, 1].

    Example: one of two detections is right, and there is one object.
        >>> detections = np.array([[[0, 0, 2, 2, 0.9, 1], [5, 5, 6, 6, 0.8, 1]]])
        >>> Detection()({"out": detections}, np.array([[[0, 0, 2, 2, 1]]])).round(4).tolist()
        [0.3333]
    """

    score: float = 0.5
    iou: float = 0.5

    binary: ClassVar[bool] = False
    reads_all_outputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the options."""
        if not np.isfinite(self.score):
            raise InvalidRequest(f"detection: score is {self.score:g}; give the least score of a detection, e.g. 0.5.")
        if not 0 < self.iou <= 1:
            raise InvalidRequest(f"detection: iou is {self.iou:g}; give a number in (0, 1], e.g. 0.5.")

    @property
    def quantity(self) -> str:
        """What the mean of the losses is called."""
        return f"detection error (1 - F1 for each image, at IoU {self.iou:g} and scores of at least {self.score:g})"

    def __call__(self, outputs: np.ndarray | Mapping[str, np.ndarray], labels: np.ndarray) -> Float64[np.ndarray, " n"]:
        """The losses `[n]` of a detector's outputs, by name, or of its only output, under labels `[n, m, 5]`.

        Raises:
            InvalidRequest: outputs or labels have another form, or hold nan, infinite boxes, or classes of another kind.
        """
        by_name = outputs if isinstance(outputs, Mapping) else {"": outputs}
        boxes, scores, classes, known = _detections({name: np.asarray(value) for name, value in by_name.items()})
        objects = _objects(labels, len(boxes), known)
        counts = (classes > PADDING) & (scores >= self.score)
        matches = _matches(boxes, np.where(counts, scores, -np.inf), classes, objects, self.iou)
        total = counts.sum(axis=1) + (objects[..., 4] > PADDING).sum(axis=1)
        return np.where(total > 0, (total - 2 * matches) / np.maximum(total, 1), 0.0)


def intersection_over_union(
    one: Float64[np.ndarray, "*batch 4"], other: Float64[np.ndarray, "*batch 4"]
) -> Float64[np.ndarray, "*batch"]:
    """The IoU `[...]` of boxes `[..., 4]` (x1, y1, x2, y2); 0 where a box has no area.

    Example:
        >>> intersection_over_union(np.array([0.0, 0, 2, 1]), np.array([1.0, 0, 3, 1])).round(4).item()
        0.3333
    """
    low, high = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    areas = [np.maximum(box[..., 2:] - box[..., :2], 0).prod(axis=-1) for box in (one, other)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _matches(
    boxes: Float64[np.ndarray, "n k 4"],
    scores: Float64[np.ndarray, "n k"],
    classes: Int64[np.ndarray, "n k"],
    objects: Float64[np.ndarray, "n m 5"],
    least: float,
) -> Int64[np.ndarray, " n"]:
    """The number of matches `[n]`; detections with score -inf don't count. All images take their next detection at once."""
    matches = np.zeros(len(boxes), np.int64)
    order = np.argsort(-scores, axis=1, kind="stable")
    detections = (scores > -np.inf).sum(axis=1)
    free = objects[..., 4] > PADDING
    for rank in range(int(detections.max(initial=0)) if objects.shape[1] else 0):
        images = np.flatnonzero((detections > rank) & free.any(axis=1))
        rows = order[images, rank]
        near = intersection_over_union(
            np.broadcast_to(boxes[images, rows][:, None], (len(images), objects.shape[1], 4)), objects[images, :, :4]
        )
        fitting = free[images] & (objects[images, :, 4] == classes[images, rows][:, None])
        near = np.where(fitting, near, -1.0)
        best = near.argmax(axis=1)
        hit = near[np.arange(len(images)), best] >= least
        free[images[hit], best[hit]] = False
        matches[images[hit]] += 1
    return matches


def _detections(outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Boxes `[n, k, 4]`, scores `[n, k]`, classes `[n, k]`, and the number of classes (0: not known from the form).

    Raises:
        InvalidRequest: the outputs have no form that is read, or hold nan or infinite boxes.
    """
    parts = {name: value for name, value in outputs.items() if value.ndim > 1}
    if len(parts) == 1 and (only := next(iter(parts.values()))).ndim == 3 and only.shape[2] == 6:
        boxes, scores, classes, known = only[..., :4], only[..., 4], only[..., 5], 0
    else:
        boxes, scores, classes, known = _separate(parts, outputs)
    for values in (boxes, scores, classes):
        refuse_nan(values)
    boxes = boxes.astype(np.float64)
    if not (np.isfinite(boxes).all() and np.isfinite(classes).all()):
        raise InvalidRequest("a box or class of the outputs is infinite; detection takes finite ones: check the model's outputs.")
    return boxes, scores.astype(np.float64), np.rint(classes).astype(np.int64), known


def _separate(parts: dict[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Boxes, scores and classes in separate outputs, and the number of classes (0: not known)."""
    shapes = {value.shape[:2] for value in parts.values()}
    fitting = [name for name, value in parts.items() if value.ndim == 3 and value.shape[2] == 4]
    boxes = next((name for name in fitting if "box" in name.lower()), fitting[0] if fitting else None)
    rest = {name: value for name, value in parts.items() if name != boxes}
    axes = sorted(value.ndim for value in rest.values())
    readable = axes in ([2], [2, 2], [3]) and any(value.dtype.kind == "f" for value in rest.values())
    if boxes is None or len(shapes) > 1 or not readable or (axes == [3] and not all(value.shape[2] for value in rest.values())):
        found = ", ".join(f"'{name}' {list(value.shape)}" if name else str(list(value.shape)) for name, value in outputs.items())
        raise InvalidRequest(f"the outputs are {found}; detection takes {FORMS}.")
    if axes == [3]:
        (table,) = rest.values()
        return parts[boxes], table.max(axis=2), table.argmax(axis=2), table.shape[2]
    if axes == [2]:
        (scores,) = rest.values()
        return parts[boxes], scores, np.zeros(scores.shape, np.int64), 1
    classes = _classes(rest)
    scores = next(value for name, value in rest.items() if name != classes)
    return parts[boxes], scores, rest[classes], 0


def _classes(parts: Mapping[str, np.ndarray]) -> str:
    """Which of two outputs `[n, k]` holds the classes: the one of integers, else by name, else the second."""
    whole = [name for name, value in parts.items() if value.dtype.kind in "iu"]
    if len(whole) == 1:
        return whole[0]
    surely = [name for name in parts if any(word in name.lower() for word in ("score", "conf", "prob"))]
    maybe = [name for name in parts if not any(word in name.lower() for word in ("class", "label"))]
    scores = (surely or maybe or list(parts))[0]
    return next(name for name in parts if name != scores)


def _objects(labels: np.ndarray, n: int, classes: int) -> Float64[np.ndarray, "n m 5"]:
    """The labels `[n, m, 5]` as float64, checked; `classes` is the model's number of classes, 0: not known.

    Raises:
        InvalidRequest: another shape, values that aren't finite, classes that aren't integers from -1 or not the model's, or a
            box whose corners are in another order.
    """
    labels = np.asarray(labels)
    if labels.ndim != 3 or len(labels) != n or labels.shape[2] != 5 or labels.dtype.kind not in "fiu":
        raise InvalidRequest(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; detection takes x1, y1, x2, y2, class of shape "
            f"[{n}, m, 5], unused rows with class -1."
        )
    labels = labels.astype(np.float64)
    kind = labels[..., 4]
    real = labels[kind != PADDING]
    if not np.isfinite(real).all():
        raise InvalidRequest("the labels contain nan or infinity; detection takes finite boxes and classes.")
    if ((real[:, 4] < 0) | (real[:, 4] != np.rint(real[:, 4]))).any():
        wrong = real[(real[:, 4] < 0) | (real[:, 4] != np.rint(real[:, 4])), 4][0]
        raise InvalidRequest(f"a label has the class {wrong:g}; detection takes class indices from 0, and -1 for unused rows.")
    if (real[:, 2:4] < real[:, :2]).any():
        wrong = real[(real[:, 2:4] < real[:, :2]).any(axis=1)][0, :4].tolist()
        raise InvalidRequest(f"a label has the box {wrong}; detection takes x1, y1, x2, y2 with x1 <= x2 and y1 <= y2.")
    if classes and real.size and real[:, 4].max() >= classes:
        raise InvalidRequest(f"labels reach to class {real[:, 4].max():g}, the model has classes 0 to {classes - 1}.")
    return np.where((kind == PADDING)[..., None], float(PADDING), labels)
