"""Observed values against naive computations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch import layers
from dyncompress.models.torch.opening import open_model
from dyncompress.types import Bias, InputMoment, Layer, OutputFisher, OutputMoments, Spectrum, Weight


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


SHAPES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Linear(5, 4), inputs(6, 5)),
    "linear over a sequence": (lambda: nn.Linear(5, 4), inputs(6, 3, 5)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2), inputs(5, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), inputs(5, 3, 6, 7)),
    "strided": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 3), padding=(1, 0)), inputs(5, 3, 7, 8)),
    "dilated": (lambda: nn.Conv2d(2, 4, 3, dilation=(2, 1), padding=2), inputs(5, 2, 7, 6)),
    "grouped": (lambda: nn.Conv2d(6, 4, 3, groups=2, padding=1), inputs(5, 6, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), inputs(5, 4, 5, 5)),
    "reflect": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), inputs(5, 2, 5, 5)),
    "same": (lambda: nn.Conv2d(2, 3, 3, padding="same", dilation=(1, 2)), inputs(5, 2, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), inputs(3, 2, 3, 4, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), inputs(4, 3, 4, 5)),
    "transposed grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=(2, 1), groups=2, dilation=(1, 2)), inputs(4, 4, 4, 5)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(3, 2, 4, stride=3, padding=2), inputs(4, 3, 6)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_input_moment_predicts_the_output_energy_of_any_weight(name: str) -> None:
    """For every weight W, mean over examples and positions of (W x)^2 is w H w^T: true for the layer's own inputs only."""
    make, x = SHAPES[name]
    model = open_model(nn.Sequential(make()), {"x": x})
    observation = dict(model.observe((InputMoment(),), [{"x": x[:2]}, {"x": x[2:]}]))["0"]
    moment, layer = observation[InputMoment()].double(), model.module.get_submodule("0")
    groups, fan_in, _ = moment.shape
    assert (groups, fan_in) == (observation.layer.groups, observation.layer.fan_in)
    for seed in range(3):
        weight = torch.randn(observation.layer.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            layer.weight.copy_(layers.native_layout(layer, weight))
            layer.bias.zero_()
            output = layer(x).double()
        axis = layers.channel_axis(layer, output)
        energy = output.movedim(axis, 0).flatten(1).square().mean(1)
        rows = weight.double().reshape(groups, -1, fan_in)
        predicted = ((rows @ moment) * rows).sum(-1).flatten()
        assert torch.allclose(predicted, energy, rtol=1e-4), name


class Small(nn.Module):
    """Convolution, in-place activation, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).mean((2, 3)))


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small().eval()


def naive_fisher(module: Small, x: Tensor) -> tuple[Tensor, Tensor]:
    """Exact Fisher information: every label of every example, weighted by its probability, one backward pass each."""
    conv_total, head_total = torch.zeros(3), torch.zeros(4)
    for example in x:
        before = module.conv(example[None])
        scores = module.head(functional.relu(before).mean((2, 3)))
        logs = functional.log_softmax(scores, 1)[0]
        for label in range(4):
            conv, head = torch.autograd.grad(logs[label], (before, scores), retain_graph=True)
            parts = 0.95 * conv.square().sum((0, 2, 3)) + 0.05 * conv.sum((2, 3)).square().sum(0)
            conv_total += logs[label].exp().detach() * parts
            head_total += logs[label].exp().detach() * head.square()[0]
    return conv_total / len(x), head_total / len(x)


def test_the_fisher_information_against_every_label() -> None:
    module, x = small(), inputs(4, 2, 5, 5)
    model = open_model(module, {"x": x})
    repeated = [{"x": x.repeat(500, 1, 1, 1)}]
    found = dict(model.observe((OutputFisher(),), repeated, seed=3))
    conv, head = naive_fisher(module, x)
    # 2 000 drawn labels: a squared gradient varies by about its own size, so 3 standard errors are 7 %.
    assert torch.allclose(found["conv"][OutputFisher()], conv, rtol=0.1)
    assert torch.allclose(found["head"][OutputFisher()], head, rtol=0.1)


def test_the_fisher_information_predicts_the_divergence() -> None:
    module, x = small(), inputs(256, 2, 5, 5)
    model = open_model(module, {"x": x})
    fisher = dict(model.observe((OutputFisher(),), [{"x": x}]))["conv"][OutputFisher()]
    generator = torch.Generator().manual_seed(1)
    own, alike = torch.randn(256, 3, 3, 3, generator=generator), torch.randn(256, 3, 1, 1, generator=generator)
    error = 0.05 * (0.95**0.5 * own + 0.05**0.5 * alike)  # a twentieth of the power is alike at all positions
    with torch.no_grad():
        before = functional.log_softmax(module(x), 1)
        after = functional.log_softmax(module.head(functional.relu(module.conv(x) + error).mean((2, 3))), 1)
    divergence = float((before.exp() * (before - after)).sum(1).mean())
    predicted = 0.5 * float((fisher * error.square().mean((0, 2, 3))).sum())
    assert predicted == pytest.approx(divergence, rel=0.25)


def test_the_fisher_information_is_repeatable_and_seeded() -> None:
    x = inputs(8, 2, 5, 5)
    model = open_model(small(), {"x": x})
    first, again, other = (dict(model.observe((OutputFisher(),), [{"x": x}], seed=s))["conv"][OutputFisher()] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert all(p.requires_grad and p.grad is None for p in model.module.parameters())


def test_outputs_that_are_no_scores_are_read_as_gaussian_means() -> None:
    """y = W x with unit-variance noise of the output's own size: the Fisher information of a channel is 1 / var(y)."""
    layer = nn.Linear(3, 4, bias=False)
    x = inputs(400, 6, 3)
    model = open_model(nn.Sequential(layer), {"x": x})
    found = dict(model.observe((OutputFisher(),), [{"x": x}]))["0"][OutputFisher()]
    expected = 6 / float(layer(x).detach().var())
    assert torch.allclose(found, torch.full((4,), expected), rtol=0.15)


def test_output_moments_and_the_other_needs() -> None:
    module, x = small(), inputs(7, 2, 5, 5)
    model = open_model(module, {"x": x})
    needs = (Weight(), Bias(), Spectrum("flat"), OutputMoments(), InputMoment(), OutputFisher())
    found = dict(model.observe(needs, iter([{"x": x[:3]}, {"x": x[3:]}])))
    output = module.conv(x).detach()
    mean, std = found["conv"][OutputMoments()]
    assert torch.allclose(mean, output.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(std, output.std((0, 2, 3), correction=0), atol=1e-5)
    assert torch.equal(found["conv"][Weight()], module.conv.weight)
    assert torch.equal(found["conv"][Bias()], module.conv.bias)
    values = found["conv"][Spectrum("flat")][0]
    assert float(values.sum()) == pytest.approx(float(module.conv.weight.detach().square().sum()), rel=1e-5)
    assert list(found) == ["conv", "head"]


def same_sums(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Whether sums agree that were added up in another order: to a share of the largest, since small ones may cancel."""
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


def test_layers_that_do_not_fit_together_take_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from dyncompress.models.torch import observing

    x = inputs(4, 2, 5, 5)
    model = open_model(small(), {"x": x})
    whole = dict(model.observe((InputMoment(), OutputFisher()), [{"x": x}]))
    monkeypatch.setattr(observing, "_MOMENT_BYTES", 1)
    monkeypatch.setattr(observing, "_LIVE_NUMBERS", 1)
    parts = dict(model.observe((InputMoment(), OutputFisher()), [{"x": x}]))
    for name in whole:
        assert same_sums(whole[name][InputMoment()], parts[name][InputMoment()], 1e-5)
        assert same_sums(whole[name][OutputFisher()], parts[name][OutputFisher()], 1e-4)


def test_moments_of_one_pass_take_no_more_than_the_largest_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    from dyncompress.models.torch import observing

    monkeypatch.setattr(observing, "_MOMENT_BYTES", 1)
    layers = [Layer(str(i), "conv2d", (4, width, 3, 3), 1) for i, width in enumerate((1, 2, 8, 3, 5, 8, 2))]
    passes = list(observing._passes(layers, (InputMoment(),)))
    assert [layer for block in passes for layer in block] == layers
    largest = max(layer.fan_in**2 for layer in layers)
    assert all(sum(layer.fan_in**2 for layer in block) <= largest for block in passes) and len(passes) == 5
    assert list(observing._passes(layers, (OutputFisher(),))) == [layers], "Fisher information alone takes one pass"


def test_a_pass_ends_where_the_last_of_its_layers_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    from dyncompress.models.torch import observing

    monkeypatch.setattr(observing, "_MOMENT_BYTES", 1)
    x = inputs(4, 2, 5, 5)
    model = open_model(small(), {"x": x})
    whole = [len(dict(model.observe((InputMoment(), OutputMoments()), [{"x": x}]))), 0]
    model.module.act.register_forward_hook(lambda *_: whole.__setitem__(1, whole[1] + 1))
    found = dict(model.observe((InputMoment(),), [{"x": x[:2]}, {"x": x[2:]}]))
    assert set(found) == {"conv", "head"}
    passes = len(list(observing._passes(model.layers(), (InputMoment(),))))
    assert passes == 2 and whole == [2, 2], "what follows the convolution ran for the linear layer's pass alone"


def test_the_fisher_information_is_taken_on_the_first_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    from dyncompress.models.torch import observing

    monkeypatch.setattr(observing, "_FISHER_EXAMPLES", 3)
    x = inputs(8, 2, 5, 5)
    model = open_model(small(), {"x": x})
    batches = [{"x": part} for part in x.split(2)]
    few = dict(model.observe((OutputFisher(),), batches[:2], seed=1))
    for needs in ((OutputFisher(),), (InputMoment(), OutputFisher())):
        found = dict(model.observe(needs, batches, seed=1))
        assert all(torch.equal(found[name][OutputFisher()], few[name][OutputFisher()]) for name in few)
    every = dict(model.observe((InputMoment(),), batches))["head"][InputMoment()]
    assert same_sums(found["head"][InputMoment()], every, 1e-6), "moments are still of all examples"


def test_missing_and_misfitting_data_are_named() -> None:
    model = open_model(small(), {"x": inputs(2, 2, 5, 5)})
    with pytest.raises(InvalidRequest, match="needs calibration data"):
        list(model.observe((InputMoment(),), []))
    with pytest.raises(InvalidRequest, match=r"calibration batch \(x \[2, 3, 5, 5\]\)"):
        list(model.observe((InputMoment(),), [{"x": inputs(2, 3, 5, 5)}]))
    with pytest.raises(InvalidRequest, match="was not collected"):
        dict(model.observe((Weight(),)))["conv"][InputMoment()]
