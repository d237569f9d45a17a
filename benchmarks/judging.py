"""Evaluate files: the scores of all images under onnxruntime, and the accuracies of two sets of scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import dyncompress as dc
from dyncompress import deployment

RESULTS = Path(__file__).with_name("results")
TARGET = "onnxruntime-x86-vnni"


def outputs(file: bytes, x: np.ndarray) -> np.ndarray:
    """The scores of all images under onnxruntime."""
    return deployment.Session(file, dc.load_target(TARGET)).run({"x": x})[0]


def judged(scores: np.ndarray, reference: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The accuracy, its drop with a paired 95 % interval, and the agreement with the reference, all in per cent."""
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
    """The float32 ONNX file, exported and stripped in the same way as by the library."""
    from dyncompress.models.torch.opening import open_model

    opened = open_model(model, {"x": calibration[:2]})
    return opened.to_onnx({"x": calibration[:2]})[0]
