"""Sequential compression: each layer is fitted to the original's output from the inputs of the compressed network."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.measures.divergence import divergence
from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.models.torch.sequence import _residual_products, in_sequence
from dyncompress.pipeline.application.sequential import centred, compress_in_order, edits, ridge
from dyncompress.pipeline.observed_model import ObservedModel
from dyncompress.quantization import Gptq, decode
from dyncompress.recipe.toml_files import load_recipe
from dyncompress.types import (
    FLOAT_BITS,
    Batch,
    Budget,
    Choice,
    Distillation,
    InputMoment,
    Model,
    Observation,
    ResidualMoments,
    Weight,
)
from tests import tiny


class Residual(nn.Module):
    """A stem, a residual block, a strided grouped convolution, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.outer = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.narrow = nn.Conv2d(8, 8, 3, stride=2, groups=2)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = self.act(self.outer(self.act(self.inner(x))) + x)
        return self.head(self.act(self.narrow(x)).mean((2, 3)))


def data(n: int = 96) -> list[Batch]:
    x = torch.randn(n, 3, 10, 12, generator=torch.Generator().manual_seed(1))
    return [{"x": part} for part in (x + 0.5).split(40)]


def opened(module: nn.Module, batches: list[Batch]) -> ObservedModel:
    return ObservedModel(open_model(module, batches[0]), batches, True)


def names(model: TorchModel) -> list[str]:
    return list(model.trace.modules)


def weight_of(model: TorchModel, name: str) -> Tensor:
    return model.module.get_submodule(name).weight.detach().clone()


def test_an_unchanged_network_has_no_residual() -> None:
    batches = data()
    model = opened(Residual(), batches).model
    lacks = []

    def same(name: str, wanted: ResidualMoments) -> Tensor:
        lacks.append(float(wanted.residual_cross_moment.abs().max() + wanted.residual_mean.abs().max()))
        return weight_of(model, name)

    found = in_sequence(model, batches, names(model), same)
    assert list(found) == names(model)
    assert max(lacks) < 1e-5
    assert all(torch.equal(weight, weight_of(model, name)) for name, (weight, _) in found.items())
    assert max(float(shift.abs().max()) for _, shift in found.values()) < 1e-5


def test_moments_are_those_of_two_networks_run_separately() -> None:
    """The oracle runs the original and the compressed network separately and unfolds every patch."""
    batches = data(24)
    model = opened(Residual(), batches).model
    seen: dict[str, ResidualMoments] = {}

    def coarse(name: str, wanted: ResidualMoments) -> Tensor:
        seen[name] = wanted
        return weight_of(model, name).mul(4).round().div(4)

    found = in_sequence(model, batches, names(model), coarse)
    edited = model.edited([e for name, (weight, shift) in found.items() if name != "outer" for e in edits(name, weight, shift)])
    caught: dict[str, list[Tensor]] = {}
    for key, network in (("wanted", model), ("own", edited)):
        layer = network.module.get_submodule("outer")
        first = network.module.get_submodule("act")
        catch = caught.setdefault(key, [])
        handle = layer.register_forward_hook(lambda _m, a, y, catch=catch: catch.extend([a[0].clone(), y.clone()]))
        before = first.register_forward_hook(lambda _m, _a, y, catch=catch: catch.append(y.clone()))
        network.predict({"x": torch.cat([batch["x"] for batch in batches])})
        handle.remove()
        before.remove()
    stem, x, y = caught["own"][0], caught["own"][2], caught["own"][3]
    lack = caught["wanted"][3] - y + caught["wanted"][0] - stem
    patches = nn.functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    missing = lack.flatten(2).transpose(1, 2).flatten(0, 1).double()
    rows = len(patches)
    assert torch.allclose(seen["outer"].moment[0], patches.mT @ patches / rows, atol=1e-5)
    assert torch.allclose(seen["outer"].residual_cross_moment, missing.mT @ patches / rows, atol=1e-5)
    assert torch.allclose(seen["outer"].mean[0], patches.mean(0), atol=1e-5)
    assert torch.allclose(seen["outer"].residual_mean, missing.mean(0), atol=1e-5)


