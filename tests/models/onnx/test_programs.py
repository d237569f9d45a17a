"""Programs that torch exported before are compressed like the network that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.models import load
from tests.running import session_of

TARGET = "onnxruntime-x86-vnni"
DRAW = np.random.default_rng(0)
CALIBRATION = {
    "pixels": DRAW.normal(size=(64, 3, 12, 12)).astype(np.float32),
    "scale": DRAW.uniform(1, 2, (64, 1)).astype(np.float32),
}


class Net(nn.Module):
    """Two inputs, two outputs, and a control flow that a trace fixes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.norm = nn.BatchNorm2d(16)
            self.head = nn.Linear(16, 5)

    def forward(self, pixels: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        features = self.norm(self.conv(pixels)).relu().mean((2, 3)) * scale
        return self.head(features), features


def program(kind: str) -> Any:
    net = Net().eval()
    example = tuple(torch.from_numpy(value[:2]) for value in CALIBRATION.values())
    if kind == "scripted":
        return torch.jit.script(net)
    if kind == "traced":
        return torch.jit.trace(net, example)
    free = torch.export.Dim("rows", min=1, max=1024)
    return torch.export.export(net, example, dynamic_shapes=None if kind == "one batch" else ({0: free}, {0: free}))


def saved(made: Any, folder: Path) -> Path:
    path = folder / ("net.pt2" if isinstance(made, torch.export.ExportedProgram) else "net.pt")
    if path.suffix == ".pt2":
        torch.export.save(made, path)
    else:
        torch.jit.save(made, str(path))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("scripted", "in memory"),
        ("traced", "on disk"),
        ("exported", "in memory"),
        ("exported", "on disk"),
        ("one batch", "on disk"),
    ],
)
def test_a_program_is_compressed_and_certified(kind: str, place: str, tmp_path: Path) -> None:
    made = program(kind)
    model = saved(made, tmp_path) if place == "on disk" else made
    fresh = {name: DRAW.permutation(value) + np.float32(0.01) for name, value in CALIBRATION.items()}
    file = dc.compress(model, "edge-int8", target=TARGET, calibration=CALIBRATION, held_out=fresh)
    assert file.plan.share_left_alone["weights"] == 0 and file.certificate is not None
    session = session_of(file.content)
    wanted = [value.detach().numpy() for value in Net().eval()(*(torch.from_numpy(value[:2]) for value in fresh.values()))]
    names = [value.name for value in session.get_inputs()]
    found = session.run(None, {name: value[:2] for name, value in zip(names, fresh.values(), strict=True)})
    for own, other in zip(found, wanted, strict=True):
        assert np.sqrt(np.mean((own - other) ** 2) / np.mean(other**2)) < 0.03
    free = not isinstance(session.get_inputs()[0].shape[0], int)
    assert free == (kind != "one batch")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_in_training_mode_stays_as_it_is() -> None:
    scripted = torch.jit.script(Net().train())
    own = load(scripted)
    assert scripted.training and not own.module.training and own.input_names == ("pixels", "scale")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrong_inputs_of_a_program_give_one_sentence() -> None:
    scripted = torch.jit.script(Net().eval())
    with pytest.raises(dc.InvalidRequest, match="input 'scale' is missing"):
        dc.compress(scripted, calibration={"pixels": CALIBRATION["pixels"]})
    with pytest.raises(dc.InvalidRequest, match="the model can't run on these inputs"):
        dc.compress(scripted, calibration={**CALIBRATION, "pixels": CALIBRATION["pixels"][:, :2]})
