"""The torch adapter on tiny networks: layers, layouts, edits, folding, and the caller's unchanged model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch import layers
from dyncompress.models.torch.folding import preprocessing_warning
from dyncompress.models.torch.opening import open_model
from dyncompress.recording import weights_digest
from dyncompress.recording.torch_callback import layer_weights
from dyncompress.types import Affine, Bias, InputMoment, SetWeight, Weight


class TwoInputs(nn.Module):
    """Two named inputs, nested outputs, a convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.side = nn.Linear(3, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, image: Tensor, side: Tensor) -> dict[str, object]:
        y = functional.relu(self.norm(self.conv(image))).mean((2, 3))
        return {"scores": self.head(y + self.side(side)), "inner": [y, (None, self.side(side))]}


class Tied(nn.Module):
    """An embedding whose weight is also the output layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.inner = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.words(tokens))))


class TwiceNormed(nn.Module):
    """One convolution whose output is normalised and also used as it is: folding must be undone."""

    def __init__(self) -> None:
        super().__init__()
        self.sound, self.sound_norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(functional.relu(self.sound_norm(self.sound(x))))
        return self.norm(y) + y


class RepeatedNorm(nn.Module):
    """One BatchNorm called after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv1d(2, 3, 3), nn.Conv1d(3, 3, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.norm(self.first(x)).relu()))


def initialised(module: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics away from 0 and 1, so that folding changes something; eval mode."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.copy_(torch.randn(part.num_features, generator=generator))
            part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.3)
            part.weight.data.copy_(torch.randn(part.num_features, generator=generator))
            part.bias.data.copy_(torch.randn(part.num_features, generator=generator))
    return module.eval()


def built(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return initialised(make())


def images(n: int = 3, channels: int = 3, size: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


FOLDABLE = {
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()), images()),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), images(channels=4)),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)), images(channels=4)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), images()[..., 0]),
    "linear": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), images()[..., 0, 0]),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, 2), nn.BatchNorm2d(4)), images()),
    "transposed grouped": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6)),
        images(channels=4),
    ),
}


@pytest.mark.parametrize("name", FOLDABLE)
def test_folding_leaves_the_outputs_and_removes_the_norm(name: str) -> None:
    make, x = FOLDABLE[name]
    module = built(make)
    model = open_model(module, {"x": x})
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.module.modules())
    assert model.normalised == {"0"}
    expected = module(x).detach()
    assert torch.allclose(model.predict({"x": x})[0], expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("make", "x", "folded"), [(TwiceNormed, images(), {"sound"}), (RepeatedNorm, images(2, 2)[..., 0], set())]
)
def test_a_fold_that_would_change_the_outputs_is_undone(make: Callable[[], nn.Module], x: Tensor, folded: set[str]) -> None:
    module = built(make)
    if make is RepeatedNorm:
        x = torch.randn(2, 2, 9)
    model = open_model(module, {"x": x})
    assert model.normalised == folded
    assert torch.allclose(model.predict({"x": x})[0], module(x).detach(), atol=1e-4)
    assert isinstance(model.module.norm, nn.modules.batchnorm._BatchNorm)


def test_the_callers_model_is_untouched() -> None:
    module = built(TwoInputs).train()
    module.head.register_forward_hook(lambda *_: seen.append(1))
    seen: list[int] = []
    before = copy.deepcopy(module.state_dict())
    batch = {"image": images(2, 2), "side": torch.randn(2, 3)}
    model = open_model(module, batch)
    preprocessing_warning(module, [batch])
    seen.clear()  # a hook is run to find out whether it changes a value; this one only looks
    list(model.observe((Weight(), InputMoment()), [batch]))
    model.edited([Affine("conv", torch.full((4,), 2.0), torch.ones(4))])
    assert module.training and "training mode" in model.notes[0]
    assert not seen, "the copy must not carry the caller's hooks"
    assert len(module.head._forward_hooks) == 1 and not module.conv._forward_hooks
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_inputs_by_name_and_nested_outputs() -> None:
    module = built(TwoInputs)
    batch = {"side": torch.randn(2, 3).numpy(), "image": images(2, 2)}
    model = open_model(module, batch)
    found = model.predict(batch)
    expected = module(batch["image"], torch.from_numpy(batch["side"]))
    assert len(found) == 3
    assert torch.allclose(found[0], expected["scores"], atol=1e-5)
    assert [layer.name for layer in model.layers()] == ["conv", "side", "head"]
    assert model.trace.calls["side"] == 2


