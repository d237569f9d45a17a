# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
# (people override torch's methods with other names of parameters)
"""Layers whose forward isn't torch's, or that are called otherwise than with one tensor: each becomes torch's own layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import dyncompress as dc
from dyncompress.models.torch.opening import open_model
from dyncompress.recipe.toml_files import load_recipe
from dyncompress.types import InputMoment, SetWeight
from tests.running import session_of
from tests.traits import calls
from tests.traits.subject import ids, images, randn, seeded

TARGET = "onnxruntime-x86-vnni"


class Masked(nn.Linear):
    """A mask on the weight in the forward method."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.register_buffer("mask", torch.rand(self.weight.shape) > 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.mask, self.bias)


class Adapted(nn.Module):
    """A low-rank term added to the weight, from layers that are never called."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outer, inner) / 8), nn.Parameter(torch.randn(outer))
        self.a, self.b = nn.Linear(inner, 2, bias=False), nn.Linear(2, outer, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight + self.b.weight @ self.a.weight, self.bias)


class Normalised(nn.Linear):
    """Weight normalisation with a gain, in the forward method."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.gain = nn.Parameter(torch.rand(args[1], 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, weight=self.gain * functional.normalize(self.weight, dim=1), bias=self.bias)


class Property(nn.Linear):
    """The weight is a property, and the forward method torch's."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.raw = self.__dict__["_parameters"].pop("weight")

    @property
    def weight(self) -> Tensor:
        return self.raw * 2.0


class Bare(nn.Module):
    """Two maps through functions, their weights parameters and in a list."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(32, inner) / 4)
        self.more = nn.ParameterList([torch.randn(outer, 32) / 4, torch.randn(outer)])

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.linear(x, self.first).relu(), *self.more)


class Multiply(nn.Module):
    """A module without parameters that is given the weight."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(x, weight)


class Given(nn.Module):
    """Hands its weight to another module, and holds a layer of its own beside it."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight, self.product, self.own = nn.Parameter(torch.randn(32, inner) / 4), Multiply(), nn.Linear(32, outer)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self.product(x, self.weight).relu())


class Inside(nn.Module):
    """A product of its own between modules that compute products of their own."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.a, self.b, self.weight = Normalised(inner, 32), Masked(32, outer), nn.Parameter(torch.randn(32, 32) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(functional.linear(self.a(x).relu(), self.weight.tanh()).relu())


class Dynamic(nn.Linear):
    """The weight depends on the input."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * (1 + x.mean()), self.bias)


class Around(Inside):
    """A product of its own around one whose weight depends on the input."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(inner, outer)
        self.a = Dynamic(inner, 32)


class Tied(nn.Module):
    """A layer with its own forward method that shares its weight with a plain one."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.a, self.b, self.o = calls.Scaled(inner, inner), nn.Linear(inner, inner), nn.Linear(inner, outer)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.b(self.a(x, 0.5).relu()).relu())


class Padded(nn.Conv2d):
    """Pads by itself where torch's class convolves."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(functional.pad(x, (2, 0, 2, 0)), weight, bias, self.stride)


class Partial(nn.Conv2d):
    """A partial convolution whose bias stands outside of the scaling."""

    def forward(self, x: Tensor) -> Tensor:
        mask = (x[:, :1] > 0).float()
        seen = functional.conv2d(mask, torch.ones(1, 1, 3, 3)).clamp_min(1)
        bias = self.bias.view(1, -1, 1, 1)
        return (super().forward(x * mask) - bias) * (9 / seen) + bias


class Blurred(nn.Module):
    """A fixed filter in front of a convolution."""

    def __init__(self, *args: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(*args)
        self.register_buffer("kernel", torch.ones(args[0], 1, 3, 3) / 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.conv2d(x, self.kernel, padding=1, groups=x.shape[1]))


class Twice(nn.Conv2d):
    """One weight at two dilations."""

    def forward(self, x: Tensor) -> Tensor:
        other = functional.conv2d(x, self.weight, self.bias, padding=2, dilation=2)
        return functional.conv2d(x, self.weight, self.bias, padding=1) + other


class Matrices(nn.Module):
    """Matrix products with parameters, as people write them by hand."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(inner, 32) / 4), nn.Parameter(torch.randn(outer, 32) / 4)
        self.b = nn.Parameter(torch.randn(outer))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul((x @ self.w).relu(), self.v.T) + self.b


