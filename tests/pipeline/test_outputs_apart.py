"""Outputs of several scales, and rare events: every channel keeps the signal that one grid or a clipped range would lose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress import deployment
from dyncompress.deployment.channels import channel_errors
from dyncompress.recipe.toml_files import load_recipe
from tests import tiny
from tests.deployment.graphs import graph, images, weight
from tests.running import session_of

TARGET = replace(dc.load_target(tiny.TARGET), kernel_times=None)  # every node that can computes on integers


class Head(nn.Module):
    """Features with a head that returns boxes in pixels and logits in one tensor, joined in one of several ways."""

    def __init__(self, join: str) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
            self.boxes, self.logits = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 3, 1)
            self.one = nn.Conv2d(16, 7, 1)
            self.flat = nn.Linear(16, 7)
        self.join = join
        with torch.no_grad():
            for part in (self.boxes.weight, self.one.weight[:4], self.flat.weight[:4]):
                part *= 300

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.b(self.a(x).relu()).relu()
        if self.join == "one convolution":
            return self.one(y)
        if self.join == "channels last":
            return self.one(y).permute(0, 2, 3, 1)
        if self.join == "rows of anchors":
            return self.one(y).flatten(2).transpose(1, 2)
        if self.join == "linear":
            return self.flat(y.mean((2, 3)))
        if self.join == "two outputs":
            return self.boxes(y), self.logits(y)
        if self.join == "sum":
            return self.one(y) + self.one(y.flip(3))
        if self.join == "concat of rows":
            return torch.cat([part.flatten(2).transpose(1, 2) for part in (self.boxes(y), self.logits(y))], 2)
        return torch.cat([self.boxes(y), self.logits(y)], 1)


JOINS = (
    "one convolution", "channels last", "rows of anchors", "linear", "two outputs", "sum", "concat of rows", "concat of channels",
)  # fmt: skip
X, NEW = (torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(n)) for n in (48, 24))


def ran(file: dc.OnnxFile, x: Tensor) -> list[np.ndarray]:
    session = session_of(file.body)
    return [np.asarray(out) for out in session.run(None, {session.get_inputs()[0].name: x.numpy()})]


def originals(model: nn.Module, x: Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        found = model(x)
    return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize(
    ("join", "recipe"), [*((join, "edge-int8") for join in JOINS), ("one convolution", "edge-int4"), ("linear", "edge-int4")]
)
def test_no_output_channel_is_lost_because_of_another_channels_scale(join: str, recipe: str) -> None:
    model = Head(join).eval()
    file = dc.compress(model, replace(load_recipe(recipe), mirrored=False), target=TARGET, calibration=X)
    for found, wanted, parity in zip(ran(file, NEW), originals(model, NEW), file.parity.outputs, strict=True):
        worst = max(float(entry.errors[entry.worst]) for entry in channel_errors(found, wanted))
        assert worst < (0.12 if recipe == "edge-int8" else 0.5)
        assert worst / 4 < parity.channel_error < 4 * worst, "the report names the worst channel's error"
        assert parity.lost == ()


def test_activations_that_stay_float_are_reported_and_similar_channels_stay_int8() -> None:
    model = Head("one convolution").eval()
    file = dc.compress(model, "edge-int8", target=TARGET, calibration=X)
    assert any("float, since with 8 bits the error of a channel would be too large" in note for note in file.notes)
    with torch.no_grad():
        model.one.weight[:4] /= 300
    alike = dc.compress(model, "edge-int8", target=TARGET, calibration=X)
    assert not any("float, since" in note for note in alike.notes) and alike.fused["Conv"] == (3, 3)
    assert file.fused["Conv"][0] < 3


def test_a_lost_channel_is_an_error() -> None:
    model = Head("one convolution").eval()
    assert model.b.bias is not None
    spec = replace(load_recipe("edge-int4"), weight_bits=(2,), layers=(), mirrored=False, sequential=False)
    with torch.no_grad():  # two inputs that cancel: at 2 bits their difference, which is the whole signal, is lost by rounding
        model.b.weight[1] = model.b.weight[0] * 1.001
        model.b.bias[1] = model.b.bias[0]
        model.one.weight[5:6] = 0
        model.one.weight[5, 0], model.one.weight[5, 1] = 1000.0, -1000.0 / 1.001
        model.b.weight[1, :, 1, 1] += 1e-4 * torch.randn(16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(dc.Differs, match=r"output '.*' has lost channel \d \(axis 1\)") as caught:
        dc.compress(model, spec, target=TARGET, calibration=X)
    assert caught.value.exit_code == 6


def test_inner_activations_stay_float_if_an_output_loses_its_signal() -> None:
    """One channel has the scale 10 000 and the others 1, and the next layer reads all: one grid rounds the others to zero."""
    nodes = [
        deployment_node("Conv", ["x", "w"], ["a"]),
        deployment_node("Conv", ["a", "v"], ["b"]),
        deployment_node("GlobalAveragePool", ["b"], ["p"]),
        deployment_node("Flatten", ["p"], ["y"]),
    ]
    w, v = weight(8, 3, 1, 1), weight(4, 8, 1, 1)
    w[0] *= 1e4
    v[:, 0] = 0
    file = graph(nodes, {"w": w, "v": v}, {"x": ["n", 3, 16, 16]}, {"y": ["n", 4]})
    x = images(64)
    target = TARGET
    encodings = {name: (nearest(array), "as_is") for name, array in (("w", w), ("v", v))}
    wanted = deployment.Session(file, target).run(x)
    written = deployment.integer_file(file, encodings, deployment.Calibration([x]), target, deployment.Comparison([x], wanted))
    assert "a" in written.floats or written.all_float
    (entry,) = channel_errors(written.outputs[0], wanted[0])
    assert entry.errors.max() < 0.2
    one_grid = deployment.write(file, encodings, deployment.ranges(file, [x]), target)
    (lost,) = channel_errors(deployment.Session(one_grid, target).run(x)[0], wanted[0])
    assert len(lost.lost), "with its grid the file would have been wrong"


def deployment_node(op: str, inputs: list[str], outputs: list[str]) -> object:
    from onnx import helper

    return helper.make_node(op, inputs, outputs)


def nearest(array: np.ndarray) -> object:
    from dyncompress.types import Encoding

    scale = (np.abs(array).reshape(len(array), -1).max(1) / 127).astype(np.float32)
    scale[scale == 0] = 1
    codes = np.rint(array / scale.reshape(-1, *[1] * (array.ndim - 1))).astype(np.int8)
    return Encoding(codes, scale, 8)


# ---------------------------------------------------------------- rare events
class Score(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.c, self.d, self.o = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.d(self.c(x).relu()).relu()).amax((2, 3))


def loud_everywhere(x: Tensor, by: float) -> Tensor:
    return x * by


def loud_in_a_corner(x: Tensor, by: float) -> Tensor:
    x = x.clone()
    x[:, :, :4, :4] *= by
    return x


@pytest.mark.parametrize("by", [2, 3, 30])
@pytest.mark.parametrize(
    ("event", "recipe"),
    [(loud_everywhere, "edge-int8"), (loud_in_a_corner, "edge-int8"), (loud_everywhere, "edge-int4")],
    ids=["everywhere", "in a corner", "at 4 bits"],
)
def test_rare_events_survive(event: Callable[[Tensor, float], Tensor], by: float, recipe: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, new = (torch.randn(n, 3, 16, 16, generator=generator) * 0.1 for n in (300, 40))
    x[:3], new[:10] = event(x[:3], by), event(new[:10], by)
    model = Score().eval()
    file = dc.compress(model, replace(load_recipe(recipe), mirrored=False), target=TARGET, calibration=x)
    (found,), (wanted,) = ran(file, new), originals(model, new)
    step = wanted[:10].mean() - wanted[10:].mean()
    kept = found[:10].mean() - found[10:].mean()
    assert abs(kept - step) < 0.2 * abs(step) + 0.25 * wanted[10:].std()


def test_a_share_of_one_clips_nothing_and_clipping_is_reported() -> None:
    x = torch.randn(200, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    model = Head("linear").eval()
    whole = dc.compress(model, replace(load_recipe("edge-int8"), activation_share=1.0), target=TARGET, calibration=x)
    assert not any("cut the largest values" in note for note in whole.notes)
    cut = dc.compress(model, replace(load_recipe("edge-int8"), activation_share=0.9), target=TARGET, calibration=x)
    notes = [note for note in cut.notes if "cut the largest values" in note]
    assert (cut.body == whole.body) != bool(notes)


def test_the_share_is_a_key_of_a_recipe() -> None:
    assert load_recipe("edge-int8", {"quantize.activation_share": 1.0}).activation_share == 1.0
    for wrong in (0.0, 0.3, 1.5):
        with pytest.raises(dc.InvalidRequest, match=r"quantize\.activation_share is"):
            load_recipe("edge-int8", {"quantize.activation_share": wrong})