def test_multiply_accumulates_of_every_kind() -> None:
    module = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.ConvTranspose2d(8, 6, 2, 2),
        nn.Conv2d(6, 6, 3, 2, 1, groups=6),
        nn.Flatten(),
        nn.Linear(216, 5),
    )
    model = open_model(module, {"x": images(3, 4)})
    assert [layer.macs for layer in model.layers()] == [36 * 8 * 2 * 9, 36 * 8 * 6 * 4, 36 * 6 * 9, 216 * 5]
    assert model.macs == sum(layer.macs for layer in model.layers())
    assert [layer.shape for layer in model.layers()] == [(8, 2, 3, 3), (6, 8, 2, 2), (6, 1, 3, 3), (5, 216)]
    assert [layer.kind for layer in model.layers()] == ["conv2d", "conv_transpose2d", "conv2d", "linear"]


def test_a_shared_weight_is_one_layer() -> None:
    module = built(Tied)
    tokens = torch.arange(10).reshape(2, 5)
    model = open_model(module, {"tokens": tokens})
    layers = {layer.name: layer for layer in model.layers()}
    assert set(layers) == {"head", "inner"}
    assert layers["head"].macs == 5 * 6 * 11
    new = torch.randn(11, 6)
    edited = model.edited([SetWeight("head", new)])
    assert torch.equal(edited.module.words.weight, new), "both uses change"
    observed = dict(model.observe((Weight(), InputMoment()), [{"tokens": tokens}]))
    assert observed["head"][InputMoment()].shape == (1, 6, 6)