class ByPosition(nn.Module):
    """Layers that act on every position of a sequence alone, with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.inner, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.tanh(x + self.inner(x)))


def test_batches_of_several_shapes_are_fitted_together() -> None:
    """The positions of sequences of several lengths give the weights that the same positions give in one batch."""
    x = torch.randn(240, 5, generator=torch.Generator().manual_seed(1))
    several = [{"x": x[:120].reshape(20, 6, 5)}, {"x": x[120:180].reshape(15, 4, 5)}, {"x": x[180:].reshape(10, 6, 5)}]
    fits = []
    for batches in (several, [{"x": x[:, None]}]):
        model = opened(ByPosition(), batches).model
        seen: dict[str, ResidualMoments] = {}

        def coarse(name: str, wanted: ResidualMoments, model: TorchModel = model, seen: dict = seen) -> Tensor:
            seen[name] = wanted
            return weight_of(model, name).mul(4).round().div(4)

        fits.append((in_sequence(model, batches, names(model), coarse), seen))
    (found, seen), (wanted, alone) = fits
    assert list(found) == list(wanted) == ["stem", "inner", "head"]
    for name in found:
        torch.testing.assert_close(found[name][1], wanted[name][1], rtol=1e-4, atol=1e-6)
        for field in ("moment", "residual_cross_moment", "mean", "residual_mean"):
            torch.testing.assert_close(getattr(seen[name], field), getattr(alone[name], field), rtol=1e-4, atol=1e-6)


def test_an_error_in_one_of_several_passes_ends_them_all() -> None:
    batches = [{"x": torch.randn(8, length, 5)} for length in (2, 3, 4)]
    model = opened(ByPosition(), batches).model

    def broken(name: str, _wanted: ResidualMoments) -> Tensor:
        if name == "inner":
            raise ZeroDivisionError("as in a solver")
        return weight_of(model, name)

    with pytest.raises(ZeroDivisionError, match="as in a solver"):
        in_sequence(model, batches, names(model), broken)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())
    with pytest.raises(dc.InvalidRequest, match="needs at least 2 calibration examples, and 1 were given"):
        in_sequence(model, [{"x": torch.randn(1, 3, 5)}], names(model), broken)


def compressed(model: ObservedModel, bits: int, *, aim: bool) -> Model:
    """The network with every layer rounded, sequentially or each on the original's inputs."""

    def rounded(observation: Observation) -> Tensor:
        return decode(Gptq()(observation[Weight()], observation, Choice(weight_bits=bits)))

    if aim:
        found = compress_in_order(model, names(model.model), rounded)
        return model.model.edited([e for name, new in found.items() for e in edits(name, *new)])
    plain = {name: rounded(o) for name, o in model.observe((Weight(), InputMoment()))}
    return model.model.edited([e for name, weight in plain.items() for e in edits(name, weight, None)])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_sequential_compression_is_nearer_to_the_original(bits: int) -> None:
    model = opened(Residual(), data(256))
    fresh = {"x": torch.randn(256, 3, 10, 12, generator=torch.Generator().manual_seed(9)) + 0.5}
    reference = np.asarray(model.model.predict(fresh)[0])
    far, near = (divergence(reference, compressed(model, bits, aim=aim).predict(fresh)[0].numpy()) for aim in (False, True))
    assert near < 0.8 * far


def test_a_layer_compensates_for_errors_before_it() -> None:
    """An invertible matrix multiplies the first of two linear layers; least squares multiplies the second by its inverse."""
    torch.manual_seed(0)
    module = nn.Sequential(OrderedDict(first=nn.Linear(6, 6), second=nn.Linear(6, 4)))
    x = torch.randn(512, 6)
    model = opened(module, [{"x": x}])
    turn = torch.linalg.qr(torch.randn(6, 6)).Q

    def solve(name: str, wanted: ResidualMoments) -> Tensor:
        weight = weight_of(model.model, name)
        if name == "first":
            return turn @ weight
        moment = wanted.moment - wanted.mean[:, :, None] * wanted.mean[:, None, :]
        lack = wanted.residual_cross_moment - wanted.residual_mean[:, None] * wanted.mean
        return weight + torch.linalg.solve(moment[0], lack.mT).mT.float()

    found = in_sequence(model.model, model.batches, ["first", "second"], solve)
    repaired = model.model.edited([e for name, new in found.items() for e in edits(name, *new)])
    assert torch.allclose(repaired.predict({"x": x})[0], model.model.predict({"x": x})[0], atol=1e-4)


def test_ridge_is_the_naive_solution_group_by_group() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2, 40, 5, generator=generator, dtype=torch.float64)
    moment, lack = a.mT @ a / 40, torch.randn(6, 5, generator=generator, dtype=torch.float64)
    for group, rows in enumerate(lack.split(3)):
        level = 0.01 * moment[group].diagonal().mean() * torch.eye(5, dtype=torch.float64)
        assert torch.allclose(ridge(moment, lack).split(3)[group], rows @ torch.linalg.inv(moment[group] + level))