class Concatenated(nn.Module):
    """A layer whose weight is read and whose bias is put together, as BEiT has it."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.qk, self.q = nn.Linear(inner, outer, bias=False), nn.Parameter(torch.randn(outer // 2))
        self.register_buffer("k", torch.zeros(outer // 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(input=x, weight=self.qk.weight, bias=torch.cat((self.q, self.k)))


class ScaledTable(nn.Embedding):
    """What is looked up is scaled."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 4


class ComputedTable(nn.Embedding):
    """The table is computed."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.embedding(x, functional.normalize(self.weight))


class Table(nn.Module):
    """A table that is a bare parameter."""

    def __init__(self, many: int, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(many, size))

    def forward(self, x: Tensor) -> Tensor:
        return functional.embedding(x, self.table)


class Recurrent(nn.Module):
    """A loop over positions that multiplies by a parameter, and by a computed weight, at each."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.state = nn.Parameter(torch.randn(16, 4) / 2), nn.Parameter(torch.randn(16, 16) / 4)
        self.o = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 16)
        for t in range(x.shape[1]):
            h = (functional.linear(x[:, t], self.inner) + functional.linear(h, self.state / 2)).tanh()
        return self.o(h)


class Normal(nn.Module):
    """A layer and a BatchNorm called by keyword."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.a, self.n, self.o = nn.Linear(inner, 64), nn.BatchNorm1d(64), nn.Linear(64, outer)
        nn.init.uniform_(self.n.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.n(input=self.a(input=x)).relu())


@pytest.fixture(autouse=True)
def mixed_answers_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that depends on the input mixes the examples of a batch, which is refused; here is tested what is found in it."""
    monkeypatch.setattr("dyncompress.models.torch.batches.refuse_mixing", lambda *_: None)


def linear(layer: Callable[[int, int], nn.Module]) -> nn.Module:
    return nn.Sequential(layer(20, 64), nn.ReLU(), nn.Linear(64, 5))


def words(table: Callable[[int, int], nn.Module]) -> nn.Module:
    return nn.Sequential(table(30, 16), nn.Flatten(), nn.Linear(96, 5))


