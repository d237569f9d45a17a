"""Axes of any length: free if the data have several lengths or the user names them, otherwise refused with one sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.cli import main
from dyncompress.deployment.session import concatenate_batches
from tests.running import session_of
from tests.traits import sequences
from tests.traits.subject import Subject, randn, seeded

TARGET = "onnxruntime-x86-vnni"
SEVERAL = {name: subject for name, subject in sequences.SUBJECTS.items() if name.startswith("several")}


def shapes(file: dc.OnnxFile) -> list[list[object]]:
    return [value.shape for value in session_of(file.body).get_inputs()]


def off_by(file: dc.OnnxFile, model: nn.Module, inputs: dict[str, Tensor]) -> float:
    found = session_of(file.body).run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    with torch.no_grad():
        wanted = model(**inputs).numpy()
    assert found.shape == wanted.shape
    return float(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))


@pytest.mark.parametrize("recipe", ["edge-int8", pytest.param("edge-int4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SEVERAL)
def test_data_of_several_lengths_make_the_axis_free(name: str, recipe: str) -> None:
    subject: Subject = SEVERAL[name]
    model = subject.model()
    file = dc.compress(model, recipe, target=TARGET, calibration=subject.data())
    assert subject.fresh is not None
    assert file.parity.unit == ("positions" if file.parity.n > sum(map(len, subject.data())) else "examples")
    assert off_by(file, model, subject.fresh()) < 0.06, "on a length that the calibration data don't have"
    assert shapes(file)[0][0] == "batch" and any(isinstance(size, str) for size in shapes(file)[0][1:])


def test_an_axis_that_the_user_names_is_free_and_is_tested_on_another_length() -> None:
    model, x = seeded(sequences.Lines)(), randn(64, 4, 24)
    fixed = dc.compress(model, "edge-int8", target=TARGET, calibration=x)
    free = dc.compress(model, "edge-int8", target=TARGET, calibration=x, free_axes={"x": [2]})
    assert shapes(fixed) == [["batch", 4, 24]] and shapes(free) == [["batch", 4, "x_2"]]
    assert off_by(free, model, {"x": randn(3, 4, 41)}) < 0.06
    small = dc.apply(model, free.plan, calibration=x, free_axes={"x": [2]})
    assert shapes(dc.export(small)) == [["batch", 4, "x_2"]]


class Flattened(nn.Module):
    """A model with a fixed length."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o = nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8 * 24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.c(x).relu().flatten(1))


@pytest.mark.parametrize(
    ("free_axes", "message"),
    [
        ({"x": [2]}, r"doesn't run on inputs of another length \('x' \[2, 4, 18\]"),
        ({"x": [0]}, r"axes 1 to 2 behind the batch axis, and 0 isn't one of them"),
        ({"x": [3]}, r"and 3 isn't one of them"),
        ({"y": [1]}, r"no input 'y'"),
    ],
)
def test_an_axis_that_cannot_be_free_is_refused_with_a_sentence(free_axes: dict[str, list[int]], message: str) -> None:
    with pytest.raises(dc.DyncompressError, match=message):
        dc.compress(seeded(Flattened)(), "edge-int8", target=TARGET, calibration=randn(64, 4, 24), free_axes=free_axes)


def test_lengths_that_the_model_does_not_accept_are_refused_with_the_batch() -> None:
    data = [randn(16, 4, 24), randn(16, 4, 20)]
    with pytest.raises(dc.InvalidRequest, match=r"batch 1: input 'x' has shape \(4, 20\).*doesn't take both"):
        dc.compress(seeded(Flattened)(), "edge-int8", target=TARGET, calibration=data)


def test_held_out_examples_may_have_another_length_along_a_free_axis() -> None:
    model, data = seeded(sequences.Lines)(), [randn(32, 4, 24), randn(32, 4, 30)]
    x = randn(400, 4, 27, seed=5)
    with torch.no_grad():
        y = model(x).argmax(1)
    file = dc.compress(model, "edge-int8", target=TARGET, calibration=data, held_out=(x, y))
    assert file.certificate is not None
    with pytest.raises(dc.InvalidRequest, match="prepare both alike"):
        dc.compress(model, "edge-int8", target=TARGET, calibration=data, held_out=(x[:, :3], y))


def test_positions_along_uneven_axes_count_as_examples_and_channels_stay_channels() -> None:
    a, b = np.arange(24.0).reshape(2, 4, 3), np.arange(40.0).reshape(2, 4, 5)
    both = concatenate_batches([a, b])
    assert both.shape == (2 * 3 + 2 * 5, 4)
    np.testing.assert_array_equal(both[:3], a[0].T)
    np.testing.assert_array_equal(both[-5:], b[1].T)
    assert concatenate_batches([a, a]).shape == (4, 4, 3)
    with pytest.raises(dc.Unsupported, match="more axes"):
        concatenate_batches([a, a[0]])


def test_the_command_line_accepts_free_axes(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build():\n    torch.manual_seed(0)\n"
        "    layers = nn.Conv1d(4, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 5)\n"
        "    return nn.Sequential(*layers).eval()\n"
    )
    np.savez(tmp_path / "x.npz", x=randn(32, 4, 20).numpy())
    words = ["compress", f"{tmp_path}/net.py:build", "--calibration", str(tmp_path / "x.npz"), "--out", str(tmp_path / "out")]
    assert main([*words, "--free-axes", "x=two"]) == 2
    assert "INPUT=AXIS" in capsys.readouterr().err
    assert main([*words, "--free-axes", "input=2", "--quiet"]) == 0
    session = session_of((tmp_path / "out" / "model.onnx").read_bytes())
    assert session.get_inputs()[0].shape == ["batch", 4, "input_2"]
    assert session.run(None, {"input": np.zeros((2, 4, 33), np.float32)})[0].shape == (2, 5)


class Shown(nn.Module):
    """Accepts any length, but its exported graph fixes the length of the example."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o = nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        length = int(x.shape[2])
        places = [self.c(x)[..., i] for i in range(length)]
        return self.o(torch.stack(places).relu().mean(0))


def test_a_graph_that_fixes_a_free_axis_is_refused_with_a_sentence() -> None:
    with pytest.raises(dc.Unsupported, match=r"one length along axes \[2\] of input 'x', which have to take any length"):
        dc.compress(seeded(Shown)(), "edge-int8", target=TARGET, calibration=randn(64, 4, 12), free_axes={"x": [2]})


def test_inputs_of_different_lengths_are_cut_to_one_length_for_a_single_batch() -> None:
    model = seeded(lambda: sequences.Recurrent(nn.GRU))()
    data = [randn(1, 5 + i % 9, 8, seed=i) for i in range(24)]
    for recipe in ("edge-int8", "edge-int4"):
        file = dc.compress(model, recipe, target=TARGET, calibration=data)
        assert off_by(file, model, {"x": randn(3, 17, 8)}) < 0.06


class Resized(nn.Module):
    """Passes the output size to a transposed convolution, which the exported graph fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.d, self.u = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.d(x).relu(), output_size=x.shape[-2:])


def test_outputs_whose_size_differs_from_the_models_are_refused() -> None:
    data = [randn(8, 3, 13, 17), randn(8, 3, 22, 20)]
    with pytest.raises(dc.Unsupported, match=r"outputs.*the model that came in has"):
        dc.compress(seeded(Resized)(), "edge-int8", target=TARGET, calibration=data)
