"""`fisher_trace` and `fisher_rao_norm`: closed forms, a linear regression, and what rescaling does to them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress.measures import FisherRaoNorm, FisherTrace
from dyncompress.models import open_model
from dyncompress.pipeline.recorded_run import recorded_run
from dyncompress.pipeline.saved_run import folded_fisher, row_gain
from dyncompress.recording.increment_fisher import ZEROED
from dyncompress.types import Estimate, Layer, Measure, Observation, Weight, WeightFisher

BATCH, STEPS = 16, 1200


def seen(weight: np.ndarray, fisher: np.ndarray) -> Observation:
    return Observation(Layer("fc", "linear", weight.shape, macs=weight.size), {Weight(): weight, WeightFisher(): fisher})


def of_module(module: nn.Module, state: object, example: torch.Tensor, measure: Measure) -> dict[str, Estimate]:
    """The measure of every layer, from what the training left behind."""
    model = open_model(module, {"input": example})
    run = recorded_run(state, model)
    weights = {name: observation[Weight()] for name, observation in model.observe((Weight(),))}
    layers = {layer.name: layer for layer in model.layers()}
    return {
        name: measure(Observation(layers[name], {Weight(): weight, **run.of(name, weight)})) for name, weight in weights.items()
    }


def test_the_definitions() -> None:
    weight, fisher = np.array([[1.0, -2.0], [0.5, 0.0]]), np.array([[4.0, 1.0], [8.0, 100.0]])
    trace, norm = FisherTrace()(seen(weight, fisher)), FisherRaoNorm()(seen(weight, fisher))
    assert (trace.value, norm.value) == (113 / 4, 4 + 4 + 2)
    assert trace.n == norm.n == 4
    assert trace.valid and norm.valid
    assert math.isnan(trace.stderr) and "no standard error" in norm.notes[0]


def test_weights_that_cost_nothing_count_in_the_mean() -> None:
    one, twice = np.ones((1, 2)), np.ones((2, 2))
    padded = np.array([[3.0, 5.0], [0.0, 0.0]])
    assert FisherTrace()(seen(twice, padded)).value == FisherTrace()(seen(one, padded[:1])).value / 2
    assert FisherRaoNorm()(seen(twice, padded)).value == FisherRaoNorm()(seen(one, padded[:1])).value


@pytest.mark.parametrize(
    ("weight", "fisher", "word"),
    [
        (np.ones((2, 2)), np.zeros((2, 2)), "no gradient"),
        (np.ones((2, 2)), np.full((2, 2), np.inf), "isn't finite"),
        (np.ones((2, 2)), np.full((2, 2), np.nan), "isn't finite"),
        (np.ones((0, 2)), np.zeros((0, 2)), "no gradient"),
    ],
)
def test_what_gives_no_number_says_why(weight: np.ndarray, fisher: np.ndarray, word: str) -> None:
    for measure in (FisherTrace(), FisherRaoNorm()):
        found = measure(seen(weight, fisher))
        assert math.isnan(found.value) and not found.valid
        assert word in found.notes[0]


def test_a_linear_regression_trained_by_adam_has_its_fisher_information() -> None:
    """y = W x + noise of variance 1: the Fisher information of W_oi is E x_i^2, whatever o is."""
    torch.manual_seed(0)
    sizes = torch.tensor([0.5, 1.0, 2.0, 3.0])
    layer = nn.Linear(4, 3, bias=False)
    truth = layer.weight.detach().clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-5)
    for _ in range(STEPS):
        x = sizes * torch.randn(BATCH, 4)
        target = x @ truth.T + torch.randn(BATCH, 3)
        loss = (layer(x) - target).square().sum(1).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    whole = {"model": layer.state_dict(), "optimizer": optimizer.state_dict(), "batch_size": BATCH}
    example = torch.randn(2, 4)
    trace = next(iter(of_module(layer, whole, example, FisherTrace()).values()))
    norm = next(iter(of_module(layer, whole, example, FisherRaoNorm()).values()))
    weight = layer.weight.detach()
    # 12 averages over about 1000 gradients each have a relative standard error of about 2 %
    assert trace.value == pytest.approx(sizes.square().mean().item(), rel=0.1)
    assert norm.value == pytest.approx((weight.square() * sizes.square()).sum().item(), rel=0.1)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    inputs = [torch.randn(BATCH, 6, generator=draw) for _ in range(60)]
    return [(x, (x[:, 0] > 0).long()) for x in inputs]


def still(model: nn.Module) -> dict[str, object]:
    """The checkpoint of a run of Adam that doesn't move: the squares of the gradients at these weights."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    for x, y in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "batch_size": BATCH}


