"""Two layers in place of one: the same function at full rank, whatever the layer's form, and who can't be split."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.pruning.low_rank import factors
from dyncompress.types import LowRank, Weight


def opened(module: nn.Module, *shape: int) -> tuple[TorchModel, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
        x = torch.randn(3, *shape)
    return open_model(module, {"input": x}), x


def whole(adapter: TorchModel, name: str) -> LowRank:
    """The layer at full rank."""
    weight = dict(adapter.observe((Weight(),)))[name][Weight()]
    ((inner, outer),) = factors(weight, None, (min(weight.flatten(1).shape),))
    return LowRank(name, inner, outer)


LAYERS = {
    "linear": (nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 4, bias=False)), (7,)),
    "conv2d": (
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 2, dilation=2), nn.Conv2d(8, 4, (1, 3), bias=False)),
        (3, 11, 12),
    ),
    "reflect": (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.ReLU()), (3, 6, 6)),
    "conv1d": (nn.Sequential(nn.Conv1d(4, 6, 3, padding="same"), nn.ReLU()), (4, 9)),
    "conv3d": (nn.Sequential(nn.Conv3d(2, 6, 3, padding=1), nn.ReLU()), (2, 4, 4, 4)),
    "normalised": (nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)), (3, 8, 8)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_full_rank_computes_the_same(kind: str) -> None:
    adapter, x = opened(*LAYERS[kind][:1], *LAYERS[kind][1])
    names = [layer.name for layer in adapter.layers()]
    assert adapter.factorable_layers() == set(names)
    before = adapter.module.state_dict()
    small = adapter.edited([whole(adapter, name) for name in names])
    torch.testing.assert_close(small.predict({"input": x})[0], adapter.predict({"input": x})[0], rtol=1e-4, atol=1e-4)
    assert [layer.name for layer in small.layers()] == [name + end for name in names for end in (".0", ".1")]
    assert all(torch.equal(value, adapter.module.state_dict()[key]) for key, value in before.items())
    assert small.normalised == {name + ".1" for name in adapter.normalised}


def test_weights_and_products_are_counted_for_both() -> None:
    adapter, _ = opened(nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()), 4, 5, 5)
    small = adapter.edited([LowRank("0", torch.ones(2, 4, 3, 3), torch.ones(8, 2))])
    assert [layer.shape for layer in small.layers()] == [(2, 4, 3, 3), (8, 2, 1, 1)]
    assert small.macs == 25 * 2 * (4 * 9 + 8) and adapter.macs == 25 * 8 * 4 * 9


class Odd(nn.Module):
    """Layers that no pair can replace: grouped, read from outside, shared, transposed, of one channel; and one that it can."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.up = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.ConvTranspose2d(4, 4, 1)
        self.read, self.one, self.twin = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1), nn.Conv2d(1, 4, 1)
        self.plain, self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(self.up(self.grouped(x)), self.read.weight) + self.read(x)
        x = self.twin(self.one(x)) + x
        return self.second(self.first(self.plain(x.mean((2, 3)))))


def test_layers_that_cannot_be_split_are_left_out() -> None:
    adapter, _ = opened(Odd(), 4, 5, 5)
    assert adapter.factorable_layers() == {"plain"}
    with pytest.raises(InvalidRequest, match="there is no layer 'up' that can be factorised"):
        adapter.edited([LowRank("up", torch.ones(1, 4, 1, 1), torch.ones(4, 1))])


def test_factors_that_do_not_fit_are_refused() -> None:
    adapter, _ = opened(nn.Sequential(nn.Linear(7, 5), nn.ReLU()), 7)
    with pytest.raises(InvalidRequest, match=r"layer '0' has shape \(5, 7\), factors \(2, 6\) and \(5, 2\) don't fit it"):
        adapter.edited([LowRank("0", torch.ones(2, 6), torch.ones(5, 2))])
