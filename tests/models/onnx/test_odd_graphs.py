"""Odd ONNX graphs are compressed, or left alone with a reason, or refused in a sentence; never a crash, never a wrong output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import dyncompress as dc
from tests.models.onnx.odd_graphs import GRAPHS, Odd
from tests.running import session_of

TARGET = "onnxruntime-x86-vnni"
NEAR = 0.06  # largest root mean square difference of an int8 file from the model, untrained


def data(odd: Odd, n: int, seed: int, size: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        name: draw.integers(0, 30, (size or n, *shape))
        if name == "tokens"
        else draw.normal(size=(size or n, *shape)).astype(np.float32)
        for name, shape in odd.shapes.items()
    }


def run(body: bytes, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = session_of(body)
    kinds = {"tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(int64)": np.int64}
    sizes = [value.shape[0] if value.shape else None for value in session.get_inputs()]
    size = sizes[0] if isinstance(sizes[0], int) and sizes[0] > 0 else len(next(iter(inputs.values())))
    parts = []
    for start in range(0, len(next(iter(inputs.values()))), size):
        piece = {v.name: inputs[v.name][start : start + size].astype(kinds[v.type]) for v in session.get_inputs()}
        parts.append(session.run(None, piece))
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


@pytest.mark.parametrize(
    "recipe", ["edge-int8", pytest.param("edge-int4", marks=pytest.mark.slow), pytest.param("narrow", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", GRAPHS)
def test_the_file_computes_what_the_graph_computes(name: str, recipe: str, tmp_path: Path) -> None:
    odd, path = GRAPHS[name], tmp_path / "net.onnx"
    onnx.save(odd.model(), path)
    if odd.refused:
        with pytest.raises(dc.DyncompressError, match=odd.refused) as caught:
            dc.compress(str(path), recipe, target=TARGET, calibration=data(odd, 64, 1))
        assert "\n" not in str(caught.value)
        return
    file = dc.compress(str(path), recipe, target=TARGET, calibration=data(odd, 64, 1))
    fresh = data(odd, 16, 2)
    wanted, found = run(path.read_bytes(), fresh), run(file.body, fresh)
    assert [value.shape for value in found] == [value.shape for value in wanted]
    first, other = (values[0].astype(np.float64) for values in (found, wanted))
    if recipe == "edge-int8":
        assert np.sqrt(np.mean((first - other) ** 2) / np.mean(other**2)) < NEAR
    share = file.plan.share_left_alone["weights"]
    assert share == 1 or not odd.kept
    names = {value.name for value in onnx.load(path).graph.input} - {t.name for t in onnx.load(path).graph.initializer}
    assert {value.name for value in session_of(file.body).get_inputs()} == names
