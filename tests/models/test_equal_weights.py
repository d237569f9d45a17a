"""Weights of equal values: each layer's weight is located in the file nevertheless."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from dyncompress.models.torch.opening import open_model


class Mixer(nn.Module):
    """Two linear layers whose weights have each other's shape transposed, behind what a plain trace doesn't take."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b, self.c = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x + self.b(nn.functional.gelu(self.a(self.norm(x)))))


@pytest.mark.parametrize("value", [0.0, 0.25])
@pytest.mark.parametrize("names", [("a", "b"), ("a",), ("a", "b", "c")])
def test_every_layer_has_a_place_of_its_own(names: tuple[str, ...], value: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, x = Mixer().eval(), torch.randn(4, 5, 16)
    with torch.no_grad():
        for name in names:
            module.get_submodule(name).weight.fill_(value)
    model = open_model(module, {"x": x})
    file, places, _ = model.to_onnx_with_notes({"x": x})
    claimed = [place.initializer for found in places.values() for place in found]
    assert set(places) == {"a", "b", "c"} and len(set(claimed)) == len(claimed) == 3
    found = onnxruntime.InferenceSession(file).run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(found, module(x).detach().numpy(), atol=1e-5)
