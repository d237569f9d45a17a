"""Graphs whose examples aren't on the first axis everywhere: a state in and out, and a number that holds for all examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto

import dyncompress as dc
from dyncompress.types.batch_axes import batch_axes
from tests.models.onnx.odd_graphs import Made
from tests.running import session_of

TARGET = "onnxruntime-x86-vnni"
WIDTH = 16


def streaming(named: bool) -> ModelProto:
    """One step of an LSTM: inputs `x [n, 8]`, `state [2, n, 16]` and `rate []`; outputs `y [n, 5]` and the new state."""
    made = Made()
    made.node("Cast", ["rate"], "r", to=TensorProto.FLOAT)
    made.node("Mul", ["x", "r"], "scaled")
    made.node("MatMul", ["scaled", made.weight("a", 8, 8)], "b")
    made.node("Unsqueeze", ["b", made.tensor("zero", np.array([0]))], "time")
    made.node("Split", ["state", made.tensor("halves", np.array([1, 1]))], ["h", "c"], axis=0)
    matrices = {"W": (1, 4 * WIDTH, 8), "R": (1, 4 * WIDTH, WIDTH), "B": (1, 8 * WIDTH)}
    weights = [made.tensor(name, made.draw.normal(size=shape).astype(np.float32) / 4) for name, shape in matrices.items()]
    made.node("LSTM", ["time", *weights, "", "h", "c"], ["", "h2", "c2"], hidden_size=WIDTH)
    made.node("Concat", ["h2", "c2"], "stateN", axis=0)
    made.node("Squeeze", ["h2", "zero"], "last")
    made.node("MatMul", ["last", made.weight("m", WIDTH, 5)], "y")
    n = "n" if named else None
    inputs = {"x": [n, 8], "state": [2, n, WIDTH], "rate": []}
    return made.model(inputs, {"y": [n, 5], "stateN": [None, None, None]}, kinds={"rate": TensorProto.INT64})


def examples(n: int, seed: int) -> dict[str, np.ndarray]:
    """Inputs with the examples first, as the library takes them."""
    draw = np.random.default_rng(seed)
    state = 0.5 * draw.normal(size=(n, 2, WIDTH))
    return {"x": draw.normal(size=(n, 8)).astype(np.float32), "state": state.astype(np.float32), "rate": np.full(n, 2)}


def fed(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same as the file takes it."""
    return {"x": batch["x"], "state": np.ascontiguousarray(np.moveaxis(batch["state"], 0, 1)), "rate": np.array(2)}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("recipe", ["edge-int8", "edge-int4"])
def test_states_and_numbers_keep_their_place(named: bool, recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(streaming(named), path)
    file = dc.compress(path, recipe, target=TARGET, calibration=examples(64, 1))
    assert file.plan.share_left_alone["weights"] == 0
    before, after = onnxruntime.InferenceSession(path), session_of(file.body)
    assert [value.name for value in after.get_inputs()] == ["x", "state", "rate"]
    batch = examples(7, 2)
    for wanted, found in zip(before.run(None, fed(batch)), after.run(None, fed(batch)), strict=True):
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() < (0.05 if recipe == "edge-int8" else 0.5) * np.abs(wanted).max()


def test_a_state_is_carried_over_many_steps(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(streaming(True), path)
    body = dc.compress(path, "edge-int8", target=TARGET, calibration=examples(64, 1)).body
    sessions, states = (
        [session_of(b) for b in (path.read_bytes(), body)],
        [np.zeros((2, 1, WIDTH), np.float32)] * 2,
    )
    draw, errors, sizes = np.random.default_rng(3), [], []
    for _ in range(200):
        x, outputs = draw.normal(size=(1, 8)).astype(np.float32), []
        for index, session in enumerate(sessions):
            y, states[index] = session.run(None, {"x": x, "state": states[index], "rate": np.array(2)})
            outputs.append(y)
        errors.append(np.square(outputs[1] - outputs[0]).mean())
        sizes.append(np.square(outputs[0]).mean())
    assert np.sqrt(np.mean(errors) / np.mean(sizes)) < 0.05


def test_a_certificate_of_a_streaming_file_is_verified(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(streaming(True), path)
    batch = examples(300, 4)
    labels = onnxruntime.InferenceSession(path).run(None, fed(batch))[0].argmax(1)
    file = dc.compress(path, "edge-int8", target=TARGET, calibration=examples(64, 1), held_out={**batch, "y": labels})
    assert file.certificate is not None and file.certificate.n == 300
    assert dc.verify(file.save(tmp_path / "small.onnx"), held_out={**batch, "y": labels})


def test_the_axis_of_the_examples_is_the_one_of_that_name() -> None:
    assert batch_axes({"x": ["n", 3], "s": [2, "n"], "r": [], "t": ["m", "n"]}) == {"x": 0, "s": 1, "r": None, "t": 1}
    assert batch_axes({"r": [], "x": [4, 3], "s": [2, 4], "t": [4, 4]}) == {"r": None, "x": 0, "s": 1, "t": 0}
    assert batch_axes({"x": [1, 64, "w"], "y": ["steps", 1, 40], "z": [1, 1]}) == {"x": 0, "y": 1, "z": 0}
    assert batch_axes({}) == {}


@pytest.mark.parametrize("declared", [[1, "length"], ["steps", 1, 5], None])
def test_an_output_with_time_in_front_keeps_its_form(declared: list | None, tmp_path: Path) -> None:
    """A file for one example whose output is `[steps, 1, 5]`, declared so, not at all, or with another number of axes."""
    made = Made()
    made.node("Conv", ["x", made.weight("w", 12, 3, 3)], "a", pads=[1, 1])
    made.node("Relu", ["a"], "b")
    made.node("Transpose", ["b"], "c", perm=[2, 0, 1])
    made.node("MatMul", ["c", made.weight("m", 12, 5)], "y")
    model = made.model({"x": [1, 3, "width"]}, {"y": declared or [1, 1]})
    if declared is None:
        model.graph.output[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    x = np.random.default_rng(0).normal(size=(40, 3, 16)).astype(np.float32)
    file = dc.compress(path, "edge-int8", target=TARGET, calibration={"x": x})
    before, after = onnxruntime.InferenceSession(path), session_of(file.body)
    for width in (16, 24):
        one = np.random.default_rng(1).normal(size=(1, 3, width)).astype(np.float32)
        wanted, found = before.run(None, {"x": one})[0], after.run(None, {"x": one})[0]
        assert found.shape == wanted.shape == (width, 1, 5)
        assert np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)) < 0.03
