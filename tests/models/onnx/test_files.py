"""ONNX files that torch's exporters write are compressed like the modules that they were written from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import dyncompress as dc
from dyncompress.models.onnx.opening import open_model
from dyncompress.models.onnx.reading import read_file
from dyncompress.models.onnx.runtime import FileModule
from dyncompress.types import SetWeight
from tests import tiny
from tests.models.onnx.odd_graphs import GRAPHS, convolutional
from tests.running import session_of

X, Y = tiny.HELD_OUT


def exported(folder: Path, how: str) -> str:
    """The path of the trained network's file, by one of torch's exporters, with BatchNorm folded or not."""
    path, example = folder / f"{how}.onnx", (torch.from_numpy(X[:2]),)
    names = {"input_names": ["x"], "output_names": ["y"]}
    if how == "dynamo":
        shapes = ({0: torch.export.Dim("n")},)
        torch.onnx.export(tiny.network(), example, path, dynamic_shapes=shapes, external_data=False, verbose=False, **names)
    else:
        options = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False} if how == "unfolded" else {}
        axes = {"x": {0: "n"}, "y": {0: "n"}}
        torch.onnx.export(tiny.network(), example, path, dynamo=False, dynamic_axes=axes, opset_version=13, **names, **options)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, and people have its files
        return {how: exported(tmp_path_factory.mktemp(how), how) for how in ("traced", "unfolded", "dynamo")}


def accuracy(file: dc.OnnxFile) -> float:
    return float((session_of(file.body).run(None, {"x": X})[0].argmax(1) == Y).mean())


RECIPES = ("edge-int8", "edge-int4", "heavy-tail", "narrow", "sparse")
PAIRS = [(how, recipe) for how in ("traced", "unfolded", "dynamo") for recipe in RECIPES]


@pytest.mark.parametrize(
    ("how", "recipe"),
    [pytest.param(*pair, marks=[] if "dynamo" in pair or "edge-int8" in pair else pytest.mark.slow) for pair in PAIRS],
)
def test_a_file_gives_what_its_module_gives(files: dict[str, str], how: str, recipe: str) -> None:
    own = dc.compress(tiny.network(), recipe, target=tiny.TARGET, calibration=tiny.CALIBRATION)
    file = dc.compress(files[how], recipe, target=tiny.TARGET, calibration={"x": tiny.CALIBRATION})
    assert len(file.body) == pytest.approx(len(own.body), rel=0.01)
    assert accuracy(file) == pytest.approx(accuracy(own), abs=0.03)
    assert file.plan.share_left_alone == own.plan.share_left_alone


def test_a_trajectory_of_the_module_fits_a_file_with_its_names(files: dict[str, str]) -> None:
    file = dc.compress(
        files["unfolded"], "trajectory", target=tiny.TARGET, calibration={"x": tiny.CALIBRATION}, trajectory=tiny.trained()[1]
    )
    assert len(file.shipped) < 0.2 * file.float_bytes


def test_a_file_is_certified_and_verified(files: dict[str, str], tmp_path: Path) -> None:
    file = dc.compress(files["traced"], "edge-int8", target=tiny.TARGET, calibration=tiny.CALIBRATION, held_out=(X, Y))
    path = file.save(tmp_path / "small.onnx")
    assert file.certificate is not None and file.certificate.risk == "zero_one"
    assert dc.verify(path, held_out=(X, Y)).ok if hasattr(dc.verify(path), "ok") else dc.verify(path)


def test_names_axes_and_metadata_stay(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(GRAPHS["metadata"].model(), path)
    x = np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32)
    session = session_of(dc.compress(path, "edge-int8", target=tiny.TARGET, calibration=x).body)
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("x", ["n", 3, 8, 8])]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("y", ["n", 5])]
    assert session.get_modelmeta().custom_metadata_map == {"alphabet": "abc"}


def test_the_module_is_the_graph_and_an_edit_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(convolutional(), path)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = open_model(read_file(path), {"x": x})
    assert [layer.name for layer in model.layers()] == ["a", "c", "head"]
    torch.testing.assert_close(model.predict({"x": x})[0], model.original({"x": x})[0], rtol=1e-4, atol=1e-5)
    new = model.edited([SetWeight("head", torch.zeros(5, 24), torch.ones(5))])
    body, places = new.to_onnx()
    assert {place.initializer for group in places.values() for place in group} == {"a.weight", "c.weight", "head.weight"}
    assert np.array_equal(session_of(body).run(None, {"x": x.numpy()})[0], np.ones((4, 5), np.float32))
    assert not torch.equal(model.predict({"x": x})[0], new.predict({"x": x})[0])


def test_gradients_reach_every_layer(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(convolutional(), path)
    module = open_model(read_file(path), {"x": torch.randn(2, 3, 8, 8)}).module
    module.requires_grad_(True)
    module(torch.randn(2, 3, 8, 8)).square().sum().backward()
    weights = [part.weight for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(weights) == 3 and all(float(weight.grad.abs().sum()) > 0 for weight in weights)


def test_a_node_that_torch_computes_otherwise_is_left_to_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dyncompress.models.onnx.operators import FUNCTIONS

    path = tmp_path / "net.onnx"
    onnx.save(convolutional(), path)
    monkeypatch.setitem(FUNCTIONS[""], "Relu", {6: lambda _node, x: x.clamp_min(0.1)})  # type: ignore[index]
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = open_model(read_file(path), {"x": x})
    torch.testing.assert_close(model.predict({"x": x})[0], model.original({"x": x})[0], rtol=1e-4, atol=1e-5)
    assert any("2 nodes are computed by onnxruntime" in note and "Relu" in note for note in model.notes)


def test_the_reference_is_the_file_as_onnxruntime_runs_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(convolutional(), path)
    x = torch.randn(3, 3, 8, 8)
    wanted = onnxruntime.InferenceSession(path.read_bytes()).run(None, {"x": x.numpy()})[0]
    torch.testing.assert_close(FileModule(read_file(path))(x), torch.from_numpy(wanted), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- files that can't be read
def refused(path: Path, match: str) -> None:
    with pytest.raises(dc.DyncompressError, match=match) as caught:
        dc.compress(path, "edge-int8", target=tiny.TARGET, calibration=X[:32])
    assert "\n" not in str(caught.value)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.onnx", "there is no file")
    (tmp_path / "text.onnx").write_text("text")
    refused(tmp_path / "text.onnx", "is no ONNX file")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(tmp_path / "empty.onnx", "empty graph")
    (tmp_path / "net.tflite").write_bytes(b"")
    refused(tmp_path / "net.tflite", "give an .onnx, .pt2 or .pt file")


def test_external_data_are_read_from_the_files_folder_alone(tmp_path: Path) -> None:
    inside, model = tmp_path / "inside", convolutional()
    inside.mkdir()
    onnx.save(model, inside / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    file = dc.compress(inside / "net.onnx", "edge-int8", target=tiny.TARGET, calibration=X[:32])
    assert len(file.body) < file.float_bytes
    (inside / "weights.bin").rename(tmp_path / "weights.bin")
    refused(inside / "net.onnx", "keeps its values in")
    proto = onnx.load(inside / "net.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    onnx.save(proto, inside / "net.onnx")
    refused(inside / "net.onnx", "keeps its values in")


def test_two_gigabytes_of_external_data_are_refused_by_the_header(tmp_path: Path) -> None:
    """The file names more data than the folder holds; nothing of that size is allocated."""
    model = convolutional()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = [1 << 15, 1 << 14]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("length", str(1 << 31))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "weights.bin").write_bytes(b"0" * 16)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "net.onnx", "keeps its values in")


def test_an_invalid_graph_is_refused(tmp_path: Path) -> None:
    model = convolutional()
    model.graph.node[0].input[0] = "nowhere"
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "net.onnx", "isn't valid|can't load")


def test_an_input_of_another_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(convolutional(), path)
    with pytest.raises(dc.InvalidRequest, match="can't run on these inputs"):
        dc.compress(path, "edge-int8", target=tiny.TARGET, calibration=np.zeros((4, 5, 8, 8), np.float32))
    with pytest.raises(dc.InvalidRequest, match="'x' is missing"):
        dc.compress(path, "edge-int8", target=tiny.TARGET, calibration={"pixels": X[:4]})


def test_a_graph_whose_file_is_changed_has_another_digest(tmp_path: Path) -> None:
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    onnx.save(convolutional(), one)
    model = convolutional()
    model.graph.node[1].CopyFrom(helper.make_node("Sigmoid", list(model.graph.node[1].input), list(model.graph.node[1].output)))
    onnx.save(model, other)
    assert read_file(one).digest == read_file(one).digest != read_file(other).digest
