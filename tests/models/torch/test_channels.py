"""Channel groups, their removal, and moment matching."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cifar_resnet import CifarResNet
from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.types import Affine, ChannelGroup, Keep, SetWeight, Weight
from tests.data import cifar10, resnet20


class Chain(nn.Module):
    """A chain with a depthwise convolution in between, and a flattened linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.second = nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.depthwise(functional.relu(self.norm(self.first(x)))))
        return self.head(functional.relu(self.second(x)).flatten(1))


class Gated(nn.Module):
    """Two layers whose product is read by a third: they lose channels together. The norm ties the last group."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 4)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.down(functional.silu(self.gate(x)) * self.up(x))))


def seeded(module_class: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return module_class().eval()


def silenced(model: TorchModel, group: ChannelGroup, gone: list[int]) -> TorchModel:
    """The model with the columns that these channels own set to zero."""
    weights = {name: o[Weight()] for name, o in model.observe((Weight(),)) if name in group.consumers}
    for name, columns in group.consumers.items():
        matrix = weights[name].flatten(1)
        for channel in gone:
            matrix[:, channel * columns : (channel + 1) * columns] = 0
    return model.edited([SetWeight(name, weight) for name, weight in weights.items()])


def test_a_chain_offers_its_inner_channels() -> None:
    model = open_model(seeded(Chain), {"x": torch.randn(2, 3, 4, 4)})
    first, second = model.channel_groups()
    assert first.producers == ("first", "depthwise") and dict(first.consumers) == {"second": 1} and first.size == 6
    assert second.producers == ("second",) and dict(second.consumers) == {"head": 16}
    assert "outputs" in model.fixed_channels()["head"] and "depthwise" not in model.fixed_channels()


def test_gates_go_together_and_a_norm_ties_its_channels() -> None:
    model = open_model(seeded(Gated), {"x": torch.randn(2, 4)})
    (group,) = model.channel_groups()
    assert set(group.producers) == {"gate", "up"} and dict(group.consumers) == {"down": 1}
    assert model.fixed_channels().keys() == {"down", "head"}


@pytest.mark.parametrize("make", [Chain, Gated])
def test_removing_channels_is_silencing_their_readers(make: type[nn.Module]) -> None:
    x = torch.randn(3, 3, 4, 4) if make is Chain else torch.randn(3, 4)
    model = open_model(seeded(make), {"x": x})
    for group in model.channel_groups():
        gone = [1, 3]
        kept = tuple(c for c in range(group.size) if c not in gone)
        small = model.edited([Keep(group.name, kept)])
        assert torch.allclose(small.predict({"x": x})[0], silenced(model, group, gone).predict({"x": x})[0], atol=1e-5)
        assert all(next(la for la in small.layers() if la.name == name).out == len(kept) for name in group.producers)
        assert small.macs < model.macs
    everything = [Keep(group.name, (0, 2)) for group in model.channel_groups()]
    assert bool(torch.isfinite(model.edited(everything).predict({"x": x})[0]).all())


def test_channels_can_be_removed_twice_and_are_counted_in_the_first_model() -> None:
    x = torch.randn(3, 3, 4, 4)
    model = open_model(seeded(Chain), {"x": x})
    twice = model.edited([Keep("first", (0, 2, 3, 5))]).edited([Keep("first", (1, 3))])
    once = model.edited([Keep("first", (2, 5))])
    assert twice.kept["first"] == (2, 5)
    assert torch.equal(twice.predict({"x": x})[0], once.predict({"x": x})[0])


def test_option_a_shortcuts_offer_the_inner_channels_of_every_block() -> None:
    model = open_model(CifarResNet(2), {"x": torch.randn(2, 3, 32, 32)})
    inner = {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1)}
    assert {group.name for group in model.channel_groups()} == inner
    fixed = model.fixed_channels()
    assert fixed.keys() == {layer.name for layer in model.layers()} - inner
    assert all("residual" in fixed[name] for name in fixed if name != "linear")


def test_wrong_keeps_are_named() -> None:
    model = open_model(seeded(Chain), {"x": torch.randn(2, 3, 4, 4)})
    with pytest.raises(InvalidRequest, match="no channel group 'head'"):
        model.edited([Keep("head", (0,))])
    with pytest.raises(InvalidRequest, match="distinct"):
        model.edited([Keep("first", (0, 0))])
    with pytest.raises(InvalidRequest, match="below 6"):
        model.edited([Keep("first", (0, 6))])


# ---------------------------------------------------------------- matching
def moments(model: TorchModel, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Naive mean and standard deviation of a convolution's output channels."""
    found: list[Tensor] = []
    handle = model.module.get_submodule(name).register_forward_hook(lambda _m, _a, o: found.append(o.double()))
    model.predict({"x": x})
    handle.remove()
    return found[0].mean((0, 2, 3)), found[0].std((0, 2, 3), correction=0)


