"""The input prior: recovery of products, the moment as a matrix, the cost of independent errors, the default mean."""

from __future__ import annotations

import math

import pytest
import torch

from dyncompress.quantization.input_prior import InputPrior
from dyncompress.types import Layer, Need, Observation, Weight, WeightFisher

SHAPES = {"conv": ((8, 6, 3, 3), 1), "wide": ((6, 4, 1, 5), 2), "depthwise": ((8, 1, 3, 3), 8), "linear": ((5, 7), 1)}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(name, kind="conv2d", fisher=None):
    shape, groups = SHAPES[name]
    weight = normal(*shape)
    values: dict[Need, torch.Tensor] = {Weight(): weight}
    if fisher is not None:
        values[WeightFisher()] = fisher
    return weight, Observation(Layer(name, kind, shape, 0, groups), values)


@pytest.mark.parametrize("name", SHAPES)
def test_a_product_of_rows_and_columns_is_recovered(name: str) -> None:
    shape, groups = SHAPES[name]
    rows, columns = normal(shape[0], seed=1).exp(), normal(groups, math.prod(shape[1:]), seed=2).exp()
    columns /= columns.mean(1, keepdim=True)
    fisher = (rows.unflatten(0, (groups, -1))[:, :, None] * columns[:, None, :]).reshape(shape)
    outputs, profile = InputPrior().split(*case(name, fisher=fisher))
    assert profile.mean(1).tolist() == pytest.approx([1.0] * groups)
    few = 8 * torch.finfo(torch.float32).eps  # the products came in float32, and all terms of their sums are positive
    torch.testing.assert_close(outputs, rows.double() + 0.01 * rows.double().mean(), rtol=few, atol=0)
    torch.testing.assert_close(profile, (columns.double() + profile.new_tensor(0.01)) / 1.01, rtol=0.01 * shape[0], atol=0.02)


@pytest.mark.parametrize("kind", ["conv2d", "embedding"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_energy_is_that_of_the_moment(name: str, kind: str) -> None:
    prior, (weight, observation) = InputPrior(mean=0.4, near=0.7), case(name, kind, normal(*SHAPES[name][0], seed=3).square())
    _, columns = prior.split(weight, observation)
    moment = prior.moment(columns, weight.shape, kind)
    rows = weight.double().flatten(1).unflatten(0, (len(moment), -1))
    expected = ((rows @ moment) * rows).sum(-1).flatten()
    torch.testing.assert_close(prior.energy(weight, columns, kind), expected)
    assert float(torch.linalg.eigvalsh(moment).min()) > 0
    torch.testing.assert_close(moment.diagonal(dim1=-2, dim2=-1), columns)
    if kind == "embedding" and weight.ndim == 2:
        torch.testing.assert_close(moment[0], torch.diag(columns[0]))


def test_the_moment_entry_by_entry() -> None:
    weight, observation = case("conv")
    prior = InputPrior(mean=0.25, near=0.5)
    moment = prior.moment(prior.split(weight, observation)[1], weight.shape, "conv2d")[0].reshape(6, 3, 3, 6, 3, 3)
    for a, b, wanted in [((0, 0, 0), (0, 0, 0), 1.0), ((0, 0, 0), (1, 0, 0), 0.25), ((2, 0, 1), (2, 2, 0), 0.25 + 0.75 / 8)]:
        assert float(moment[(*a, *b)]) == pytest.approx(wanted)


@pytest.mark.parametrize("prior", [InputPrior(), InputPrior(mean=0.0), InputPrior(mean=0.8, near=0.9)])
def test_independent_errors_cost_the_same_on_average_under_any_prior(prior: InputPrior) -> None:
    fisher = normal(8, 6, 3, 3, seed=4).square()
    weight, observation = case("conv", fisher=fisher)
    rows, columns = prior.split(weight, observation)
    errors = [normal(8, 6, 3, 3, seed=seed) for seed in range(400)]
    cost = torch.stack([0.5 * (rows * prior.energy(error, columns, "conv2d")).sum() for error in errors])
    plain = 0.5 * float(fisher.sum()) * 1.01
    assert float(cost.mean()) == pytest.approx(plain, abs=4 * float(cost.std()) / 20)


def test_the_default_mean_is_that_of_a_rectified_gaussian() -> None:
    x = normal(1_000_000).relu()
    assert float(x.mean().square() / x.square().mean()) == pytest.approx(InputPrior().mean, abs=0.003)


@pytest.mark.parametrize("fisher", [None, torch.zeros(8, 6, 3, 3)])
def test_where_nothing_was_recorded_errors_count_relative_to_the_weights(fisher: torch.Tensor | None) -> None:
    weight, observation = case("conv", fisher=fisher)
    prior = InputPrior(mean=0.0, near=0.0)
    rows, columns = prior.split(weight, observation)
    assert 0.5 * float((rows * prior.energy(0.1 * weight, columns, "conv2d")).sum()) == pytest.approx(0.01, rel=1e-5)
