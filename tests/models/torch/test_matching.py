"""Moments of outputs, block by block, against one pass in float64; and that a network matched to itself stays what it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dyncompress.models.torch import matching
from dyncompress.models.torch.opening import open_model

CASES: dict[str, tuple[nn.Module, tuple[int, ...], tuple[int, ...]]] = {
    "conv": (nn.Conv2d(3, 5, 3), (37, 5, 6, 7), (0, 2, 3)),
    "conv1d": (nn.Conv1d(3, 4, 3), (9, 4, 11), (0, 2)),
    "linear": (nn.Linear(3, 6), (130, 6), (0,)),
    "linear over a sequence": (nn.Linear(3, 6), (13, 9, 6), (0, 1)),
}


@pytest.mark.parametrize("block", [1, 200, 1 << 18])
@pytest.mark.parametrize("name", CASES)
def test_moments_are_those_of_one_pass_in_float64(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the mean is a thousand times the spread, which sums of squares in float32 would drown."""
    layer, shape, axes = CASES[name]
    monkeypatch.setattr(matching, "_BLOCK_NUMBERS", block)
    for offset in (0.0, 1000.0):
        output = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + offset
        mean, std = matching.moments_of(layer, output)
        assert torch.allclose(mean, output.double().mean(axes), rtol=1e-6, atol=1e-5)
        assert torch.allclose(std, output.double().std(axes, correction=0), rtol=2e-5)


def residual() -> nn.Module:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            return self.head(torch.relu(x + self.b(x)).mean((2, 3)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Residual().eval()


def test_a_network_matched_to_itself_stays_exactly_what_it_is() -> None:
    """Although the original goes through a few examples at a time and the compressed network all at once."""
    x = torch.randn(200, 3, 9, 9, generator=torch.Generator().manual_seed(2))
    model = open_model(residual(), {"x": x[:2]})
    _, gains = model.matched(model, [{"x": x[:77]}, {"x": x[77:]}], only=("a", "b", "head"))
    assert gains.keys() == {"a", "b", "head"}
    for gain, shift in gains.values():
        assert torch.equal(gain, torch.ones_like(gain)) and torch.equal(shift, torch.zeros_like(shift))