def test_what_cannot_be_compressed_is_counted() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(4, 6, batch_first=True)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True, add_bias_kv=True)  # other attention has layers
            self.position = nn.Parameter(torch.zeros(1, 5, 6))
            self.unused, self.head = nn.Linear(3, 3), nn.Linear(6, 2)
            self.norm = nn.LayerNorm(6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.gru(x)[0] + self.position
            return self.head(self.norm(self.attention(y, y, y)[0]))

    model = open_model(built(Mixed), {"x": torch.randn(2, 5, 4)})
    alone = {layer.name: layer for layer in model.layers() if layer.left_alone}
    assert set(alone) == {
        "attention.in_proj_weight", "attention.out_proj", "position", "unused",
    }  # fmt: skip
    assert next(layer for layer in model.layers() if layer.name == "gru.ih_l0").macs == 5 * 18 * 4
    assert alone["attention.in_proj_weight"].macs == 5 * 18 * 6
    assert "never called" in alone["unused"].left_alone
    for name, observation in model.observe((Weight(), InputMoment()), [{"x": torch.randn(2, 5, 4)}]):
        assert observation[Weight()].shape == observation.layer.shape
        assert (InputMoment() in observation) == (name == "head")


@pytest.mark.parametrize("name", ["grouped", "transposed", "transposed grouped", "conv1d", "linear"])
def test_canonical_weights_round_trip_and_edits_act_on_output_channels(name: str) -> None:
    make, x = FOLDABLE[name]
    model = open_model(built(make), {"x": x})
    layer = model.module.get_submodule("0")
    weight = layers.canonical(layer)
    assert torch.equal(layers.native_layout(layer, weight), layer.weight)
    before = layer(x).detach()
    gain, shift = torch.rand(weight.shape[0]) + 0.5, torch.randn(weight.shape[0])
    edited = model.edited([Affine("0", gain, shift)]).module.get_submodule("0")
    shape = (1, -1, *[1] * (before.ndim - 2))
    assert torch.allclose(edited(x), before * gain.view(shape) + shift.view(shape), atol=1e-4)
    assert torch.equal(layer(x), before), "the model that was edited stays"
    row_off = weight.detach().clone()
    row_off[1] = 0
    silent = model.edited([SetWeight("0", row_off, torch.zeros(weight.shape[0]))]).module.get_submodule("0")
    assert bool((silent(x)[:, 1] == 0).all()) and bool((silent(x)[:, 0] != 0).any())


def test_affine_makes_a_bias_where_there_was_none() -> None:
    model = open_model(nn.Sequential(nn.Linear(3, 2, bias=False)), {"x": torch.randn(4, 3)})
    edited = model.edited([Affine("0", torch.ones(2), torch.tensor([1.0, -1.0]))])
    assert dict(edited.observe((Bias(),)))["0"][Bias()].tolist() == [1.0, -1.0]
    assert dict(model.observe((Bias(),)))["0"][Bias()] is None


def test_the_digest_is_that_of_the_recorded_weights() -> None:
    module = built(FOLDABLE["transposed grouped"][0])
    model = open_model(module, {"x": FOLDABLE["transposed grouped"][1]})
    assert model.digest() == weights_digest(layer_weights(module))


def bad_weight() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    module[0].weight.data[0, 0, 0, 0] = float("nan")
    return module


MISTAKES = {
    "not a module": (lambda: {"a": 1}, {"x": images()}, "is a dict"),
    "nan weight": (bad_weight, {"x": images()}, "layer '0': parameter '0.weight' holds 1 NaN"),
    "channels": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3)),
        {"x": images()},
        r"layer '0' expects 1 channels and was given \[3, 3, 6, 6\]",
    ),
    "features": (lambda: nn.Linear(5, 2), {"x": torch.randn(2, 4)}, "expects 5 features"),
    "missing input": (TwoInputs, {"image": images(2, 2)}, "side"),
    "no tensor": (lambda: Silent(), {"x": images()}, "returned no tensor"),
    "empty": (lambda: nn.Linear(2, 2), {}, "no inputs"),
}


class Silent(nn.Module):
    def forward(self, x: Tensor) -> int:
        return len(x)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    make, batch, sentence = MISTAKES[name]
    with pytest.raises(InvalidRequest, match=sentence):
        open_model(make(), batch)


def test_wrong_edits_are_named() -> None:
    model = open_model(nn.Sequential(nn.Linear(3, 2)), {"x": torch.randn(2, 3)})
    with pytest.raises(InvalidRequest, match="no layer '00'"):
        model.edited([SetWeight("00", torch.zeros(2, 3))])
    with pytest.raises(InvalidRequest, match=r"shape \(3, 2\), the layer's is \(2, 3\)"):
        model.edited([SetWeight("0", torch.zeros(3, 2))])
    with pytest.raises(InvalidRequest, match="NaN"):
        model.edited([SetWeight("0", torch.full((2, 3), float("nan")))])


def test_half_precision_and_weight_norm_are_brought_to_plain_float32() -> None:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2)).half()
    model = open_model(module, {"x": torch.randn(2, 3)})
    assert [layer.name for layer in model.layers()] == ["0", "1"]
    assert all(p.dtype == torch.float32 for p in model.module.parameters())
    assert any("float32" in note for note in model.notes)
    assert nn.utils.parametrize.is_parametrized(module[0]) and module[0].weight.shape == (4, 3), "the caller's keeps its own"


def test_unusual_inputs_differ_from_those_of_training() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    usual = images(64, seed=3)
    module.train()
    for _ in range(60):
        module(usual)
    assert preprocessing_warning(module, [{"x": images(64, seed=4)}]) is None
    warning = preprocessing_warning(module, [{"x": 4 * usual + 2}])
    assert warning is not None and "'1'" in warning and "normalised" in warning