def tied_words() -> nn.Module:
    model = nn.Sequential(ScaledTable(30, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 30, bias=False))
    model[3].weight = model[0].weight
    return model


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and what `open_model` should make of it."""

    build: Callable[[], nn.Module]
    layers: tuple[str, ...]
    alone: tuple[str, ...] = ()
    data: Callable[[], Tensor] = lambda: randn(64, 20)


CASES = {
    "mask on the weight": Case(lambda: linear(Masked), ("0.computed_layer", "2")),
    "low-rank term": Case(lambda: linear(Adapted), ("0.computed_layer", "2")),
    "weight normalisation": Case(lambda: linear(Normalised), ("0.computed_layer", "2")),
    "weight as a property": Case(lambda: linear(Property), ("0.computed_layer", "2")),
    "bare parameters": Case(lambda: linear(Bare), ("0.layer", "0.layer_2", "2")),
    "weight handed over": Case(lambda: linear(Given), ("0.product.layer", "0.own", "2")),
    "products inside products": Case(
        lambda: linear(Inside), ("0.a.computed_layer", "0.computed_layer", "0.b.computed_layer", "2")
    ),
    "matrix products": Case(lambda: linear(Matrices), ("0.computed_layer", "0.layer", "2")),
    "bias put together": Case(lambda: linear(Concatenated), ("0.layer", "2")),
    "scaled table": Case(lambda: words(ScaledTable), ("0", "2"), data=lambda: ids(64, 6)),
    "scaled table, tied": Case(tied_words, ("1", "3"), data=lambda: ids(64, 6)),
    "computed table": Case(lambda: words(ComputedTable), ("0.computed_layer", "2"), data=lambda: ids(64, 6)),
    "bare table": Case(lambda: words(Table), ("0.layer", "2"), data=lambda: ids(64, 6)),
    "loop": Case(Recurrent, ("layer", "computed_layer", "o"), data=lambda: randn(64, 6, 4)),
    "weight from the input": Case(lambda: linear(Dynamic), ("0", "2"), ("0",)),
    "around a weight from the input": Case(
        lambda: linear(Around), ("0.a", "0.computed_layer", "0.b.computed_layer", "2"), ("0.a",)
    ),
    "tied": Case(lambda: Tied(20, 5), ("a.layer", "o")),
    "BatchNorm by keyword": Case(lambda: Normal(20, 5), ("a", "o")),
    "own padding": Case(lambda: calls.two(Padded), ("0.layer", "2.layer", "5"), data=images),
    "bias outside": Case(lambda: calls.two(Partial), ("0.layer", "2.layer", "5"), data=images),
    "fixed filter": Case(lambda: calls.two(Blurred), ("0.conv", "2.conv", "5"), data=images),
    "two dilations": Case(lambda: calls.two(Twice), ("0.layer", "2.layer", "5"), data=images),
    "own BatchNorm": Case(lambda: calls.two(calls.ConvNorm), ("0.layer", "2.layer", "5"), data=images),
    "transposed, by keyword": Case(calls.UpByName, ("d", "u.layer", "o"), data=images),
}


@pytest.mark.parametrize("name", CASES)
def test_every_product_has_a_plain_layer(name: str) -> None:
    case = CASES[name]
    model, data = seeded(case.build)(), case.data()
    wanted = model(data).detach()
    adapter = open_model(model, {"x": data[:2]})
    layers = adapter.layers()
    assert {layer.name for layer in layers} == set(case.layers)
    assert {layer.name for layer in layers if layer.left_alone} == set(case.alone)
    torch.testing.assert_close(adapter.predict({"x": data})[0], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(data), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_a_new_weight_reaches_the_output_and_the_file(name: str) -> None:
    case = CASES[name]
    data = case.data()
    adapter = open_model(seeded(case.build)(), {"x": data[:2]})
    chosen = [layer for layer in adapter.layers() if not layer.left_alone]
    new = adapter.edited([SetWeight(layer.name, torch.zeros(layer.shape)) for layer in chosen])
    assert bool((new.predict({"x": data})[0] - adapter.predict({"x": data})[0]).abs().max() > 0.02)
    content, places = new.to_onnx()
    assert set(places) >= {layer.name for layer in chosen}
    (found,) = session_of(content).run(None, {"x": data.numpy()})
    np.testing.assert_allclose(found, new.predict({"x": data})[0].numpy(), rtol=1e-4, atol=1e-5)


def test_a_loop_over_a_longer_sequence_has_the_same_layers() -> None:
    model = seeded(Recurrent)()
    adapter = open_model(model, {"x": randn(2, 6, 4)})
    assert adapter.trace.calls == {"layer": 6, "computed_layer": 6, "o": 1}
    longer = randn(8, 9, 4)
    torch.testing.assert_close(adapter.predict({"x": longer})[0], model(longer), rtol=1e-4, atol=1e-5)
    new = adapter.edited(
        [SetWeight(name, 0.5 * adapter.module.get_submodule(name).weight) for name in ("layer", "computed_layer")]
    )
    with torch.no_grad():
        model.inner.mul_(0.5), model.state.mul_(0.5)
    torch.testing.assert_close(new.predict({"x": longer})[0], model(longer), rtol=1e-4, atol=1e-5)


def test_the_inputs_that_are_observed_are_those_the_weight_multiplies() -> None:
    model, data = seeded(lambda: calls.Partial(False))(), images()
    found = dict(open_model(model, {"x": data[:2]}).observe([InputMoment()], [{"x": data}]))
    masked = functional.unfold(data * (data[:, :1] > 0), 3, padding=1)
    moment = torch.einsum("nip,njp->ij", masked, masked) / (len(data) * masked.shape[2])
    torch.testing.assert_close(found["a.layer"][InputMoment()][0], moment, rtol=1e-4, atol=1e-5)


def test_a_transposed_convolution_is_observed_at_the_size_that_its_call_asks_for() -> None:
    model, data = seeded(calls.UpByName)(), images()
    adapter = open_model(model, {"x": data[:2]})
    layer = adapter.module.get_submodule("u.layer")
    assert layer.output_padding == (1, 1)
    y = model.d(data).relu().detach()
    weight = model.u.weight.detach().double()
    moment = dict(adapter.observe([InputMoment()], [{"x": data}]))["u.layer"][InputMoment()][0].double()
    rows = weight.transpose(0, 1).flatten(1)
    power = (model.u(y, [12, 12]) - model.u.bias.view(1, -1, 1, 1)).double().square().mean((0, 2, 3))
    torch.testing.assert_close(((rows @ moment) * rows).sum(1), power.detach(), rtol=1e-3, atol=1e-6)


class Late(nn.Module):
    """A residual block whose shortcut is computed behind its last layer."""

    def __init__(self, conv: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.a, self.b = conv(8, 16), conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        return y + functional.pad(x, (0, 0, 0, 0, 0, 8))


class Unnormalised(nn.Conv2d):
    """A convolution and its BatchNorm in one module, without a ReLU."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(inner, outer, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outer)
        nn.init.uniform_(self.bn.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(super().forward(x))


def apart(inner: int, outer: int) -> nn.Module:
    """The same as two modules."""
    one = Unnormalised(inner, outer)
    plain = nn.Conv2d(inner, outer, 3, padding=1, bias=False)
    plain.weight = one.weight
    return nn.Sequential(plain, one.bn)


def late(conv: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(conv(3, 8), Late(conv), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


def test_a_layer_inside_a_module_is_rounded_as_a_layer_is() -> None:
    outside, inside = (seeded(lambda conv=conv: late(conv))() for conv in (apart, Unnormalised))
    for name in ("0", "1.a", "1.b"):
        source, target = outside.get_submodule(name), inside.get_submodule(name)
        target.weight, target.bn = source[0].weight, source[1]
    inside[5] = outside[5]
    torch.testing.assert_close(outside(images()), inside(images()), rtol=1e-5, atol=1e-6)
    found = [dc.compress(model, quick("edge-int4"), target=TARGET, calibration=images()) for model in (outside, inside)]
    runs = [session_of(one.body).run(None, {"input": images().numpy()})[0] for one in found]
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-3, atol=1e-4)
    assert found[1].parity.relative_error < 0.05


def quick(recipe: str) -> dc.Recipe:
    spec = load_recipe(recipe)
    distill = replace(spec.distill, epochs=min(1, spec.distill.epochs), weight_epochs=min(1, spec.distill.weight_epochs))
    return replace(spec, mirrored=False, distill=distill)


@pytest.mark.parametrize("name", calls.SUBJECTS)
@pytest.mark.parametrize("recipe", [pytest.param("edge-int8", marks=pytest.mark.slow), "edge-int4"])
def test_layers_called_in_all_ways_are_compressed(name: str, recipe: str) -> None:
    subject = calls.SUBJECTS[name]
    found = dc.compress(subject.model(), quick(recipe), target=TARGET, calibration=subject.data())
    assert found.parity.relative_error < 0.1
    assert found.plan.share_left_alone["weights"] == 0
