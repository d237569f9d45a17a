"""The Hessian's spectrum against the whole matrix by autograd, and Lanczos' quadrature against known spectra."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dyncompress.errors import InvalidRequest
from dyncompress.measures import HessianTrace, SharpnessDimension
from dyncompress.models.torch.curvature import lanczos, own_loss
from dyncompress.models.torch.opening import open_model
from dyncompress.types import HessianSpectrum


def inputs(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classifier() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).eval()


def whole_hessian(module: nn.Module, x: Tensor, name: str) -> Tensor:
    """Of the cross-entropy with the model's own answers, by the layer's weight, entry by entry."""
    labels = module(x).detach().argmax(1)
    parameters = dict(module.named_parameters())
    weight = parameters[name].detach()

    def loss(flat: Tensor) -> Tensor:
        scores = torch.func.functional_call(module, {**parameters, name: flat.reshape(weight.shape)}, (x,))
        return functional.cross_entropy(scores, labels)

    return torch.autograd.functional.hessian(loss, weight.reshape(-1)).double()


def observed(module: nn.Module, batches: list[Tensor], need: HessianSpectrum, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    model = open_model(module, {"x": batches[0]})
    found = dict(model.observe((need,), [{"x": batch} for batch in batches], seed=seed))
    return {name: observation[need] for name, observation in found.items() if need in observation}


def test_small_layers_give_every_eigenvalue() -> None:
    module, batches = classifier(), [inputs(6, 1, 3, 3), inputs(6, 1, 3, 3, seed=6)]
    need = HessianSpectrum(nodes=30, batches=2)
    for name, (values, counts) in observed(module, batches, need).items():
        assert values.shape == counts.shape == (2, 30) and values.dtype == torch.float64
        for b, x in enumerate(batches):
            exact = torch.linalg.eigvalsh(whole_hessian(module, x, f"{name}.weight"))
            assert torch.equal(counts[b], (torch.arange(30) < len(exact)).double())
            assert torch.allclose(values[b, : len(exact)], exact, atol=1e-6)


def test_wide_layers_give_the_ends_and_the_trace() -> None:
    module, x = classifier(), inputs(20, 1, 3, 3)
    exact = torch.linalg.eigvalsh(whole_hessian(module, x, "3.weight"))
    found = [observed(module, [x], HessianSpectrum(nodes=12, batches=1), seed=s)["3"] for s in range(60)]
    for values, counts in found:
        assert float(counts.sum()) == pytest.approx(24.0)
        assert float(values.max()) == pytest.approx(float(exact[-1]), rel=1e-3)
        assert float(values.min()) >= float(exact[0]) - 1e-6
    traces = torch.stack([(values * counts).sum() for values, counts in found])
    assert abs(float(traces.mean() - exact.sum())) < 4 * float(traces.std()) / 60**0.5


def test_a_linear_regression_has_the_moment_of_its_inputs() -> None:
    """Outputs that are no scores: half the squared distance to themselves is curved by E[x x^T] for every output."""
    x = inputs(50, 7, 4)
    values, counts = observed(nn.Sequential(nn.Linear(4, 2)), [x], HessianSpectrum(nodes=8, batches=1))["0"]
    moment = torch.linalg.eigvalsh(torch.einsum("nti,ntj->ij", x, x).double() / 50)
    assert torch.allclose(values[0], moment.repeat_interleave(2), rtol=1e-5)
    assert torch.equal(counts, torch.ones(1, 8, dtype=torch.float64))


def test_fewer_batches_than_asked_for_are_taken_as_they_are() -> None:
    values, _ = observed(classifier(), [inputs(6, 1, 3, 3)], HessianSpectrum(nodes=5, batches=4))["0"]
    assert values.shape == (1, 5)


def test_it_is_seeded_and_leaves_the_module_alone() -> None:
    module, x = classifier(), inputs(6, 1, 3, 3)
    module[0].weight.requires_grad_(False)
    model, need = open_model(module, {"x": x}), HessianSpectrum(nodes=4, batches=1)
    asked = [p.requires_grad for p in model.module.parameters()]
    first, again, other = (dict(model.observe((need,), [{"x": x}], seed=s))["3"][need][0] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert [p.requires_grad for p in model.module.parameters()] == asked
    assert all(p.grad is None for p in model.module.parameters())


def test_attention_has_second_derivatives() -> None:
    module = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    found = observed(module, [inputs(3, 5, 8)], HessianSpectrum(nodes=4, batches=1))
    assert all(bool(torch.isfinite(values).all()) for values, _ in found.values()) and "linear1" in found


def test_measures_read_it() -> None:
    model = open_model(classifier(), {"x": inputs(6, 1, 3, 3)})
    measures = (HessianTrace(nodes=10, batches=3), SharpnessDimension(rate=0.5, nodes=10, batches=3))
    batches = [{"x": inputs(6, 1, 3, 3, seed=s)} for s in range(3)]
    for name, observation in model.observe(measures[0].needs, batches):
        size = observation.layer.weights
        trace, dimension = (measure(observation) for measure in measures)
        exact = [whole_hessian(model.module, batch["x"], f"{name}.weight").trace() / size for batch in batches]
        if size <= 10:
            assert trace.value == pytest.approx(float(torch.stack(exact).mean()), rel=1e-4)
        assert trace.valid and dimension.valid and 0 <= dimension.value <= size == dimension.n


def test_missing_and_misfitting_data_are_named() -> None:
    model = open_model(classifier(), {"x": inputs(2, 1, 3, 3)})
    with pytest.raises(InvalidRequest, match="needs calibration data"):
        list(model.observe((HessianSpectrum(),), []))
    with pytest.raises(InvalidRequest, match="can't run on a calibration batch"):
        list(model.observe((HessianSpectrum(),), [{"x": inputs(2, 4, 3, 3)}]))


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_as_many_steps_as_dimensions_give_all_eigenvalues(n: int) -> None:
    matrix = inputs(n, n).double()
    matrix = matrix + matrix.mT
    nodes, weights = lanczos(lambda v: matrix @ v, torch.ones(n, dtype=torch.float64), n)
    assert torch.allclose(nodes, torch.linalg.eigvalsh(matrix), atol=1e-8)
    assert float(weights.sum()) == pytest.approx(1.0)


def test_the_quadrature_is_exact_for_polynomials_and_stops_when_the_space_is_exhausted() -> None:
    diagonal = torch.linspace(-1, 3, 100, dtype=torch.float64)
    start = inputs(100).double()
    nodes, weights = lanczos(lambda v: diagonal * v, start, 6)
    share = start.square() / start.square().sum()
    for degree in range(12):  # Gauss: degree 2 * 6 - 1
        assert float((weights * nodes**degree).sum()) == pytest.approx(float((share * diagonal**degree).sum()), rel=1e-9)
    two = torch.tensor([2.0] * 50 + [5.0] * 50, dtype=torch.float64)
    nodes, weights = lanczos(lambda v: two * v, torch.ones(100, dtype=torch.float64), 20)
    assert torch.allclose(nodes, torch.tensor([2.0, 5.0], dtype=torch.float64))
    assert torch.allclose(weights, torch.tensor([0.5, 0.5], dtype=torch.float64))
    zero, _ = lanczos(torch.zeros_like, torch.ones(7, dtype=torch.float64), 5)
    assert zero.tolist() == [0.0]


def test_the_loss_of_integers_is_nothing() -> None:
    assert float(own_loss([torch.arange(3)])) == 0.0
