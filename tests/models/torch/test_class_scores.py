"""A network that ends in a softmax is judged as the same network without it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from dyncompress.measures.divergence import divergence, divergence_of_outputs
from dyncompress.models.torch.class_scores import are_probabilities, as_scores
from dyncompress.models.torch.distillation import loss
from dyncompress.models.torch.opening import open_model
from dyncompress.types import OutputFisher


def networks() -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    return net, nn.Sequential(*net, nn.Softmax(dim=1)).eval()


X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


def test_fisher_information_does_not_see_the_softmax() -> None:
    found = []
    for net in networks():
        model = open_model(net, {"input": X})
        found.append({name: seen[OutputFisher()] for name, seen in model.observe((OutputFisher(),), [{"input": X}])})
    for name, fisher in found[0].items():
        torch.testing.assert_close(found[1][name], fisher, rtol=1e-4, atol=1e-9)


def test_divergences_and_losses_are_those_of_the_scores() -> None:
    plain, ended = networks()
    with torch.no_grad():
        scores, chances = plain(X), ended(X)
        other = scores + 0.3 * torch.randn(scores.shape, generator=torch.Generator().manual_seed(2))
    moved = other.softmax(1)
    assert are_probabilities(chances) and not are_probabilities(scores)
    wanted = divergence(scores.numpy(), other.numpy())
    assert wanted > 1e-3
    assert np.isclose(divergence(chances.numpy(), moved.numpy()), wanted, rtol=1e-4)
    assert np.isclose(divergence_of_outputs([chances.numpy()], [moved.numpy()]).mean(), wanted, rtol=1e-4)
    assert np.isclose(float(loss([chances], [moved])), float(loss([scores], [other])), rtol=1e-4)
    torch.testing.assert_close(as_scores(moved, chances).softmax(1), moved)


def test_a_probability_of_zero_is_finite_and_scores_stay_scores() -> None:
    certain = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert as_scores(certain).isfinite().all()
    assert np.isfinite(divergence(certain.numpy(), np.array([[0.0, 1.0], [0.5, 0.5]])))
    scores = torch.tensor([[3.0, -2.0], [0.5, 0.5]])
    assert as_scores(scores) is scores
