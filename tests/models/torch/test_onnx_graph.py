"""The written ONNX file against torch, and where each weight lies in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from dyncompress.errors import Unsupported
from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.types import Placement, Weight

runtime = pytest.importorskip("onnxruntime")


class Tied(nn.Module):
    """An embedding whose weight is also the output layer's, and a mask of another type."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        inner = torch.tanh(self.inner(self.words(tokens))) * mask.unsqueeze(-1)
        return {"scores": self.head(inner), "inner": inner}


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.ConvTranspose2d(6, 4, 2, 2, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 64, 5),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor]]] = {
    "convolutions": (convolutions, {"x": torch.randn(2, 3, 6, 6)}),
    "sequence": (
        lambda: nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.Flatten(), nn.Linear(54, 3)),
        {"x": torch.randn(3, 4, 9)},
    ),
    "tied": (Tied, {"tokens": torch.arange(10).reshape(2, 5), "mask": torch.ones(2, 5)}),
    "one example": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), {"x": torch.randn(1, 3)}),
}


def ran(content: bytes, batch: dict[str, Tensor]) -> list[np.ndarray]:
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {entry.name: batch[entry.name].numpy() for entry in session.get_inputs()})


@cache
def written(name: str) -> tuple[TorchModel, bytes, Mapping[str, tuple[Placement, ...]], tuple[str, ...]]:
    """Each network is exported once for all tests."""
    make, batch = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_model(make(), batch)
    return model, *model.to_onnx_with_notes(batch)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_computes_what_torch_computes_at_any_batch_size(name: str) -> None:
    batch = NETWORKS[name][1]
    model, content, places, _ = written(name)
    wider = {key: torch.cat([value, value, value]) for key, value in batch.items()}
    for tried in (batch, wider):
        for found, expected in zip(ran(content, tried), model.predict(tried), strict=True):
            assert np.abs(found - expected.numpy()).max() < 1e-5
    assert set(places) == {layer.name for layer in model.layers()}


def recovered(model: TorchModel, array: np.ndarray, layout: str, layer: str) -> np.ndarray:
    """An initializer brought back to the canonical layout, by the definition of each layout."""
    weight = dict(model.observe((Weight(),)))[layer][Weight()].numpy()
    if layout == "transposed":
        return array.T
    if layout == "as_is":
        return array
    groups = next(la.groups for la in model.layers() if la.name == layer)
    found = np.zeros_like(weight)
    out, inputs = weight.shape[0] // groups, weight.shape[1]
    for g in range(groups):
        for i in range(inputs):
            for o in range(out):
                found[g * out + o, i] = array[g * inputs + i, o]
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_each_placement_holds_the_layers_weight_in_its_layout(name: str) -> None:
    model, content, places, _ = written(name)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(content).graph.initializer}
    weights = {layer: o[Weight()].numpy() for layer, o in model.observe((Weight(),))}
    for layer, found in places.items():
        for place in found:
            assert np.array_equal(recovered(model, arrays[place.initializer], place.layout, layer), weights[layer])


def test_layers_of_equal_weights_never_claim_one_initializer_twice() -> None:
    first, second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
    second.load_state_dict(first.state_dict())
    model = open_model(nn.Sequential(first, nn.ReLU(), second), {"x": torch.randn(2, 2, 5, 5)})
    _, places = model.to_onnx()
    used = [place.initializer for found in places.values() for place in found]
    assert used and len(used) == len(set(used))


def test_the_file_names_no_paths_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    written.cache_clear()
    _, content, _, notes = written("sequence")
    assert capfd.readouterr() == ("", "")
    assert b".py" not in content
    graph = onnx.load_from_string(content)
    assert not graph.graph.value_info and not graph.metadata_props and all(not node.metadata_props for node in graph.graph.node)
    assert notes == () and graph.opset_import[0].version == 20


def test_a_batch_size_that_the_model_fixes_is_noted() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + torch.zeros(x.shape[0] if int(x.shape[0]) == 2 else 2, 3)

    model = open_model(Fixed(), {"x": torch.randn(2, 4)})
    _, _, notes = model.to_onnx_with_notes()
    assert notes and "fixed at 2" in notes[0]


def test_what_no_exporter_takes_is_unsupported() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return torch.linalg.eigvalsh(y.mT @ y)

    model = open_model(Spectral(), {"x": torch.randn(2, 4)})
    with pytest.raises(Unsupported, match="can't export"):
        model.to_onnx()
