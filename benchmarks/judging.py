"""How files are judged: the scores of all images under onnxruntime, and what two sets of scores say about accuracy."""

from __future__ import annotations

import numpy as np

import dyncompress as dc
from dyncompress import deployment

TARGET = "onnxruntime-x86-vnni"


def outputs(file: bytes, x: np.ndarray) -> np.ndarray:
    """Scores of all images under onnxruntime."""
    return deployment.Session(file, dc.load_target(TARGET)).run({"x": x})[0]


def judged(scores: np.ndarray, reference: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Accuracy, its drop, agreement, all in per cent."""
    right, before = scores.argmax(1) == y, reference.argmax(1) == y
    drop = before.astype(float) - right
    half = 1.96 * drop.std() / np.sqrt(len(drop))
    return {
        "accuracy": 100 * right.mean(),
        "drop": 100 * drop.mean(),
        "drop_low": 100 * (drop.mean() - half),
        "drop_high": 100 * (drop.mean() + half),
        "agreement": 100 * (scores.argmax(1) == reference.argmax(1)).mean(),
    }


def float_onnx(model: object, calibration: np.ndarray) -> bytes:
    """The float32 file, exported and stripped as the library does."""
    from dyncompress.models.torch.model import open_model

    door = open_model(model, {"x": calibration[:2]})
    return door.to_onnx({"x": calibration[:2]})[0]