def sums(model: nn.Module, measure: Measure) -> float:
    found = of_module(model, still(model), torch.zeros(2, 6), measure)
    return sum(one.value for one in found.values())


def relu_network() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize("factor", [0.2, 4.0])
def test_layers_of_a_relu_network_can_be_rescaled(factor: float) -> None:
    """A factor into a hidden layer and one over it out of it: the same function and Fisher-Rao norm, another trace."""
    plain, other = relu_network(), relu_network()
    with torch.no_grad():
        other[0].weight.mul_(factor)
        other[0].bias.mul_(factor)
        other[2].weight.div_(factor)
    x = batches()[0][0]
    torch.testing.assert_close(plain(x), other(x))
    assert sums(other, FisherRaoNorm()) == pytest.approx(sums(plain, FisherRaoNorm()), rel=1e-4)
    assert abs(math.log(sums(other, FisherTrace()) / sums(plain, FisherTrace()))) > math.log(1.5)


def test_units_can_be_rescaled_up_to_the_share_of_the_mean_gradient() -> None:
    """That share is estimated for a whole parameter, in which rescaled units weigh more or less than before."""
    plain, other = relu_network(), relu_network()
    factors = torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 0.2, 3.0])
    with torch.no_grad():
        other[0].weight.mul_(factors[:, None])
        other[0].bias.mul_(factors)
        other[2].weight.div_(factors)
    assert sums(other, FisherRaoNorm()) == pytest.approx(sums(plain, FisherRaoNorm()), rel=0.3)


def test_folding_changes_neither_the_norm_nor_what_an_error_costs() -> None:
    """Rows times the gains of a normalisation layer: f w^2 is the same for every weight."""
    draw = np.random.default_rng(0)
    trained, fisher = draw.standard_normal((5, 7)), draw.exponential(1.0, (5, 7))
    gains = np.array([0.1, 0.5, 1.0, 3.0, 20.0])[:, None]
    folded = torch.from_numpy((trained * gains).astype(np.float32))
    turned = folded_fisher(fisher, row_gain(trained, folded), folded)
    norm = FisherRaoNorm()(Observation(Layer("fc", "linear", (5, 7), macs=35), {Weight(): folded, WeightFisher(): turned}))
    assert norm.value == pytest.approx(FisherRaoNorm()(seen(trained, fisher)).value, rel=1e-5)
    np.testing.assert_allclose(turned.numpy(), fisher / gains**2, rtol=1e-5)


def test_what_a_normalisation_layer_undoes_does_not_count() -> None:
    """Weights before BatchNorm times 5: folding gives the same weights and the same Fisher information."""

    def network(factor: float) -> nn.Sequential:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, eps=1e-12), nn.ReLU(), nn.Linear(8, 2))
        with torch.no_grad():
            model[0].weight.mul_(factor)
            model[1].running_var.mul_(factor**2)
        return model.eval()

    for measure in (FisherTrace(), FisherRaoNorm()):
        assert sums(network(5.0), measure) == pytest.approx(sums(network(1.0), measure), rel=1e-3)


def test_a_recipe_can_name_them() -> None:
    """Where the batch size is unknown the sum over layers is a fixed number, as the docstring says."""
    model = relu_network()
    state = {key: value for key, value in still(model).items() if key != "batch_size"}
    measures = {"fisher_trace": FisherTrace(), "fisher_rao_norm": FisherRaoNorm()}
    recipe = replace(dc.load_recipe("trajectory"), measures=measures)
    profile = dc.measure(model, recipe, target="onnxruntime-x86-vnni", example=torch.zeros(2, 6), trajectory=state)
    assert profile.estimates["fisher_trace"].keys() == {"0", "2", "4"}
    assert sum(one.value for one in profile.estimates["fisher_rao_norm"].values()) == pytest.approx(2 * ZEROED, rel=1e-5)
