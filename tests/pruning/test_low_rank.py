"""Low-rank factors against the truncated singular value decomposition in the inputs' metric, and their scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dyncompress.errors import InvalidRequest
from dyncompress.pruning.low_rank import factor_product, factors, inner_moment


def problem(out: int, fan_in: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight, and the moment of inputs of very unequal power."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(3 * fan_in, fan_in, generator=generator) / torch.arange(1, fan_in + 1)
    return torch.randn(out, fan_in, generator=generator), (inputs.T @ inputs / len(inputs)).double()


def output_error(weight: Tensor, product: Tensor, moment: Tensor) -> float:
    """E|(W - W') x|^2."""
    error = weight.double().flatten(1) - product.double().flatten(1)
    return float((error @ moment * error).sum())


@pytest.mark.parametrize(("out", "fan_in"), [(12, 20), (20, 12), (8, 8)])
def test_no_rank_r_weight_has_a_smaller_error(out: int, fan_in: int) -> None:
    """Eckart and Young: the tail of the spectrum of W S^1/2, by its own decomposition."""
    weight, moment = problem(out, fan_in)
    values, vectors = torch.linalg.eigh(moment)
    root = vectors * values.clamp(min=0).sqrt()
    spectrum = torch.linalg.svdvals(weight.double() @ root)
    for rank, (inner, outer) in zip((1, 3, 7), factors(weight, moment, (1, 3, 7)), strict=True):
        assert output_error(weight, factor_product(inner, outer), moment) == pytest.approx(
            float(spectrum[rank:].square().sum()), rel=1e-4
        )
        u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
        plain = (u[:, :rank] * s[:rank]) @ v[:rank]
        assert output_error(weight, factor_product(inner, outer), moment) < output_error(weight, plain, moment)


def test_without_a_moment_it_is_the_plain_decomposition() -> None:
    weight, _ = problem(10, 14)
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    ((inner, outer),) = factors(weight, None, (4,))
    torch.testing.assert_close(factor_product(inner, outer), (u[:, :4] * s[:4]) @ v[:4], rtol=0, atol=1e-5)


def test_full_rank_is_exact_and_shapes_are_those_of_two_layers() -> None:
    weight = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    _, moment = problem(6, 27)
    ((inner, outer),) = factors(weight, moment, (6,))
    assert inner.shape == (6, 3, 3, 3) and outer.shape == (6, 6)
    torch.testing.assert_close(factor_product(inner, outer).float(), weight, rtol=1e-4, atol=1e-4)


def test_inner_outputs_have_power_one_and_are_uncorrelated() -> None:
    weight, moment = problem(12, 20)
    ((inner, _),) = factors(weight, moment, (5,))
    torch.testing.assert_close(inner_moment(inner, moment[None])[0], torch.eye(5).double(), rtol=0, atol=1e-4)


def test_no_gain_of_an_output_lowers_the_error() -> None:
    weight, moment = problem(12, 20)
    ((inner, outer),) = factors(weight, moment, (3,))
    product = factor_product(inner, outer)
    own, cross = ((product @ moment) * product).sum(1), ((product @ moment) * weight.double()).sum(1)
    torch.testing.assert_close(cross / own, torch.ones(12).double(), rtol=1e-5, atol=1e-5)


def test_degenerate_weights_stay_finite() -> None:
    zero, thin = torch.zeros(4, 6), torch.ones(4, 6)
    for weight in (zero, thin):
        ((inner, outer),) = factors(weight, None, (3,))
        assert inner.isfinite().all() and outer.isfinite().all()
        torch.testing.assert_close(factor_product(inner, outer).float(), weight, rtol=0, atol=1e-4)
    before = thin.clone()
    factors(thin, None, (1,))
    assert torch.equal(thin, before)


@pytest.mark.parametrize("rank", [0, 5])
def test_impossible_ranks_are_refused(rank: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"low_rank: rank {rank} of a 4 x 6 weight; give 1 to 4"):
        factors(torch.ones(4, 6), None, (rank,))
