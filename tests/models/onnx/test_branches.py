"""Layers of a branch that no example takes are compressed by their weights alone, and the branch computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper

import dyncompress as dc
from tests.models.onnx.odd_graphs import Made
from tests.running import session_of

TARGET = "onnxruntime-x86-vnni"
HIDDEN = 24


def branch(seed: int) -> GraphProto:
    """A convolution, and an LSTM over its positions."""
    made = Made(seed)
    made.node("Conv", ["x", made.weight("w", 24, 8, 3)], "c", pads=[1, 1])
    made.node("Transpose", ["c"], "steps", perm=[2, 0, 1])
    weights = [made.tensor(name, value) for name, value in recurrent(made).items()]
    made.nodes.append(helper.make_node("LSTM", ["steps", *weights], ["", "h"], hidden_size=HIDDEN))
    made.node("Squeeze", ["h", made.tensor("first", np.array([0]))], "out")
    return made.graph({}, {"out": [None, HIDDEN]})


def recurrent(made: Made) -> dict[str, np.ndarray]:
    shapes = {"W": (1, 4 * HIDDEN, 24), "R": (1, 4 * HIDDEN, HIDDEN), "B": (1, 8 * HIDDEN)}
    return {name: made.draw.normal(size=shape).astype(np.float32) / 5 for name, shape in shapes.items()}


def by_rate() -> ModelProto:
    """Each sample rate has a branch of its own."""
    made = Made()
    made.node("Equal", ["rate", made.tensor("high", np.int64(16000))], "is_high")
    made.node("If", ["is_high"], "a", then_branch=branch(1), else_branch=branch(2))
    made.node("MatMul", ["a", made.weight("m", HIDDEN, 5)], "y")
    return made.model({"x": ["n", 8, 12], "rate": []}, {"y": ["n", 5]}, kinds={"rate": TensorProto.INT64})


def examples(n: int, rate: int, seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(n, 8, 12)).astype(np.float32), "rate": np.full(n, rate)}


# At 4 bits the error is that of the layer behind the branches.
@pytest.mark.parametrize(("recipe", "limit"), [("edge-int8", 0.03), ("edge-int4", 0.12)])
def test_the_branch_that_no_example_takes_keeps_its_results(recipe: str, limit: float, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(by_rate(), path)
    file = dc.compress(path, recipe, target=TARGET, calibration=examples(128, 16000, 1))
    assert file.plan.share_left_alone["weights"] == 0
    assert any("in branches that the first examples don't take" in note for note in file.notes)
    before, after = onnxruntime.InferenceSession(path), session_of(file.body)
    errors = {}
    for rate in (16000, 8000):
        inputs = {"x": examples(64, rate, 2)["x"], "rate": np.array(rate)}
        wanted, found = before.run(None, inputs)[0], after.run(None, inputs)[0]
        errors[rate] = float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))
    assert errors[8000] < limit, errors
    assert len(file.body) < 0.5 * path.stat().st_size
