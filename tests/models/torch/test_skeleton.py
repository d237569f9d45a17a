"""A file filled into the skeleton of an earlier export is the one that a fresh export writes; where it can't be, none is used."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.types import Affine, Edit, SetWeight
from tests.models.torch.test_onnx_graph import ran


class Mixed(nn.Module):
    """Convolutions, a sequence of tokens through linear layers (transposed in the file), and a constant table."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 2, groups=2)
        self.token, self.head = nn.Linear(4, 6, bias=False), nn.Linear(6, 3)
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.up(torch.relu(self.conv(x))))
        return self.head(torch.relu(self.token(x.flatten(2).mT)) + self.table).mean(1)


class Twins(nn.Module):
    """Two layers with equal biases, which an exporter may merge into one initializer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        nn.init.zeros_(self.a.bias)
        nn.init.zeros_(self.b.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def opened(make: type[nn.Module], *shape: int) -> tuple[TorchModel, dict[str, Tensor]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(shape)
        return open_model(make().eval(), {"x": x}), {"x": x}


def changes(model: TorchModel) -> list[Edit]:
    """Another weight for every layer, and another bias where there is one."""
    draw = torch.Generator().manual_seed(3)
    edits: list[Edit] = []
    for layer in model.layers():
        edits.append(SetWeight(layer.name, torch.randn(layer.shape, generator=draw)))
        if model.module.get_submodule(layer.name).bias is not None:
            edits.append(Affine(layer.name, torch.ones(layer.out), torch.randn(layer.out, generator=draw)))
    return edits


def exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the exporter was called."""
    from dyncompress.models.torch import onnx_graph

    calls: list[int] = []
    export = onnx_graph.export_onnx

    def counted(*args: object) -> object:
        calls.append(1)
        return export(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(onnx_graph, "export_onnx", counted)
    return calls


def weights(content: bytes) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(content).graph.initializer}


@pytest.mark.parametrize(("make", "shape"), [(Mixed, (2, 3, 5, 5)), (Twins, (2, 5))])
def test_new_weights_give_the_file_of_a_fresh_export(
    make: type[nn.Module], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = opened(make, *shape)
    before = model.to_onnx(batch)
    calls = exports(monkeypatch)
    new = model.edited(changes(model))
    content, places = new.to_onnx(batch)
    assert bool(calls) == (make is Twins), "equal parameters are exported anew, all else is filled in"
    assert places == before[1]
    fresh = open_model(new.module, batch).to_onnx(batch)[0]
    assert weights(content).keys() == weights(fresh).keys()
    assert all(np.array_equal(weights(content)[name], array) for name, array in weights(fresh).items())
    more = {"x": torch.randn(5, *shape[1:], generator=torch.Generator().manual_seed(1))}
    with torch.no_grad():
        assert np.allclose(ran(content, more)[0], new.module(more["x"]).numpy(), atol=1e-4)


def test_what_is_no_held_parameter_is_exported_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias that wasn't there, a buffer that changed, an input of another form."""
    model, batch = opened(Mixed, 2, 3, 5, 5)
    model.to_onnx(batch)
    calls = exports(monkeypatch)
    model.edited([]).to_onnx(batch)
    assert not calls
    model.edited([Affine("token", torch.ones(6), torch.ones(6))]).to_onnx(batch)
    assert len(calls) == 1
    other = model.edited([])
    other.module.get_buffer("table").add_(1)
    content, _ = other.to_onnx(batch)
    assert len(calls) == 2 and any(np.array_equal(a, np.arange(1.0, 7.0)) for a in weights(content).values())
    model.edited([]).to_onnx({"x": torch.randn(2, 3, 7, 7)})
    assert len(calls) == 3
