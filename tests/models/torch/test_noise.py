"""How noise travels: cushions by the definition, gains against whole Jacobians and against noise that is really added."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.measures import LayerCushion, NoiseAttenuation
from dyncompress.models.torch import noise
from dyncompress.models.torch.opening import open_model
from dyncompress.types import NoiseGain


def inputs(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def observed(module: nn.Module, x: Tensor, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    model = open_model(module, {"x": x})
    found = dict(model.observe((NoiseGain(),), [{"x": x[:3]}, {"x": x[3:]}], seed=seed))
    return {name: observation[NoiseGain()] for name, observation in found.items()}


LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Linear(5, 4), inputs(6, 5)),
    "linear over a sequence": (lambda: nn.Linear(5, 4), inputs(6, 3, 5)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=2), inputs(6, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), inputs(6, 3, 6, 7)),
    "grouped": (lambda: nn.Conv2d(6, 4, 3, groups=2), inputs(6, 6, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), inputs(6, 3, 4, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_cushion_is_the_output_over_the_norms(name: str) -> None:
    """||W X|| by the layer without its bias; ||X|| by the moment: ||W X||^2 summed over all unit weights W."""
    make, x = LAYERS[name]
    model = open_model(nn.Sequential(make()), {"x": x})
    layer = model.module.get_submodule("0")
    cushions = dict(model.observe((NoiseGain(),), [{"x": x}]))["0"][NoiseGain()][0]
    kept: Tensor = layer.weight.detach().clone()
    bias = layer.bias.detach().clone()
    with torch.no_grad():
        layer.bias.zero_()
        went = layer(x).reshape(6, -1).double().square().sum(1)
        came = torch.zeros(6, dtype=torch.float64)
        rows = 1 if layer.weight.ndim == 2 or "transposed" not in name else None
        for index in np.ndindex(*kept.shape):
            first = index[0] % (layer.weight.shape[0] // getattr(layer, "groups", 1)) if rows else index[1]
            if first != 0:
                continue  # one output channel of every group sees all of the inputs once
            layer.weight.zero_()
            layer.weight[index] = 1.0
            came += layer(x).reshape(6, -1).double().square().sum(1)
        layer.weight.copy_(kept)
        layer.bias.copy_(bias)
    expected = (went / (came * kept.double().square().sum())).sqrt()
    assert torch.allclose(cushions, expected, rtol=1e-5)
    assert float(cushions.max()) <= 1


def test_a_weight_that_is_its_input_has_cushion_one_and_noise_shows_as_its_inverse() -> None:
    x = inputs(1, 6)
    layer = nn.Linear(6, 1, bias=False)
    layer.weight.data.copy_(x)
    (cushion, _) = dict(open_model(nn.Sequential(layer), {"x": x}).observe((NoiseGain(),), [{"x": x}]))["0"][NoiseGain()]
    assert float(cushion[0]) == pytest.approx(1.0, rel=1e-6)
    weight = inputs(4, 6, seed=3)
    mu = float((weight @ x[0]).norm() / (weight.norm() * x.norm()))
    noise = inputs(40_000, 6, seed=4) * x.norm()
    shown = float((noise @ weight.T).square().sum(1).mean() / (weight @ x[0]).square().sum())
    assert shown == pytest.approx(1 / mu**2, rel=0.05)  # Proposition 3.1 of the paper


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)
        ).eval()


def test_the_gain_against_whole_jacobians() -> None:
    module, x = network(), inputs(5, 1, 4, 4)
    gains = torch.stack([observed(module, x, seed)["0"][1] for seed in range(200)])
    last = observed(module, x)["5"][1]
    assert torch.allclose(last, torch.ones(5, dtype=torch.float64))  # J is the identity
    for i in range(5):
        with torch.no_grad():
            y, f = module[0](x[i : i + 1]), module(x[i : i + 1])
        jacobian = torch.autograd.functional.jacobian(lambda y: module[1:](y.clone()), y).double()
        exact = float(jacobian.square().sum() * y.double().square().sum() / (y.numel() * f.double().square().sum()))
        mean, error = gains[:, i].square().mean(), gains[:, i].square().std() / 200**0.5
        assert abs(float(mean) - exact) < 4 * float(error)


def test_added_noise_reaches_the_output_as_predicted() -> None:
    module, x = network(), inputs(40, 1, 4, 4)
    foretold = float(torch.stack([observed(module, x, s)["3"][1].square() for s in range(20)]).mean().sqrt())
    with torch.no_grad():
        y = module[:4](x)
        f = module[4:](y)
        noise = 1e-3 * inputs(400, *y.shape, seed=9) * y.norm(dim=1, keepdim=True) / y.shape[1] ** 0.5
        shift = (module[4:](y + noise) - f).square().sum(2) / f.square().sum(1) / 1e-6
    assert float(shift.mean().sqrt()) == pytest.approx(foretold, rel=0.05)


def test_it_is_seeded_and_leaves_the_module_alone() -> None:
    model, x = open_model(network(), {"x": inputs(5, 1, 4, 4)}), inputs(5, 1, 4, 4)
    before = [p.detach().clone() for p in model.module.parameters()]
    first, again, other = (dict(model.observe((NoiseGain(),), [{"x": x}], seed=s))["0"][NoiseGain()][1] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert all(
        torch.equal(a, b) and b.requires_grad and b.grad is None for a, b in zip(before, model.module.parameters(), strict=True)
    )


def test_only_the_first_examples_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_EXAMPLES", 8)
    monkeypatch.setattr(noise, "_AT_ONCE", 4)
    x = inputs(20, 1, 4, 4)
    model = open_model(network(), {"x": x})
    cushions, gains = dict(model.observe((NoiseGain(),), [{"x": x}]))["3"][NoiseGain()]
    assert len(cushions) == len(gains) == 8


def test_measures_read_it_and_zero_inputs_have_no_ratio() -> None:
    x = inputs(40, 1, 4, 4)
    x[0] = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)  # of some weights an example leaves no ReLU active, and has no ratio either
        module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).eval()
    model = open_model(module, {"x": x})
    for name, observation in model.observe((NoiseGain(),), [{"x": x}]):
        cushion, attenuation = LayerCushion()(observation), NoiseAttenuation()(observation)
        assert cushion.n == attenuation.n == 39
        assert cushion.valid and attenuation.valid
        assert attenuation.stderr > 0 if name == "1" else attenuation.value == pytest.approx(1.0)
        assert 0 < cushion.value <= LayerCushion(share=0.5)(observation).value < 1


def test_missing_and_misfitting_data_are_named() -> None:
    model = open_model(network(), {"x": inputs(2, 1, 4, 4)})
    with pytest.raises(InvalidRequest, match="needs calibration data"):
        list(model.observe((NoiseGain(),), []))
    with pytest.raises(InvalidRequest, match="can't run on a calibration batch"):
        list(model.observe((NoiseGain(),), [{"x": inputs(2, 3, 4, 4)}]))
