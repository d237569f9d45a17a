"""The gallery's driver: runs of fixed and free batch sizes, states, intervals, failures, stored files, times and tables."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("PIL")

from benchmarks import cells, gallery, gallery_libraries, gallery_peers, gallery_tables
from benchmarks.frontier_data import NotHereError
from benchmarks.gallery_peers import NotNeededError, PeerError, PeerProcess, calls_of
from benchmarks.gallery_row import Row, Run


def dense(batch: int | str = "n", opset: int = 17) -> bytes:
    """`y = x A + b`, from `x [batch, 8]` to `y [batch, 4]`."""
    draw = np.random.default_rng(0)
    weights = [draw.normal(size=(8, 4)).astype(np.float32), draw.normal(size=4).astype(np.float32)]
    named = [numpy_helper.from_array(value, name) for value, name in zip(weights, ("A", "b"), strict=True)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, size]) for name, size in (("x", 8), ("y", 4))]
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "A", "b"], ["y"])], "g", values[:1], values[1:], named)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def streaming() -> bytes:
    """`y = x r`, `next = state + 1` with a state `[2, n, 3]` and a number r."""
    info, one = helper.make_tensor_value_info, numpy_helper.from_array(np.float32(1), "one")
    inputs = [
        info("x", TensorProto.FLOAT, ["n", 4]),
        info("state", TensorProto.FLOAT, [2, "n", 3]),
        info("r", TensorProto.FLOAT, []),
    ]
    outputs = [info("y", TensorProto.FLOAT, ["n", 4]), info("next", TensorProto.FLOAT, [2, "n", 3])]
    nodes = [helper.make_node("Mul", ["x", "r"], ["y"]), helper.make_node("Add", ["state", "one"], ["next"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [one])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def examples(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)


def row(content: bytes) -> Row:
    """A row whose labels are the float file's own classes, except for one example in five."""
    x = examples(50, 1)
    labels = gallery_peers.session_of(content).run(None, {"x": x})[0].argmax(1)
    labels[::5] = (labels[::5] + 1) % 4

    def judge(run: Run) -> np.ndarray:
        return (run({"x": x})[0].argmax(1) == labels).astype(float)

    calibration, example = {"x": examples(40, 2)}, {"x": x[:1]}
    return Row("dense", "vectors", "this test", "classes", lambda: content, lambda: calibration, judge, lambda: example)


# ---------------------------------------------------------------- inputs and runs
@pytest.mark.parametrize(("batch", "calls", "size"), [("n", 10, 1), (1, 10, 1), (4, 2, 4)])
def test_peers_get_the_examples_as_the_file_takes_them(batch: int | str, calls: int, size: int) -> None:
    found = calls_of(dense(batch), {"x": examples(10)})
    assert [call["x"].shape for call in found] == [(size, 8)] * calls
    assert np.array_equal(np.concatenate([call["x"] for call in found]), examples(10)[: calls * size])


def test_states_and_numbers_of_a_call_are_in_their_place() -> None:
    state = np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)
    batch = {"x": np.ones((5, 4), np.float32), "state": state, "r": np.full(5, 2, np.float32)}
    found = calls_of(streaming(), [batch, batch])
    assert len(found) == 10
    assert found[3]["state"].shape == (2, 1, 3)
    assert np.array_equal(found[3]["state"][:, 0], state[3])
    assert found[3]["r"].shape == ()
    outputs = gallery_peers.session_of(streaming()).run(None, found[3])
    assert np.array_equal(outputs[1], found[3]["state"] + 1)


@pytest.mark.parametrize("batch", ["n", 1, 7])
def test_a_judge_gets_the_outputs_of_all_examples(batch: int | str) -> None:
    x = examples(gallery.CHUNK + 3)
    expected = gallery_peers.session_of(dense()).run(None, {"x": x})[0]
    with gallery_peers.running({".onnx": dense(batch)}) as once:
        (found,) = gallery.judged_run(dense(batch), once)({"x": x})
    assert np.allclose(found, expected, atol=1e-5)


def test_a_file_with_a_state_gets_what_the_judge_gives() -> None:
    inputs = {"x": np.ones((70, 4), np.float32), "state": np.zeros((2, 70, 3), np.float32), "r": np.array(2, np.float32)}
    with gallery_peers.running({".onnx": streaming()}) as once:
        y, after = gallery.judged_run(streaming(), once)(inputs)
    assert y.shape == (70, 4)
    assert after.shape == (2, 70, 3)
    assert (y == 2).all()