def test_a_network_matched_to_itself_is_left_exactly() -> None:
    x = torch.randn(8, 3, 4, 4)
    model = open_model(seeded(Chain), {"x": x})
    same, gains = model.matched(model, [{"x": x[:5]}, {"x": x[5:]}], only=[layer.name for layer in model.layers()])
    assert set(gains) == {"first", "depthwise", "second", "head"}
    for gain, shift in gains.values():
        assert bool((gain == 1).all()) and bool((shift == 0).all())
    assert torch.equal(same.predict({"x": x})[0], model.predict({"x": x})[0])


def test_matched_moments_are_the_references_at_every_layer() -> None:
    x = torch.randn(16, 3, 4, 4)
    model = open_model(seeded(Chain), {"x": x})
    bent = model.edited(
        [Affine(name, torch.full((out,), 0.8), torch.full((out,), 0.1)) for name, out in (("first", 6), ("second", 5))]
    )
    noisy = dict(model.observe((Weight(),)))["second"][Weight()] * 1.3
    matched, gains = bent.edited([SetWeight("second", noisy)]).matched(model, [{"x": x}])
    assert set(gains) == {"first", "second"}, "only what changed or took in a BatchNorm"
    for name in gains:
        (mean, std), (wanted_mean, wanted_std) = moments(matched, name, x), moments(model, name, x)
        assert torch.allclose(mean, wanted_mean, atol=1e-4) and torch.allclose(std, wanted_std, atol=1e-4)


def test_dead_channels_are_shifted_and_gains_are_limited() -> None:
    x = torch.randn(16, 3, 4, 4)
    model = open_model(seeded(Chain), {"x": x})
    weight = dict(model.observe((Weight(),)))["second"][Weight()]
    weight[0] = 0
    weight[1] *= 1e-2
    matched, gains = model.edited([SetWeight("second", weight)]).matched(model, [{"x": x}])
    gain, _ = gains["second"]
    assert float(gain[0]) == 1 and float(gain[1]) == 2
    assert torch.allclose(moments(matched, "second", x)[0], moments(model, "second", x)[0], atol=1e-4)


def test_a_narrower_network_is_matched_to_the_channels_it_kept() -> None:
    x = torch.randn(16, 3, 4, 4)
    model = open_model(seeded(Chain), {"x": x})
    small, gains = model.edited([Keep("first", (1, 4, 5))]).matched(model, [{"x": x}])
    mean, std = moments(model, "first", x)
    found_mean, found_std = moments(small, "first", x)
    assert torch.allclose(found_mean, mean[[1, 4, 5]], atol=1e-5) and torch.allclose(found_std, std[[1, 4, 5]], atol=1e-5)
    assert bool((gains["first"][0] == 1).all())


def test_matching_one_example_is_refused() -> None:
    model = open_model(seeded(Chain), {"x": torch.randn(2, 3, 4, 4)})
    with pytest.raises(InvalidRequest, match="at least 2"):
        model.matched(model, [{"x": torch.randn(1, 3, 4, 4)}], only=["first"])


# ---------------------------------------------------------------- real weights
@pytest.mark.slow
def test_matching_a_rounded_resnet_wins_back_accuracy() -> None:
    module = resnet20()
    x, _ = cifar10("train", 256)
    test, labels = cifar10("test", 500)
    model = open_model(module, {"x": x[:2]})
    assert len(model.channel_groups()) == 9
    edits = [SetWeight(name, rounded(o[Weight()])) for name, o in model.observe((Weight(),)) if name not in ("conv1", "linear")]
    coarse = model.edited(edits)
    matched, _ = coarse.matched(model, [{"x": x}])

    def accuracy(tried: TorchModel) -> float:
        return float((tried.predict({"x": test})[0].argmax(1) == labels).float().mean())

    assert accuracy(model) > 0.78
    assert accuracy(coarse) + 0.03 < accuracy(matched) <= accuracy(model) + 0.02


def rounded(weight: Tensor) -> Tensor:
    """Three bits, nearest."""
    step = weight.flatten(1).abs().amax(1).view(-1, 1, 1, 1) / 3
    return (weight / step).round() * step