def test_layers_called_twice_and_time_first_networks_are_left_out() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loop, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.loop(torch.tanh(self.loop(x)))))

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.embed(x.transpose(0, 1)))).transpose(0, 1)

    for module, shape, expected in ((Twice(), (32, 6), ["head"]), (TimeFirst(), (32, 7, 6), [])):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        model = opened(module, [{"x": x}]).model
        found = in_sequence(model, [{"x": x}], names(model), lambda name, _, model=model: weight_of(model, name))
        assert list(found) == expected


# ---------------------------------------------------------------- through the verbs
@pytest.mark.parametrize(("bits", "sparsity"), [(2, 0.0), (FLOAT_BITS, 0.7), (4, 0.5)])
def test_a_recipe_compresses_sequentially_and_distils(bits: int, sparsity: float) -> None:
    """The encodings decode to exactly the final weights, zeros stay, and distillation does not change the codes."""
    base = load_recipe("smallest")
    recipe = replace(
        base, sequential=True, match=False, distill=Distillation(epochs=12, batch=32, shift=0, mix=0.0), budget=Budget()
    )
    choice = Choice(weight_bits=bits, sparsity=sparsity, activation_bits=8)
    plan = replace(tiny.plan(), asked=dict.fromkeys(tiny.LAYERS, choice), recipe="smallest")
    without_distillation = replace(recipe, distill=Distillation())
    plain, aimed, small = (
        dc.apply(tiny.network(), plan, recipe=r, calibration=tiny.CALIBRATION)
        for r in (replace(without_distillation, sequential=False), without_distillation, recipe)
    )
    assert aimed.stages["weights"] < plain.stages["weights"]
    assert "distil" in small.stages and "distil" not in aimed.stages
    for name in tiny.LAYERS:
        weight = small.module.get_submodule(name).weight.detach()
        assert float((weight == 0).float().mean()) >= sparsity - 1e-2
        if bits != FLOAT_BITS:
            assert torch.equal(decode(small.encodings[name]), weight)
            assert torch.equal(small.encodings[name].codes, aimed.encodings[name].codes)


def test_flipped_images_are_observed_too() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, (1, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).flatten(1)

    torch.manual_seed(0)
    x = torch.randn(16, 1, 8, 8)
    seen = {}
    for mirrored in (False, True):
        compress_in_order(
            opened(Flat(), [{"x": x}]), ["conv"], lambda o, key=mirrored: seen.update({key: o}) or o[Weight()], flips=mirrored
        )
    rows = torch.cat([x, x.flip(3)]).reshape(-1, 8).double()
    expected = torch.cov(rows.T, correction=0)
    torch.testing.assert_close(seen[True][InputMoment()][0].double(), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(seen[False][InputMoment()][0].double(), expected, atol=1e-2)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv2d(6, 4, 3, padding=1, stride=2, groups=2),
        nn.Conv2d(6, 4, (3, 1), padding=(2, 0), dilation=(2, 1)),
        nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(6, 4, 3, padding="same"),
        nn.ConvTranspose2d(6, 4, 3, stride=2),
    ],
    ids=str,
)
def test_the_residual_cross_moment_equals_the_gradient(layer: nn.Module) -> None:
    """The sum of residual x^T over examples and positions is the gradient of <layer(x), residual>, by autograd."""
    x = torch.randn(3, 6, 9, 8, generator=torch.Generator().manual_seed(0))
    x = x.permute(0, 2, 3, 1).contiguous() if isinstance(layer, nn.Linear) else x
    output = layer(x)
    lack = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (wanted,) = torch.autograd.grad(output, layer.weight, lack)
    with torch.no_grad():
        assert torch.allclose(_residual_products(layer, x, lack), wanted, atol=1e-4)


def test_nearly_constant_inputs_have_a_factor() -> None:
    """Their covariance is noise of float32 sums, as large as 5e-6 of the moment and of either sign."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.rand(1, 64, generator=generator, dtype=torch.float64)
    noise = 1e-7 * torch.randn(64, 64, generator=generator, dtype=torch.float64)
    moment = mean[:, :, None] * mean[:, None, :] + noise + noise.mT
    wanted = ResidualMoments(moment, torch.zeros(4, 64, dtype=torch.float64), mean, torch.zeros(4, dtype=torch.float64))
    covariance, _ = centred(wanted)
    assert float(torch.linalg.eigvalsh(covariance).min()) > 0
    assert float(torch.linalg.eigvalsh(moment - mean[:, :, None] * mean[:, None, :]).min()) < -1e-6