# ---------------------------------------------------------------- numbers
def test_the_interval_is_that_of_a_t_distribution() -> None:
    low, high = gallery.interval(np.array([0.0, 1.0, 2.0]))
    assert (low + high) / 2 == pytest.approx(1)
    assert (high - low) / 2 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert np.isnan(gallery.interval(np.ones(1))).all()


def test_the_largest_relative_difference_of_the_outputs_counts() -> None:
    before = [[np.array([3.0]), np.array([[1.0]])], [np.array([4.0]), np.array([[1.0]])]]
    after = [[np.array([3.0]), np.array([[1.5]])], [np.array([4.5]), np.array([[1.5]])]]
    assert gallery.relative_difference(before, after) == pytest.approx(0.5)
    assert gallery.relative_difference(before, before) == 0
    assert gallery.relative_difference([[np.zeros(2)]], [[np.ones(2)]]) == np.inf


# ---------------------------------------------------------------- tools
@pytest.mark.parametrize("tool", ["onnxruntime static", "onnxruntime static, per tensor", "onnxruntime dynamic"])
def test_onnxruntimes_quantizers_make_smaller_errors_than_outputs(tool: str, tmp_path: Path) -> None:
    cell = gallery.cell_of(row(dense()), tool, tmp_path)
    assert cell["verdict"] == "ok", cell
    assert 0 < cell["relative_difference"] < 0.1
    assert cell["interval"][0] <= cell["mean"] <= cell["interval"][1]
    assert cell["difference"] == pytest.approx(cell["mean"] - 0.8)
    assert gallery.digest_of(gallery.stored(tmp_path, row(dense()), tool)) == cell["sha256"]


def test_ours_has_a_certificate_where_the_row_has_held_out_examples(tmp_path: Path) -> None:
    x = examples(300, 5)
    labels = gallery_peers.session_of(dense()).run(None, {"x": x})[0].argmax(1)
    certified = replace(row(dense()), held_out=lambda: ({"x": x}, labels), risk="zero_one")
    cell = gallery.cell_of(certified, gallery.OURS, tmp_path)
    assert cell["verdict"] == "ok", cell
    assert 0 < cell["upper"] < 0.1
    assert "confidence 95 %" in cell["certificate"]
    assert 0 <= cell["left_alone"] <= 1
    refused = gallery.cell_of(replace(certified, risk="no such risk"), gallery.OURS, tmp_path)
    assert refused["verdict"] == "ok"
    assert "no such risk" in refused["certificate_error"]
    assert gallery_tables.certificate_text(refused).startswith("none: ")


def test_the_opset_is_raised_only_where_it_is_too_old(tmp_path: Path) -> None:
    with pytest.raises(NotNeededError, match="17"):
        gallery_peers.onnxruntime_static_raised(dense(), [])
    assert gallery.cell_of(row(dense()), "onnxruntime static, opset raised", tmp_path)["verdict"] == "not needed"
    cell = gallery.cell_of(row(dense(opset=11)), "onnxruntime static, opset raised", tmp_path / "old")
    assert cell["verdict"] == "ok", cell
    made = onnx.load_from_string(gallery.stored(tmp_path / "old", row(dense()), "onnxruntime static, opset raised")[".onnx"])
    assert gallery_peers.opset_of(made) >= gallery_peers.RAISED


def test_a_failure_is_a_cell_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(content: bytes, calls: object) -> object:
        raise ValueError("first line\nsecond line")

    gallery.store(tmp_path, row(dense()), "NNCF", {".onnx": b"old"})
    monkeypatch.setattr(gallery, "PEERS", {"NNCF": fails})
    cell = gallery.cell_of(row(dense()), "NNCF", tmp_path)
    assert (cell["verdict"], cell["error"]) == ("failed", "ValueError: first line")
    assert not gallery.stored(tmp_path, row(dense()), "NNCF")
    assert "failed: ValueError: first line" in gallery_tables.table({"dense | NNCF": cell})


def test_tools_without_their_interpreter_are_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(gallery_peers.PEERS_PYTHON, raising=False)
    with pytest.raises(NotHereError, match=gallery_peers.PEERS_PYTHON):
        gallery.cell_of(row(dense()), "OpenVINO", tmp_path)


