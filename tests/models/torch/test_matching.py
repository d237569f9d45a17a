"""Moments of outputs, block by block, against one pass in float64; and that a network matched to itself stays what it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dyncompress.models.torch import matching
from dyncompress.models.torch.opening import open_model
from dyncompress.types import SetWeight

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


class LogPower(nn.Module):
    """A spectrum's power in bands, whose logarithm a layer reads; many powers are near the floor."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum, self.bands, self.head = nn.Linear(32, 48, bias=False), nn.Linear(24, 12, bias=False), nn.Linear(12, 3)
        self.bands.weight.data.abs_()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.spectrum(x).chunk(2, dim=1)
        return self.head((self.bands(a * a + b * b) + 1e-5).log())


def test_a_layer_that_is_never_negative_stays_so() -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = LogPower().eval()
    x = torch.randn(256, 32, generator=generator) * torch.logspace(-4, 1, 256)[:, None]
    model = open_model(net, {"x": x[:2]})
    rounded = model.edited([SetWeight("bands", net.bands.weight * 0.9 + 0.01), SetWeight("spectrum", net.spectrum.weight * 1.02)])
    matched, gains = rounded.matched(model, [{"x": x}])
    assert gains.keys() == {"spectrum", "bands"}
    assert all(bool(output.isfinite().all()) for output in matched.predict({"x": x}))
    assert bool((gains["bands"][1] >= 0).all()) and bool((gains["bands"][0] != 1).all())


def test_nothing_is_matched_where_the_network_computes_nan() -> None:
    x = torch.randn(64, 3, 9, 9, generator=torch.Generator().manual_seed(2))
    model = open_model(residual(), {"x": x[:2]})
    broken = model.edited([SetWeight("a", torch.full((8, 3, 3, 3), 1e38))])
    assert broken.matched(model, [{"x": x}])[1] == {}


def test_sequences_of_several_lengths_are_cropped_to_the_length_that_leaves_most() -> None:
    batches = [
        {"x": torch.full((n, length, 2), float(length)), "one": torch.zeros(n)} for n, length in ((40, 2), (30, 5), (9, 7))
    ]
    joined = matching.join_batches(batches, ("x", "one"), 1000)
    assert joined["x"].shape == (39, 5, 2) and joined["one"].shape == (39,)
    assert joined["x"][:, 0, 0].tolist() == [5.0] * 30 + [7.0] * 9
    assert matching.join_batches(batches, ("x", "one"), 12)["x"].shape == (9, 7, 2)
    assert matching.join_batches(batches[:1] * 2, ("x", "one"), 50)["x"].shape == (50, 2, 2)