# ---------------------------------------------------------------- the other interpreter
def test_errors_of_another_interpreter_arrive_and_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gallery_peers.PEERS_PYTHON, sys.executable)
    with PeerProcess() as process:
        for _ in range(2):
            with pytest.raises(PeerError, match="KeyError"):
                process.ask("run", name="absent", call={})


def test_an_interpreter_that_ends_or_does_not_answer_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gallery_peers.PEERS_PYTHON, sys.executable)
    monkeypatch.setattr(gallery_peers, "LIMIT", 0.05)
    with PeerProcess() as process, pytest.raises(PeerError, match="ended"):
        process.ask("seconds_of_run", name="absent", call={"x": np.zeros(1)})


# ---------------------------------------------------------------- cells, times and tables
def test_files_are_timed_that_are_those_of_their_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "ROUND_SECONDS", 0.01)
    model, path, folder = row(dense()), tmp_path / "gallery.json", tmp_path / "files"
    for tool in (gallery.FLOAT, "onnxruntime static", "onnxruntime dynamic"):
        cells.put(path, gallery.key_of(model, tool), gallery.cell_of(model, tool, folder), [])
    gallery.store(folder, model, "onnxruntime dynamic", {".onnx": dense()})
    times = dict(gallery.timed(model, folder, path))
    assert set(times) == {gallery.FLOAT, "onnxruntime static"}
    assert times[gallery.FLOAT]["times_ratio"] == 1
    assert all(cell["milliseconds"] > 0 and cell["rounds"] >= gallery.ROUNDS[0] for cell in times.values())


def test_a_cell_from_another_float_file_is_made_again(tmp_path: Path) -> None:
    model, path, tool = row(dense()), tmp_path / "gallery.json", "onnxruntime dynamic"
    key = gallery.key_of(model, tool)
    assert gallery.missing(model, key, path)
    cells.put(path, key, {"float_sha256": "a"}, [])
    assert not gallery.missing(model, key, path)
    cells.put(path, gallery.key_of(model, gallery.FLOAT), {"float_sha256": "b"}, [])
    assert gallery.missing(model, key, path)


def test_the_table_has_a_line_for_each_cell_that_is_needed() -> None:
    cell = {"verdict": "ok", "bytes": 250, "bytes_ratio": 0.25, "mean": 0.8, "difference_interval": [-0.01, 0.02], "units": 50}
    cell |= {"relative_difference": 0.0123, "seconds": 3.2, "cpu_seconds": 2.9, "milliseconds": 1.234, "times_ratio": 0.5}
    first = {key: value for key, value in cell.items() if key not in ("seconds", "cpu_seconds", "times_ratio")}
    first |= {"made_by": "this test", "opset": 17, "metric": "classes"}
    ours = {**cell, "left_alone": 0.125, "quantity": "risk increase", "upper": 0.0043}
    found = {"a | float": first, "a | edge-int8": ours, "a | NNCF": {**cell, "verdict": "not needed"}}
    lines = gallery_tables.table(found).splitlines()
    assert len(lines) == 4
    assert lines[2] == "| a | float | 250 | 80.00 % | - | 1.23 | - | - | - |"
    expected = "| a | `edge-int8` | 250 (0.25x) | 80.00 % [-1.00, +2.00] | 1.2 % | 1.23 (0.50x) | 12.5 % | 3 (3) | risk increase"
    assert lines[3] == expected + " at most 0.0043 |"
    assert gallery_tables.models(found).splitlines()[2:] == ["| a | this test | 17 | classes | 50 |"]


def test_names_of_rows_are_unique_and_fit_into_keys() -> None:
    names = [row.name for row in gallery.ROWS]
    assert len(names) == len(set(names))
    assert all(name == name.lower() and "|" not in name and "/" not in name for name in names)


def test_splits_of_digits_have_no_example_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def numbered(split: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = 0 if split == "train" else 50_000
        values = torch.arange(start, start + n)
        return values.float().reshape(n, 1, 1, 1), values

    monkeypatch.setattr(gallery_libraries, "mnist", numbered)
    gallery_libraries.digits.cache_clear()
    splits = {name: set(gallery_libraries.digits(name)[1].tolist()) for name in ("training", "calibration", "test", "held_out")}
    gallery_libraries.digits.cache_clear()
    assert splits["calibration"] <= splits["training"]
    assert len(splits["training"] | splits["test"] | splits["held_out"]) == sum(
        getattr(gallery_libraries, name) for name in ("TRAINING", "TEST", "HELD_OUT")
    )
